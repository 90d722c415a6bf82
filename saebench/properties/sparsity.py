"""Sparsity: how many features fire, how strongly, and whether they are a dictionary.

Source: docs/metrics.md (sparsity).
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from saebench.measures.names import DENSE, DICTIONARY
from saebench.properties.base import (
    Findings,
    MetricSpec,
    Params,
    Property,
    evaluate,
    mean_of,
    plain,
)
from saebench.records.metric import Direction, Metric

if TYPE_CHECKING:
    from saebench.statistics.bootstrap import Formula
    from saebench.substitution.measurement import Measurement

L0 = MetricSpec("sparsity.l0", "features", Direction.LOWER, mean_of("l0"), ("l0",))
DENSE_SHARE = MetricSpec("sparsity.dense_share", "share", Direction.LOWER, mean_of(DENSE), (DENSE,))
L1 = MetricSpec("sparsity.l1", "Σ|f|", Direction.LOWER, mean_of("l1"), ("l1",))
L1_UNIT = MetricSpec(
    "sparsity.l1_unit_decoder", "Σ|f|·‖d‖", Direction.LOWER, mean_of("l1_unit"), ("l1_unit",)
)
DEAD = MetricSpec("sparsity.dead", "share", Direction.LOWER, None)
ALONE, REPEATED = "mass.one_sequence", "mass.duplicated"
ALONG, OUTPUT = "output.along_strongest", "output.energy"


def _share(part: str, whole: str) -> "Formula":
    return lambda sums: sums[part] / sums[whole]


def _of_mass(name: str, channel: str, *, mass: str) -> MetricSpec:
    """Return the share of the activation mass that some features carry."""
    name = f"sparsity.{name}"
    return MetricSpec(name, "share", Direction.LOWER, _share(channel, mass), (channel, mass))


ONE_SEQUENCE = _of_mass("one_sequence_mass", ALONE, mass="l1_unit")
DUPLICATE = _of_mass("duplicate_mass", REPEATED, mass="l1_unit")
STRONGEST = MetricSpec(
    "sparsity.strongest_direction", "share", Direction.LOWER, _share(ALONG, OUTPUT),
    (ALONG, OUTPUT),
)  # fmt: skip
BINS_PER_DECADE = 4
LOWEST_EXPONENT = -8
FREQUENT = (0.01, 0.1)  # densities above which other tools count features


def _interventions(_: Params) -> tuple[str, ...]:
    return ()


def _findings(measurement: "Measurement", _: Params) -> Findings:
    metrics = [evaluate(spec, measurement) for spec in (L0, DENSE_SHARE, L1)]
    if "l1_unit" in measurement.table():
        metrics.append(evaluate(L1_UNIT, measurement))
    metrics.append(plain(DEAD, measurement, float(np.mean(measurement.fired == 0))))
    if measurement.dictionary is not None:
        metrics += _health(measurement)
    return Findings(tuple(metrics), _series(measurement))


def _health(measurement: "Measurement") -> Iterator[Metric]:
    """Yield the shares of the activation mass, and of the output, that few features carry."""
    table = measurement.table()
    without = None if "l1_unit" in table else "undefined: the SAE has no decoder matrix"
    alone = ONE_SEQUENCE if without is None else _of_mass("one_sequence_mass", ALONE, mass="l1")
    yield evaluate(alone, measurement)
    for spec in (DUPLICATE, STRONGEST):
        note = without if spec is DUPLICATE else _no_direction(measurement)
        if note is None:
            yield evaluate(spec, measurement)
        else:
            yield plain(spec, measurement, None, note=note)


def _no_direction(measurement: "Measurement") -> str | None:
    if ALONG in measurement.table():
        return None
    return (
        "undefined: the SAE has no decoder matrix, or its output without any feature differs from "
        "token to token"
    )


def _series(measurement: "Measurement") -> dict[str, Any]:
    """Return l0 by position, and a histogram of the features' firing densities."""
    density = measurement.fired[measurement.fired > 0] / measurement.sums.total("n.scored")
    bins = -LOWEST_EXPONENT * BINS_PER_DECADE
    edges = 10 ** np.linspace(LOWEST_EXPONENT, 0, bins + 1)
    counts = np.histogram(np.clip(density, edges[0], edges[-1]), bins=edges)[0]
    return {
        "l0_by_position": measurement.sums.curve("l0", per="n.scored"),
        "density_histogram": {
            "edges": edges.tolist(),
            "counts": counts.tolist(),
            "dead": int((measurement.fired == 0).sum()),
        },
        "frequent": {f"{limit:g}": _above(measurement, limit) for limit in FREQUENT},
    }


def _above(measurement: "Measurement", limit: float) -> dict[str, float]:
    """Return the share of features with a density above the limit, and their share of firings."""
    density = measurement.fired / measurement.sums.total("n.scored")
    above = density > limit
    total = density.sum()
    return {
        "features": float(above.mean()),
        "firing": float(density[above].sum() / total) if total else 0.0,
    }


PROPERTY = Property(
    "sparsity",
    "features that fire for a token, and features that never fire",
    (L0, DENSE_SHARE, L1, L1_UNIT, DEAD, ONE_SEQUENCE, DUPLICATE, STRONGEST),
    _interventions,
    _findings,
    keeps=(DICTIONARY,),
)
