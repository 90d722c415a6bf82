"""What measuring again changes: the noise that no margin may be near."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from saebench.properties.base import MetricSpec
from saebench.statistics.bootstrap import Table
from saebench.statistics.linear import influences


def rerun_noise(specs: Iterable[MetricSpec], one: Any, two: Any) -> Mapping[str, float]:
    """Return by how much each metric differs between two measurements of the same sequences.

    The two take batches of other sizes, and so other matrix kernels: sums differ in their last
    bits, and a comparison of two nearly equal numbers may turn over. Differences of sequences may
    cancel by luck; what is returned is the larger of the metric's difference and of its standard
    deviation over sequences. Of fewer sequences than a run has it is rather too large.

    Args:
        specs: the metrics; those that are no formula of sums are left out.
        one: a measurement.
        two: another.
    """
    tables = [each.table() for each in (one, two)]
    found = {}
    for spec in specs:
        used = (*spec.channels, spec.counts)
        if spec.formula is None or any(c not in table for c in used for table in tables):
            continue
        noise = _noise(spec, *({c: table[c] for c in used} for table in tables))
        if np.isfinite(noise):
            found[spec.name] = noise
    return found


def _noise(spec: MetricSpec, one: Table, two: Table) -> float:
    assert spec.formula is not None
    with np.errstate(all="ignore"):
        before, after = (
            float(spec.formula({c: np.asarray(v.sum()) for c, v in table.items()}))
            for table in (one, two)
        )
        apart = influences(spec.formula, two) - influences(spec.formula, one)
    return max(abs(after - before), float(np.sqrt(np.sum(np.square(apart)))))
