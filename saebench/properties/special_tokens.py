"""Special tokens: the KL where they are substituted too, and activations of extreme size."""

from typing import TYPE_CHECKING, Any

from saebench.experiments.base import Everywhere
from saebench.properties.base import Findings, MetricSpec, Params, Property, evaluate, mean_of
from saebench.properties.fidelity import explained_variance
from saebench.properties.kl_gap import FLOOR
from saebench.records.metric import Direction, Metric

if TYPE_CHECKING:
    import numpy as np

    from saebench.experiments.everywhere import EverywhereMeasurement
    from saebench.statistics.bootstrap import Table

MUCH_WORSE = 10.0


def _ratio(sums: "Table") -> "np.ndarray":
    return sums["everywhere.kl"] / sums["usual.kl"]


def _without_sinks(sums: "Table") -> "np.ndarray":
    return 1 - sums["rest.squared_error"] / sums["rest.squared_deviation"]


LOWER, HIGHER = Direction.LOWER, Direction.HIGHER
KL = MetricSpec("special_tokens.kl", "nats", LOWER, mean_of("everywhere.kl"), ("everywhere.kl",))
RATIO = MetricSpec("special_tokens.kl_ratio", "×", LOWER, _ratio, ("everywhere.kl", "usual.kl"))
SINKS = MetricSpec("special_tokens.sinks", "share", LOWER, mean_of("n.sinks"), ("n.sinks",))
EXPLAINED = MetricSpec(
    "special_tokens.explained_variance",
    "share",
    HIGHER,
    explained_variance,
    ("squared_error", "squared_deviation"),
)
WITHOUT_SINKS = MetricSpec(
    "special_tokens.explained_variance_without_sinks",
    "share",
    HIGHER,
    _without_sinks,
    ("rest.squared_error", "rest.squared_deviation"),
    "n.rest",
)


def _interventions(_: Params) -> tuple[str, ...]:
    return ()


def _findings(measurement: "EverywhereMeasurement", _: Params) -> Findings:
    measurement.need()
    sums = measurement.sums
    scored = sums.total("n.scored")
    usual, everywhere = (sums.total(f"{mask}.kl") / scored for mask in ("usual", "everywhere"))
    below = usual < FLOOR
    note = f"undefined: the KL of the usual tokens is {usual:.2g} nats, below {FLOOR:g}"
    metrics: tuple[Metric, ...] = (
        evaluate(KL, measurement),
        evaluate(RATIO, measurement, note=note if below else None),
        *(evaluate(spec, measurement) for spec in (SINKS, EXPLAINED, WITHOUT_SINKS)),
    )
    series: dict[str, Any] = {
        "kl_usual": usual,
        "kl_by_position": {
            mask: sums.curve(f"{mask}.kl", per="n.scored") for mask in ("usual", "everywhere")
        },
        "path": measurement.path,
    }
    if everywhere >= MUCH_WORSE * max(usual, FLOOR):
        series["sentences"] = [_warning(usual, everywhere)]
    return Findings(metrics, series)


def _warning(usual: float, everywhere: float) -> str:
    times = f", {everywhere / usual:.3g} times as much" if usual >= FLOOR else ""
    return (
        "this SAE must not be substituted at position 0 and special tokens: the KL at all other "
        f"tokens is then {everywhere:.3g} nats instead of {usual:.3g}{times}; many users' code "
        "substitutes everywhere"
    )


PROPERTY = Property(
    "special_tokens",
    "the KL where position 0 and special tokens are substituted too, and activation sinks",
    (KL, RATIO, SINKS, EXPLAINED, WITHOUT_SINKS),
    _interventions,
    _findings,
    experiment=Everywhere(),
)
