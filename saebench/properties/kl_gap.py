"""KL gap: whether the SAE's error is worse than random errors of the same size.

Source: docs/metrics.md (kl_gap); Gurnee 2024, "SAE reconstruction errors are (empirically)
pathological".
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from saebench.errors import OptionError, nearest
from saebench.experiments.base import SEQUENCES, Experiment, OneToken
from saebench.measures.names import (
    AT_ERROR_RADIUS,
    CURRENT_TOKEN,
    EXACT,
    INTERVENTIONS,
    check_names,
    is_pca,
)
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
from saebench.properties.fidelity import NO_CONTEXT, context_gain, no_gain
from saebench.records.metric import Direction, Fallback, Metric, Negligible

if TYPE_CHECKING:
    from saebench.options import Settings
    from saebench.statistics.bootstrap import Formula, Table
    from saebench.substitution.measurement import Measurement

LOWER = Direction.LOWER
BASELINES = tuple(name for name in INTERVENTIONS if name != "sae" and not is_pca(name))
DECIDING = AT_ERROR_RADIUS
SCOPES = ("all", "single")
FLOOR = 1e-4  # nats; below it a ratio of KLs is dominated by noise
TAIL = 0.999
NEGLIGIBLE = 0.01  # of what context gives the model: a ratio of two such KLs fails nothing


def _ratio(over: str) -> "Formula":
    return lambda sums: sums["sae.kl"] / sums[f"{over}.kl"]


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
            version=2,  # 2: the radius is that of the centred error
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
    name: MetricSpec(
        f"kl_gap.kl[{name}]", "nats", LOWER, mean_of(f"{name}.kl"), (f"{name}.kl",),
        version=2,
    )
    for name in ("sae", *BASELINES)
}  # fmt: skip
P999 = {
    name: MetricSpec(f"kl_gap.kl_p99.9[{name}]", "nats", LOWER, None, version=2)
    for name in ("sae", *BASELINES)
}
EXPLAINED = MetricSpec(
    "kl_gap.explained_by_norm",
    "share",
    Direction.HIGHER,
    lambda sums: sums["sae_norm.kl"] / sums["sae.kl"],
    ("sae_norm.kl", "sae.kl"),
)


def _share_of_context(sums: "Table") -> "np.ndarray":
    return sums["sae.kl"] / sums["n.scored"] / context_gain(sums)


SHARE_OF_CONTEXT = MetricSpec(
    "kl_gap.share_of_context", "share", LOWER, _share_of_context,
    ("sae.kl", "clean.ce", NO_CONTEXT, "n.targets"),
)  # fmt: skip
CONSTANT = MetricSpec(
    "kl_gap.constant_share", "share", LOWER,
    lambda sums: sums["error_along_mean"] / sums["squared_error"],
    ("error_along_mean", "squared_error"),
)  # fmt: skip
EXACT_SHARE = MetricSpec("kl_gap.exact_share", "share", Direction.HIGHER, mean_of(EXACT), (EXACT,))


def chosen_baselines(params: Params) -> tuple[str, ...]:
    """Return the baselines that the parameter ``interventions`` names; all without it.

    Those that decide are always among them.

    Raises:
        OptionError: for a name that is not an intervention.
    """
    names = params.get("interventions") or INTERVENTIONS
    check_names(names)
    return tuple(b for b in BASELINES if b in names or b in DECIDING)


def _is_single(params: Params) -> bool:
    scope = params.get("scope", "all")
    if scope not in SCOPES:
        raise OptionError(f"kl_gap: unknown scope {scope!r}{nearest(str(scope), SCOPES)}")
    return scope == "single"


def _experiment(params: Params, settings: "Settings") -> Experiment:
    """All tokens substituted, or one of each sequence, with it and the next tokens scored."""
    return OneToken(position_of(params, settings.position)) if _is_single(params) else SEQUENCES


def _interventions(params: Params) -> tuple[str, ...]:
    no_context = () if _is_single(params) else (CURRENT_TOKEN,)
    return ("sae", *chosen_baselines(params), *no_context)


def _findings(measurement: "Measurement", params: Params) -> Findings:
    names = ("sae", *chosen_baselines(params))
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
    if _is_single(params):
        return Findings(tuple(metrics), _series(measurement, names, by="offset"))
    metrics += [
        evaluate(SHARE_OF_CONTEXT, measurement, note=no_gain(measurement)),
        _constant_share(measurement),
        evaluate(EXACT_SHARE, measurement),
    ]
    series = _series(measurement, names, by="position")
    return Findings(
        tuple(metrics), series | {"sentences": _sentences(metrics) + _exact(measurement)}
    )


def _exact(measurement: "Measurement") -> list[str]:
    """Say where the SAE makes no error at all, so that no random one is compared with it."""
    exact, tokens = (int(measurement.sums.total(channel)) for channel in (EXACT, "n.scored"))
    if not exact:
        return []
    return [
        f"The SAE is exact at {exact:,} of {tokens:,} tokens: they count as tokens without an "
        "error, for it and for the random errors."
    ]


def _constant_share(measurement: "Measurement") -> Metric:
    exact = not measurement.sums.total("squared_error")
    note = "undefined: the SAE makes no error" if exact else None
    return evaluate(CONSTANT, measurement, note=note)


def _sentences(metrics: list[Metric]) -> list[str]:
    """Say which deciding baseline the SAE is worst against, and what a disagreement means."""
    ratios = {b: m for b in DECIDING for m in metrics if m.name == RATIO[b].name}
    values = {b: m.value for b, m in ratios.items() if m.value is not None}
    if len(values) < 2:
        return []
    worst, best = max(values, key=values.__getitem__), min(values, key=values.__getitem__)
    said = [f"Of the random errors the SAE is worst against {worst}: {values[worst]:.3g} ×."]
    if values[worst] > DISAGREE * max(1.0, values[best]):
        more = "hardly more than" if values[best] > 1 else "no more than"
        said.append(
            f"Against {best} it is {values[best]:.3g} ×: the model reacts to its errors more than "
            f"to {worst} errors of the same size, and {more} to {best} errors. Errors along "
            "directions in which activations vary change predictions more than isotropic noise "
            "does, whatever made them (Lee & Heimersheim 2024)."
        )
    return said


DISAGREE = 1.5


def _against(b: str, measurement: "Measurement") -> list[Metric]:
    sums = measurement.sums
    mean = sums.total(f"{b}.kl") / sums.total("n.scored")
    note = None
    if mean < FLOOR:
        note = f"undefined: the mean KL of {b} is {mean:.2g} nats, below {FLOOR:g}"
    declared: dict[str, Any] = {"negligible": Negligible(SHARE_OF_CONTEXT.name, NEGLIGIBLE)}
    if note:
        declared["fallback"] = Fallback(DIFFERENCE[b].name, FLOOR)
    return [
        evaluate(RATIO[b], measurement, note=note, **declared),
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
    + (EXPLAINED, SHARE_OF_CONTEXT, CONSTANT, EXACT_SHARE),
    _interventions,
    _findings,
    experiment=_experiment,
    defaults=(("scope", "all"),),
    cases=tuple({"scope": scope} for scope in SCOPES),
)
