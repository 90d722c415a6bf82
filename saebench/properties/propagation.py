"""Propagation: how an earlier SAE's error affects a later SAE, and the model with both.

Source: docs/metrics.md (propagation); Anders & Bloom 2024, "Examining language model performance
with reconstructed activations using sparse autoencoders", "SAE Downstream Error Propagation";
Gurnee 2024, "SAE reconstruction errors are (empirically) pathological".
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from saebench.experiments.base import PAIRS
from saebench.properties.base import Findings, MetricSpec, Params, Property, evaluate
from saebench.records.metric import Direction, Metric

if TYPE_CHECKING:
    import numpy as np

    from saebench.statistics.bootstrap import Formula, Table
    from saebench.substitution.measurement import PairMeasurement

LOWER = Direction.LOWER
VERSIONS = ("sae", "eps_random")
FLOOR = 1e-4  # nats; below it a ratio of KLs is dominated by noise
QUANTITIES = {
    "mse_change": ("squared_error", LOWER, None),
    "l0_change": ("l0", Direction.TARGET, 0.0),
    "norm_change": ("norm", Direction.TARGET, 0.0),
}


def _change(channel: str) -> "Callable[[str], Formula]":
    """Return m_j(sub i)/m_j(clean) - 1, of sums over the same tokens."""
    return lambda v: lambda sums: sums[f"{v}.{channel}"] / sums[f"clean.{channel}"] - 1


def _compounding(version: str) -> "Formula":
    def formula(sums: "Table") -> "np.ndarray":
        alone = sums[f"{version}.kl_first"] + sums[f"{version}.kl_second"]
        return sums[f"{version}.kl_together"] / alone

    return formula


def _excess(version: str) -> "Formula":
    def formula(sums: "Table") -> "np.ndarray":
        alone = sums[f"{version}.kl_first"] + sums[f"{version}.kl_second"]
        return (sums[f"{version}.kl_together"] - alone) / sums["n.scored"]

    return formula


def _kl_channels(version: str) -> tuple[str, ...]:
    return tuple(f"{version}.kl_{which}" for which in ("first", "second", "together"))


def _spec(
    name: str,
    unit: str,
    formula: "Formula",
    *channels: str,
    direction: Direction = LOWER,
    target: float | None = None,
) -> MetricSpec:
    return MetricSpec(
        f"propagation.{name}", unit, direction, formula, channels, "n.scored", target=target
    )


CHANGES = {
    (name, v): _spec(
        f"{name}[{v}]", "fraction", _change(channel)(v), f"{v}.{channel}", f"clean.{channel}",
        direction=direction, target=target,
    )
    for name, (channel, direction, target) in QUANTITIES.items()
    for v in VERSIONS
}  # fmt: skip
COMPOUNDING = {
    v: _spec(f"compounding[{v}]", "×", _compounding(v), *_kl_channels(v)) for v in VERSIONS
}
EXCESS = {v: _spec(f"kl_excess[{v}]", "nats", _excess(v), *_kl_channels(v)) for v in VERSIONS}
TOGETHER = {
    v: _spec(
        f"kl_together[{v}]", "nats",
        lambda sums, v=v: sums[f"{v}.kl_together"] / sums["n.scored"], f"{v}.kl_together",
    )
    for v in VERSIONS
}  # fmt: skip
MORE = _spec(
    "compounding_difference",
    "×",
    lambda sums: _compounding("sae")(sums) - _compounding("eps_random")(sums),
    *(channel for v in VERSIONS for channel in _kl_channels(v)),
)


def _interventions(_: Params) -> tuple[str, ...]:
    return ()


def _findings(measurement: "PairMeasurement", _: Params) -> Findings:
    notes = {v: _undefined(measurement, v) for v in VERSIONS}
    metrics = [
        evaluate(spec, measurement, note=_no_clean(measurement, name))
        for (name, _), spec in CHANGES.items()
    ]
    for v in VERSIONS:
        metrics.append(evaluate(COMPOUNDING[v], measurement, note=notes[v]))
        metrics += [evaluate(spec[v], measurement) for spec in (EXCESS, TOGETHER)]
    note = next((note for note in notes.values() if note), None)
    metrics.append(evaluate(MORE, measurement, note=note))
    return Findings(tuple(metrics), _series(measurement, metrics))


def _no_clean(measurement: "PairMeasurement", name: str) -> str | None:
    """Return why a change relative to zero is undefined: the clean quantity is zero everywhere."""
    channel = f"clean.{QUANTITIES[name][0]}"
    zero = measurement.sums.total(channel) == 0
    return f"undefined: {channel} of {measurement.ids[1]} is zero everywhere" if zero else None


def _undefined(measurement: "PairMeasurement", version: str) -> str | None:
    total = measurement.sums.total
    alone = total(f"{version}.kl_first") + total(f"{version}.kl_second")
    mean = alone / total("n.scored")
    if mean >= FLOOR or mean != mean:
        return None
    return f"undefined: the two alone have a mean KL of {mean:.2g} nats, below {FLOOR:g}"


def _series(measurement: "PairMeasurement", metrics: list[Metric]) -> dict[str, Any]:
    """Return this pair's cell of each heat map, and the changes by position."""
    first, second = measurement.ids
    cell = {metric.name.removeprefix("propagation."): metric.value for metric in metrics}
    curve = measurement.sums.curve
    changes = {
        f"{name}_by_position": _ratios(
            curve(f"sae.{channel}", per="n.scored"), curve(f"clean.{channel}", per="n.scored")
        )
        for name, (channel, *_) in QUANTITIES.items()
    }
    return {
        "heat_map": {
            "row": first,
            "column": second,
            "row_hook": measurement.hooks[0],
            "column_hook": measurement.hooks[1],
            "cell": cell,
        },
        **changes,
    }


def _ratios(over: list[float | None], under: list[float | None]) -> list[float | None]:
    return [a / b - 1 if a is not None and b else None for a, b in zip(over, under, strict=True)]


PROPERTY = Property(
    "propagation",
    "a later SAE on activations that an earlier one has changed, and both together",
    (
        *CHANGES.values(),
        *COMPOUNDING.values(),
        *EXCESS.values(),
        *TOGETHER.values(),
        MORE,
    ),
    _interventions,
    _findings,
    PAIRS,
)
