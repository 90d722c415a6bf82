"""Sparsity: how many features fire, how strongly, and how many never do."""

from typing import TYPE_CHECKING, Any

import numpy as np

from saebench.properties.base import (
    Findings,
    MetricSpec,
    Params,
    Property,
    evaluate,
    mean_of,
    plain,
)
from saebench.records.run import Direction

if TYPE_CHECKING:
    from saebench.substitution.measurement import Measurement

L0 = MetricSpec("sparsity.l0", "features", Direction.LOWER, mean_of("l0"), ("l0",))
L1 = MetricSpec("sparsity.l1", "Σ|f|", Direction.LOWER, mean_of("l1"), ("l1",))
L1_UNIT = MetricSpec(
    "sparsity.l1_unit_decoder", "Σ|f|·‖d‖", Direction.LOWER, mean_of("l1_unit"), ("l1_unit",)
)
DEAD = MetricSpec("sparsity.dead", "share", Direction.LOWER, None)
BINS_PER_DECADE = 4
LOWEST_EXPONENT = -8
FREQUENT = (0.01, 0.1)  # densities above which other tools count features


def _interventions(_: Params) -> tuple[str, ...]:
    return ()


def _findings(measurement: "Measurement", _: Params) -> Findings:
    metrics = [evaluate(spec, measurement) for spec in (L0, L1)]
    if "l1_unit" in measurement.table():
        metrics.append(evaluate(L1_UNIT, measurement))
    metrics.append(plain(DEAD, measurement, float(np.mean(measurement.fired == 0))))
    return Findings(tuple(metrics), _series(measurement))


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
    (L0, L1, L1_UNIT, DEAD),
    _interventions,
    _findings,
)
