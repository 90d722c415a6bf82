"""KL gap: whether the SAE's error is worse than random errors of the same size.

Source: docs/metrics.md (kl_gap); Gurnee 2024, "SAE reconstruction errors are (empirically)
pathological".
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from saebench.errors import OptionError, nearest
from saebench.experiments.base import SEQUENCES, Experiment, OneToken
from saebench.measures.names import INTERVENTIONS, check_names
from saebench.properties.base import (
    Findings,
    MetricSpec,
    Params,
    Property,
    evaluate,
    mean_of,
    plain,
    position_of,
)
from saebench.records.run import Direction, Fallback, Metric

if TYPE_CHECKING:
    import numpy as np

    from saebench.options import Settings
    from saebench.statistics.bootstrap import Formula, Table
    from saebench.substitution.measurement import Measurement

LOWER = Direction.LOWER
BASELINES = tuple(name for name in INTERVENTIONS if name != "sae")
SCOPES = ("all", "single")
FLOOR = 1e-4  # nats; below it a ratio of KLs is dominated by noise
TAIL = 0.999


def _ratio(over: str, *, channel: str = "kl") -> "Formula":
    return lambda sums: sums[f"sae.{channel}"] / sums[f"{over}.{channel}"]


def _ce_ratio(over: str) -> "Formula":
    def formula(sums: "Table") -> "np.ndarray":
        return (sums["sae.ce"] - sums["clean.ce"]) / (sums[f"{over}.ce"] - sums["clean.ce"])

    return formula


def _difference(over: str) -> "Formula":
    return lambda sums: (sums["sae.kl"] - sums[f"{over}.kl"]) / sums["n.scored"]


def _of_baselines(
    name: str, unit: str, formula: "Callable[[str], Formula]", *channels: str, per: str = "n.scored"
) -> dict[str, MetricSpec]:
    return {
        b: MetricSpec(
            f"kl_gap.{name}[{b}]",
            unit,
            LOWER,
            formula(b),
            tuple(channel.format(b=b) for channel in channels),
            per,
        )
        for b in BASELINES
    }


RATIO = _of_baselines("ratio", "×", _ratio, "sae.kl", "{b}.kl")
DIFFERENCE = _of_baselines("difference", "nats", _difference, "sae.kl", "{b}.kl")
CE_RATIO = _of_baselines(
    "ce_ratio", "×", _ce_ratio, "sae.ce", "{b}.ce", "clean.ce", per="n.targets"
)
SHARE = _of_baselines("share_above", "share", lambda b: mean_of(f"{b}.exceeded"), "{b}.exceeded")
KL = {
    name: MetricSpec(f"kl_gap.kl[{name}]", "nats", LOWER, mean_of(f"{name}.kl"), (f"{name}.kl",))
    for name in INTERVENTIONS
}
P999 = {name: MetricSpec(f"kl_gap.kl_p99.9[{name}]", "nats", LOWER, None) for name in INTERVENTIONS}
EXPLAINED = MetricSpec(
    "kl_gap.explained_by_norm",
    "share",
    Direction.HIGHER,
    lambda sums: sums["sae_norm.kl"] / sums["sae.kl"],
    ("sae_norm.kl", "sae.kl"),
)


def chosen_baselines(params: Params) -> tuple[str, ...]:
    """Return the baselines that the parameter ``interventions`` names; all without it.

    Raises:
        OptionError: for a name that is not an intervention.
    """
    names = params.get("interventions") or INTERVENTIONS
    check_names(names)
    return tuple(b for b in BASELINES if b in names)


def _is_single(params: Params) -> bool:
    scope = params.get("scope", "all")
    if scope not in SCOPES:
        raise OptionError(f"kl_gap: unknown scope {scope!r}{nearest(str(scope), SCOPES)}")
    return scope == "single"


def _experiment(params: Params, settings: "Settings") -> Experiment:
    """All tokens substituted, or one of each sequence, with it and the next tokens scored."""
    return OneToken(position_of(params, settings.position)) if _is_single(params) else SEQUENCES


def _interventions(params: Params) -> tuple[str, ...]:
    _is_single(params)  # raises for an unknown scope
    return ("sae", *chosen_baselines(params))


def _findings(measurement: "Measurement", params: Params) -> Findings:
    names = _interventions(params)
    measurement.need(*names)
    metrics: list[Metric] = []
    for b in chosen_baselines(params):
        metrics += _against(b, measurement)
    for name in names:
        metrics.append(evaluate(KL[name], measurement))
        tail = measurement.sums.histograms[f"{name}.kl"].quantile(TAIL)
        metrics.append(plain(P999[name], measurement, tail))
    if "sae_norm" in names:
        metrics.append(_explained(measurement))
    by = "offset" if _is_single(params) else "position"
    return Findings(tuple(metrics), _series(measurement, names, by=by))


def _against(b: str, measurement: "Measurement") -> list[Metric]:
    sums = measurement.sums
    mean = sums.total(f"{b}.kl") / sums.total("n.scored")
    note = None
    if mean < FLOOR:
        note = f"undefined: the mean KL of {b} is {mean:.2g} nats, below {FLOOR:g}"
    fallback = Fallback(DIFFERENCE[b].name, FLOOR)
    return [
        evaluate(RATIO[b], measurement, note=note, fallback=fallback if note else None),
        evaluate(DIFFERENCE[b], measurement),
        evaluate(CE_RATIO[b], measurement, note=note or _no_ce_change(b, measurement)),
        evaluate(SHARE[b], measurement),
    ]


def _no_ce_change(b: str, measurement: "Measurement") -> str | None:
    sums = measurement.sums
    if not sums.total("n.targets"):
        return "undefined: the context ends here, no token has a next one to predict"
    change = (sums.total(f"{b}.ce") - sums.total("clean.ce")) / sums.total("n.targets")
    if change >= FLOOR:
        return None
    return f"undefined: {b} changes the mean CE by {change:.2g} nats, less than {FLOOR:g}"


def _explained(measurement: "Measurement") -> Metric:
    mean = measurement.sums.total("sae.kl") / measurement.sums.total("n.scored")
    note = None
    if mean < FLOOR:
        note = f"undefined: the SAE's mean KL is {mean:.2g} nats, below {FLOOR:g}"
    return evaluate(EXPLAINED, measurement, note=note)


def _series(measurement: "Measurement", names: tuple[str, ...], *, by: str) -> dict[str, Any]:
    """Return curves of KL and of the CE increase, and the KL histograms."""
    sums = measurement.sums
    histograms = {}
    for name in names:
        edges, counts = sums.histograms[f"{name}.kl"].coarse()
        histograms[name] = {"edges": edges, "counts": counts}
    clean = sums.curve("clean.ce", per="n.targets")
    changed = {name: sums.curve(f"{name}.ce", per="n.targets") for name in names}
    return {
        f"kl_by_{by}": {name: sums.curve(f"{name}.kl", per="n.scored") for name in names},
        f"ce_increase_by_{by}": {name: _rise(clean, curve) for name, curve in changed.items()},
        "kl_histogram": histograms,
    }


def _rise(clean: list[float | None], changed: list[float | None]) -> list[float | None]:
    pairs = zip(clean, changed, strict=True)
    return [None if a is None or b is None else b - a for a, b in pairs]


PROPERTY = Property(
    "kl_gap",
    "KL of the SAE's output against random substitutions that keep the error's size",
    tuple(
        spec for specs in (RATIO, DIFFERENCE, CE_RATIO, SHARE, KL, P999) for spec in specs.values()
    )
    + (EXPLAINED,),
    _interventions,
    _findings,
    experiment=_experiment,
    defaults=(("scope", "all"),),
    cases=tuple({"scope": scope} for scope in SCOPES),
)
