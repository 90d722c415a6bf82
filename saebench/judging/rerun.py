"""What measuring again changes: the noise that no margin may be near."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from saebench.errors import MeasurementError, NotApplicable
from saebench.properties.base import MetricSpec, Params, Property
from saebench.statistics.bootstrap import Table
from saebench.statistics.linear import influences


def rerun_noise(declared: Property, params: Params, one: Any, two: Any) -> Mapping[str, float]:
    """Return by how much each metric differs between two measurements of the same sequences.

    The two take batches of other sizes, and so other matrix kernels: sums differ in their last
    bits, and a comparison of two nearly equal numbers may turn over. Differences of sequences may
    cancel by luck; what is returned is the larger of the metric's difference and of its standard
    deviation over sequences. Of fewer sequences than a run has it is rather too large. Of a metric
    that is no formula of sums, a median or a rank correlation, it is the difference alone.

    Args:
        declared: the property.
        params: the case's parameters.
        one: a measurement, among those of its peers where the property reads them too.
        two: another.
    """
    tables = [getattr(each, "own", each).table() for each in (one, two)]
    found = dict(_of_values(declared, params, one, two))
    for spec in declared.metrics:
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


def _of_values(declared: Property, params: Params, one: Any, two: Any) -> Mapping[str, float]:
    """Return how far apart the metrics are that are no formula of sums."""
    names = {spec.name for spec in declared.metrics if spec.formula is None}
    if not names:
        return {}
    try:
        before, after = (
            {m.name: m.value for m in declared.findings(each, params).metrics if m.name in names}
            for each in (one, two)
        )
    except (NotApplicable, MeasurementError):  # of so few sequences there is nothing to say
        return {}
    pairs = ((name, value, after.get(name)) for name, value in before.items())
    return {n: abs(b - a) for n, a, b in pairs if a is not None and b is not None}
