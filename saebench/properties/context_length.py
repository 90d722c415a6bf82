"""How the SAE's faithfulness changes beyond the context that it was trained on.

Source: docs/metrics.md (context_length); Anders & Bloom 2024, "Examining language model performance
with reconstructed activations using sparse autoencoders".
"""

from typing import TYPE_CHECKING, Any

from saebench.experiments.base import LongTexts
from saebench.measures.names import in_bin
from saebench.properties.base import Findings, MetricSpec, Params, Property, evaluate
from saebench.records.run import Direction

if TYPE_CHECKING:
    import numpy as np

    from saebench.statistics.bootstrap import Formula, Table
    from saebench.substitution.measurement import Measurement

LOWER = Direction.LOWER
BINS = ("within", "C-2C", "2C-4C", "4C-8C")
SCORED, TARGETS = "n.scored", "n.targets"


def _within(sums: "Table", channel: str, per: str) -> "np.ndarray":
    return sums[in_bin(channel, 0)] / sums[in_bin(per, 0)]


def _beyond(sums: "Table", channel: str, per: str) -> "np.ndarray":
    total = sums[channel] - sums[in_bin(channel, 0)]
    return total / (sums[per] - sums[in_bin(per, 0)])


def _ce_rise(sums: "Table") -> "np.ndarray":
    beyond = _beyond(sums, "sae.ce", TARGETS) - _beyond(sums, "clean.ce", TARGETS)
    return beyond - (_within(sums, "sae.ce", TARGETS) - _within(sums, "clean.ce", TARGETS))


def _rise(channel: str) -> "Formula":
    return lambda sums: _beyond(sums, channel, SCORED) - _within(sums, channel, SCORED)


def _ratio(channel: str) -> "Formula":
    return lambda sums: _beyond(sums, channel, SCORED) / _within(sums, channel, SCORED)


def _ce_increase(i: int) -> "Formula":
    def formula(sums: "Table") -> "np.ndarray":
        rise = sums[in_bin("sae.ce", i)] - sums[in_bin("clean.ce", i)]
        return rise / sums[in_bin(TARGETS, i)]

    return formula


def _with_first_bin(*channels: str) -> tuple[str, ...]:
    return tuple(name for channel in channels for name in (channel, in_bin(channel, 0)))


OVERALL = (
    MetricSpec(
        "context_length.degradation",
        "nats",
        LOWER,
        _ce_rise,
        _with_first_bin("sae.ce", "clean.ce", TARGETS),
        TARGETS,
    ),
    MetricSpec(
        "context_length.kl_rise", "nats", LOWER, _rise("sae.kl"), _with_first_bin("sae.kl", SCORED)
    ),
    *(
        MetricSpec(
            f"context_length.{name}_ratio",
            "×",
            LOWER,
            _ratio(channel),
            _with_first_bin(channel, SCORED),
        )
        for name, channel in (("mse", "squared_error"), ("l0", "l0"), ("l1", "l1"))
    ),
)
BY_BIN = tuple(
    MetricSpec(
        f"context_length.ce_increase[{name}]",
        "nats",
        LOWER,
        _ce_increase(i),
        tuple(in_bin(channel, i) for channel in ("sae.ce", "clean.ce")),
        in_bin(TARGETS, i),
    )
    for i, name in enumerate(BINS)
)


def _interventions(_: Params) -> tuple[str, ...]:
    return ("sae",)


def _findings(measurement: "Measurement", _: Params) -> Findings:
    measurement.need("sae")
    by_bin = BY_BIN[: len(measurement.bins())]
    metrics = tuple(
        evaluate(spec, measurement, note=_undefined(spec, measurement))
        for spec in (*OVERALL, *by_bin)
    )
    return Findings(metrics, _series(measurement))


def _undefined(spec: MetricSpec, measurement: "Measurement") -> str | None:
    """Return why a ratio to zero is undefined: the quantity is zero within the context."""
    within = in_bin(spec.channels[0], 0)
    if spec.unit == "×" and measurement.table()[within].sum() == 0:
        return f"undefined: {spec.channels[0]} is zero within the training context"
    return None


def _series(measurement: "Measurement") -> dict[str, Any]:
    sums = measurement.sums
    curves = {
        f"{name}_by_position": sums.curve(channel, per=SCORED)
        for name, channel in (
            ("kl", "sae.kl"),
            ("l0", "l0"),
            ("l1", "l1"),
            ("mse", "squared_error"),
            ("norm", "norm"),
        )
    }
    for side in ("clean", "sae"):
        curves[f"ce_{side}_by_position"] = sums.curve(f"{side}.ce", per=TARGETS)
    return {"bins": [list(edges) for edges in measurement.bins()], **curves}


PROPERTY = Property(
    "context_length",
    "faithfulness beyond the context that the SAE was trained on",
    (*OVERALL, *BY_BIN),
    _interventions,
    _findings,
    LongTexts(),
)
