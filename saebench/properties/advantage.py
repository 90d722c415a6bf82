"""Advantage: how much more faithful the SAE is than PCA with as many active components.

PCA of the same sparsity is the best that a dictionary without training can do: at each token it
keeps as many principal components as the SAE has active features, those with the largest
coefficients. An SAE that is hardly more faithful has learned nothing that a rotation does not give.

Source: docs/metrics.md (advantage).
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from saebench.errors import OptionError, nearest
from saebench.experiments.base import SEQUENCES, Experiment, PrincipalComponents
from saebench.measures.names import RANDOM_DICTIONARY, SKIP_ONLY, components, components_of
from saebench.properties.base import (
    Findings,
    MetricSpec,
    Params,
    Property,
    estimated,
    evaluate,
    plain,
    size_of,
)
from saebench.records.metric import Direction, Metric, SampleSize
from saebench.records.verdict import Verdict
from saebench.statistics.bootstrap import by_percentiles, estimate
from saebench.statistics.clusters import chosen

if TYPE_CHECKING:
    from collections.abc import Iterable

    from saebench.options import Settings
    from saebench.statistics.bootstrap import Table
    from saebench.substitution.measurement import Measurement

LOWER, HIGHER = Direction.LOWER, Direction.HIGHER
FLOOR = 1e-4  # nats; the KL of components that leave nothing out is only rounding
PCA = "pca_matched"
MATCHED, CURVE = "matched", "curve"
KL_RATIO = MetricSpec(
    "advantage.kl_ratio", "×", LOWER, lambda sums: sums["sae.kl"] / sums[f"{PCA}.kl"],
    ("sae.kl", f"{PCA}.kl"),
)  # fmt: skip
FVU_RATIO = MetricSpec(
    "advantage.fvu_ratio", "×", LOWER,
    lambda sums: sums["squared_error"] / sums[f"{PCA}.squared_error"],
    ("squared_error", f"{PCA}.squared_error"),
)  # fmt: skip
KL_PCA = MetricSpec(
    "advantage.kl_pca", "nats", HIGHER, lambda sums: sums[f"{PCA}.kl"] / sums["n.scored"],
    (f"{PCA}.kl",),
)  # fmt: skip
SKIP_RATIO = MetricSpec(
    "advantage.skip_kl_ratio", "×", LOWER, lambda sums: sums["sae.kl"] / sums[f"{SKIP_ONLY}.kl"],
    ("sae.kl", f"{SKIP_ONLY}.kl"),
)  # fmt: skip
EQUIVALENT = MetricSpec("advantage.equivalent_components", "components", HIGHER, None)
EQUIVALENT_RATIO = MetricSpec("advantage.equivalent_ratio", "×", HIGHER, None)
RANDOM_RATIO = MetricSpec("advantage.random_dictionary_ratio", "×", LOWER, None)
OF_MATCHED = (KL_RATIO, FVU_RATIO, RANDOM_RATIO, KL_PCA)
OF_CURVE = (EQUIVALENT, EQUIVALENT_RATIO)


def _is_curve(params: Params) -> bool:
    k = params.get("k", MATCHED)
    if k not in (MATCHED, CURVE):
        raise OptionError(f"advantage: unknown k {k!r}{nearest(str(k), (MATCHED, CURVE))}")
    return k == CURVE


def _experiment(params: Params, _: "Settings") -> Experiment:
    return PrincipalComponents() if _is_curve(params) else SEQUENCES


def _interventions(params: Params) -> tuple[str, ...]:
    return ("sae",) if _is_curve(params) else ("sae", PCA, SKIP_ONLY)


def _reported(params: Params) -> "Iterable[MetricSpec]":
    return OF_CURVE if _is_curve(params) else (*OF_MATCHED, SKIP_RATIO)


def _findings(measurement: "Measurement", params: Params) -> Findings:
    return _of_curve(measurement) if _is_curve(params) else _of_matched(measurement)


def _of_matched(measurement: "Measurement") -> Findings:
    measurement.need("sae", PCA)
    sums = measurement.sums
    note = _no_sparser(measurement)
    # A transcoder's x̂ is not made of x's components: PCA of the output is a reference, no rival.
    decides = not measurement.transcodes
    declared = {"if_undefined": Verdict.FAIL, "decides": decides}
    metrics = [
        evaluate(KL_RATIO, measurement, note=note, **declared),
        evaluate(FVU_RATIO, measurement, note=note, **declared),
        _random_ratio(measurement, note=note, **declared),
        evaluate(KL_PCA, measurement),
    ]
    if SKIP_ONLY in measurement.interventions:
        metrics.append(_beyond_skip(measurement))
    curves = {name: sums.curve(f"{name}.kl", per="n.scored") for name in ("sae", PCA)}
    return Findings(tuple(metrics), {"kl_by_position": curves})


def _random_ratio(measurement: "Measurement", *, note: str | None, **declared: Any) -> Metric:
    """Return the squared error against that of sparse coding over random directions."""
    if measurement.pursuit is None:
        raise ValueError(f"{RANDOM_RATIO.name}: the measurement has no random dictionary")
    table = measurement.pursuit.by_text()
    n = SampleSize(len(table["n"]), int(table["n"].sum()))
    left = table["random"].sum()
    if note is None and not left:
        note = "undefined: random directions, as many as features are active, leave nothing out"
    result = estimate(lambda sums: sums["sae"] / sums["random"], table)
    return estimated(RANDOM_RATIO, result, n=n, note=note, **declared)


def _beyond_skip(measurement: "Measurement") -> Metric:
    """Return the KL against that of a skip transcoder's linear map alone."""
    mean = measurement.sums.total(f"{SKIP_ONLY}.kl") / measurement.sums.total("n.scored")
    note = None
    if mean < FLOOR:
        note = f"undefined: the skip path alone has a mean KL of {mean:.2g} nats, below {FLOOR:g}"
    return evaluate(SKIP_RATIO, measurement, note=note)


def _no_sparser(measurement: "Measurement") -> str | None:
    """Return why the ratios are undefined: so many components leave nothing out."""
    sums = measurement.sums
    mean = sums.total(f"{PCA}.kl") / sums.total("n.scored")
    if mean >= FLOOR:
        return None
    l0 = sums.total("l0") / sums.total("n.scored")
    return (
        f"undefined: {l0:.4g} principal components a token, as many as the SAE has active "
        f"features, change the predictions by {mean:.2g} nats, less than {FLOOR:g}: the SAE is no "
        "sparser than the activation itself"
    )


def _of_curve(measurement: "Measurement") -> Findings:
    grid = sorted(k for n in measurement.interventions if (k := components_of(n)) is not None)
    names = [components(k) for k in grid]
    measurement.need("sae", *names)
    table = measurement.table()
    channels = ("sae.kl", *(f"{name}.kl" for name in names))
    used = chosen(table, (*channels, "l0", "n.scored"))
    n = size_of(table, "n.scored")
    metrics: list[Metric] = [
        estimated(EQUIVALENT, by_percentiles(lambda sums: _equivalent(sums, grid), used), n=n),
        _equivalent_ratio(measurement, used, grid),
    ]
    scored = measurement.sums.total("n.scored")
    curve: dict[str, Any] = {
        "components": grid,
        "kl_pca": [measurement.sums.total(f"{name}.kl") / scored for name in names],
        "kl_sae": measurement.sums.total("sae.kl") / scored,
        "l0": measurement.sums.total("l0") / scored,
    }
    return Findings(tuple(metrics), {"curve": curve})


def _equivalent_ratio(measurement: "Measurement", used: "Table", grid: list[int]) -> Metric:
    n = size_of(measurement.table(), "n.scored")
    if not measurement.sums.total("l0"):
        note = "undefined: no feature is active"
        return plain(EQUIVALENT_RATIO, measurement, None, note=note)

    def ratio(sums: "Table") -> np.ndarray:
        return _equivalent(sums, grid) / (sums["l0"] / sums["n.scored"])

    return estimated(EQUIVALENT_RATIO, by_percentiles(ratio, used), n=n)


def _equivalent(sums: "Table", grid: list[int]) -> np.ndarray:
    """Return the number of components at which PCA's KL is the SAE's, on log scales.

    Below the first number of the grid it is that number, and above the last one the last.
    """
    least = 1e-12
    kl = [np.log(np.maximum(sums[f"{components(k)}.kl"], least)) for k in grid]
    own = np.log(np.maximum(sums["sae.kl"], least))
    log_k = np.log(grid)
    result = np.full(np.shape(own), log_k[0])
    for i in range(1, len(grid)):
        fall = np.maximum(kl[i - 1] - kl[i], 1e-9)
        share = np.clip((kl[i - 1] - own) / fall, 0.0, 1.0)
        result = np.where(own < kl[i - 1], log_k[i - 1] + share * (log_k[i] - log_k[i - 1]), result)
    return np.exp(result)


PROPERTY = Property(
    "advantage",
    "faithfulness against PCA with as many active components at each token",
    (*OF_MATCHED, SKIP_RATIO, *OF_CURVE),
    _interventions,
    _findings,
    experiment=_experiment,
    defaults=(("k", MATCHED),),
    keeps=(RANDOM_DICTIONARY,),
    cases=tuple({"k": k} for k in (MATCHED, CURVE)),
    reported=_reported,
)
