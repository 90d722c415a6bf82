"""Fidelity: how much the predictions change when the SAE's output replaces the activation."""

from typing import TYPE_CHECKING, Any

import numpy as np

from saebench.errors import NonFiniteValue
from saebench.measures.names import CURRENT_TOKEN
from saebench.properties.base import Findings, MetricSpec, Params, Property, evaluate, mean_of
from saebench.records.metric import Direction, Fallback, Metric

if TYPE_CHECKING:
    from saebench.statistics.bootstrap import Table
    from saebench.substitution.measurement import Measurement

LOWER, HIGHER = Direction.LOWER, Direction.HIGHER
NO_CONTEXT = f"{CURRENT_TOKEN}.ce"
LEAST_GAIN = 0.1  # nats that context must give for a share of them to mean anything


def _ce_increase(sums: "Table") -> np.ndarray:
    return (sums["sae.ce"] - sums["clean.ce"]) / sums["n.targets"]


def _kl_score(sums: "Table") -> np.ndarray:
    return (sums["zero.kl"] - sums["sae.kl"]) / sums["zero.kl"]


def _ce_score(sums: "Table") -> np.ndarray:
    return (sums["zero.ce"] - sums["sae.ce"]) / (sums["zero.ce"] - sums["clean.ce"])


def _context_recovered(sums: "Table") -> np.ndarray:
    return 1 - (sums["sae.ce"] - sums["clean.ce"]) / (sums[NO_CONTEXT] - sums["clean.ce"])


def context_gain(sums: "Table") -> np.ndarray:
    """Return the nats that the model gains from context: CE_1 - CE, over the scored tokens."""
    return (sums[NO_CONTEXT] - sums["clean.ce"]) / sums["n.targets"]


def explained_variance(sums: "Table") -> np.ndarray:
    """Return 1 - Σ‖e‖² / Σ‖x - x̄‖² of sums."""
    return 1 - sums["squared_error"] / sums["squared_deviation"]


CONTEXT_RECOVERED = MetricSpec(
    "fidelity.context_recovered",
    "share",
    HIGHER,
    _context_recovered,
    ("sae.ce", "clean.ce", NO_CONTEXT),
    "n.targets",
)
METRICS = (
    MetricSpec("fidelity.kl", "nats", LOWER, mean_of("sae.kl"), ("sae.kl",)),
    MetricSpec(
        "fidelity.ce_increase", "nats", LOWER, _ce_increase, ("sae.ce", "clean.ce"), "n.targets"
    ),
    MetricSpec("fidelity.kl_score", "share", HIGHER, _kl_score, ("zero.kl", "sae.kl")),
    MetricSpec(
        "fidelity.ce_score",
        "share",
        HIGHER,
        _ce_score,
        ("zero.ce", "sae.ce", "clean.ce"),
        "n.targets",
    ),
    MetricSpec("fidelity.top1_agreement", "share", HIGHER, mean_of("sae.agrees"), ("sae.agrees",)),
    MetricSpec("fidelity.tv", "share", LOWER, mean_of("sae.tv"), ("sae.tv",)),
    MetricSpec(
        "fidelity.explained_variance",
        "share",
        HIGHER,
        explained_variance,
        ("squared_error", "squared_deviation"),
    ),
    MetricSpec("fidelity.mse", "‖e‖²", LOWER, mean_of("squared_error"), ("squared_error",)),
    MetricSpec("fidelity.cosine", "cos", HIGHER, mean_of("cosine"), ("cosine",)),
)


def _interventions(_: Params) -> tuple[str, ...]:
    return ("sae", "zero", CURRENT_TOKEN)


def no_gain(measurement: "Measurement") -> str | None:
    """Return why a share of what context gives is undefined; None where it is defined."""
    channels = (NO_CONTEXT, "clean.ce", "n.targets")
    gain = context_gain({name: np.asarray(measurement.sums.total(name)) for name in channels})
    if gain >= LEAST_GAIN:
        return None
    return (
        f"undefined: context improves this model's cross-entropy by {gain:.2g} nats, less than "
        f"{LEAST_GAIN:g}"
    )


def _recovered(measurement: "Measurement") -> Metric:
    note = no_gain(measurement)
    # A share of context_recovered that may be lost is that share of the least gain in nats.
    fallback = Fallback("fidelity.ce_increase", -LEAST_GAIN) if note else None
    return evaluate(CONTEXT_RECOVERED, measurement, note=note, fallback=fallback)


def _findings(measurement: "Measurement", _: Params) -> Findings:
    measurement.need("sae", "zero")
    if not np.isfinite(measurement.sums.total("squared_error")):
        raise NonFiniteValue("the SAE's reconstructions are not finite on this data")
    others = tuple(evaluate(spec, measurement) for spec in METRICS)
    return Findings((_recovered(measurement), *others), _series(measurement))


def _series(measurement: "Measurement") -> dict[str, Any]:
    sums = measurement.sums
    clean = sums.curve("clean.ce", per="n.targets")
    changed = sums.curve("sae.ce", per="n.targets")
    return {
        "means": _means(measurement),
        "kl_by_position": sums.curve("sae.kl", per="n.scored"),
        "ce_clean_by_position": clean,
        "ce_sae_by_position": changed,
        "mse_by_position": sums.curve("squared_error", per="n.scored"),
    }


def _means(measurement: "Measurement") -> dict[str, float]:
    """Return the means that the scores are computed from, which other tools report."""
    sums = measurement.sums
    targets, scored = sums.total("n.targets"), sums.total("n.scored")
    names = ("clean", "sae", "zero", CURRENT_TOKEN)
    of_ce = {f"ce_{name}": sums.total(f"{name}.ce") / targets for name in names}
    # ‖x‖² = ‖x − x̂‖² + 2x·x̂ − ‖x̂‖² needs no channel of its own.
    squared = sums.total("squared_error") + 2 * sums.total("inner_product")
    squared -= sums.total("squared_output")
    means = {"kl_zero": sums.total("zero.kl"), "norm": sums.total("norm"), "squared_norm": squared}
    return of_ce | {name: total / scored for name, total in means.items()}


PROPERTY = Property(
    "fidelity",
    "predictions with the SAE's output in place of the activation, against the model's own",
    (CONTEXT_RECOVERED, *METRICS),
    _interventions,
    _findings,
)
