"""KL gap: the SAE's error against random errors of the same size (seeds 000, 002)."""

from collections.abc import Iterator
from typing import Any

from saebench.records.run import CaseResult
from saebench.report.charts import Axis, Chart, Figure, Form, Layer, Mark, View
from saebench.report.queries import (
    NO_INTERVAL,
    Material,
    bars,
    cases_of,
    interval_of,
    metric_of,
    sae_axis,
    size_of,
    with_series,
)
from saebench.report.sections import Section

SCOPES = {"all": "all tokens substituted", "single": "one token substituted"}
NATS = "KL, nats"
ABLATIONS = ("zero", "mean")  # a hundred times the rest


def _figures(material: Material) -> Iterator[Figure]:
    by_scope = {scope: cases_of(material.run, "kl_gap", scope=scope) for scope in SCOPES}
    found = {scope: cases for scope, cases in by_scope.items() if any(c.metrics for c in cases)}
    if not found:
        return
    yield Figure(
        "kl-of-interventions",
        "KL of every intervention",
        "Mean KL of the model's predictions under each substitution. An SAE whose bar stands above "
        "ε-random hurts more than noise of its own size.",
        tuple(View(_kl(cases), label=SCOPES[scope]) for scope, cases in found.items()),
        main=True,
        wide=True,
    )
    yield Figure(
        "kl-ratio",
        "How many times worse than each random error",
        "KL under the SAE over KL under a random error of the same size. 1 is as bad as noise.",
        tuple(View(_ratio(cases), label=SCOPES[scope]) for scope, cases in found.items()),
        main=True,
        wide=True,
    )
    everywhere = found.get("all", [])
    yield Figure(
        "kl-histogram",
        "KL token by token",
        "Tokens by their KL, both axes logarithmic. Dashed lines: the 99.9th percentile.",
        tuple(
            View(_histogram(shown, case), sae)
            for sae, shown, case in with_series(everywhere, "kl_histogram")
        ),
        main=True,
    )
    for series, title in (("kl", "KL by position"), ("ce_increase", "CE increase by position")):
        yield Figure(
            f"{series.replace('_', '-')}-by-position",
            title,
            "Means over documents at each position of the context, for every substitution.",
            tuple(
                View(_curves(shown, case, log=series == "kl"), sae)
                for sae, shown, case in with_series(everywhere, f"{series}_by_position")
            ),
            main=series == "kl",
        )


def _names(cases: list[CaseResult], prefix: str) -> list[str]:
    """Return the names in brackets of the metrics with a prefix, in the order of the results."""
    found = (m.name for case in cases for m in case.metrics if m.name.startswith(f"{prefix}["))
    return list(dict.fromkeys(name[len(prefix) + 1 : -1] for name in found))


def _kl(cases: list[CaseResult]) -> Chart:
    names = _names(cases, "kl_gap.kl")
    layers = tuple(bars(name, cases, f"kl_gap.kl[{name}]") for name in names)
    axis = Axis(NATS, log=True)
    return Chart(sae_axis(cases), axis, layers, size_of(cases), interval_of(cases))


def _ratio(cases: list[CaseResult]) -> Chart:
    names = [name for name in _names(cases, "kl_gap.ratio") if name not in ABLATIONS]
    layers = tuple(bars(n, cases, f"kl_gap.ratio[{n}]", form=Form.DOTS) for n in names)
    return Chart(
        sae_axis(cases),
        Axis("KL(SAE) / KL(random), ×", log=True),
        layers,
        size_of(cases),
        interval_of(cases),
        (Mark("y", 1.0, "as bad as noise"),),
    )


def _histogram(shown: dict[str, Any], case: CaseResult) -> Chart:
    chosen = [name for name in ("eps_random", "sae") if name in shown]
    layers = tuple(
        Layer(name, Form.STEPS, shown[name]["edges"], shown[name]["counts"]) for name in chosen
    )
    tails = [(name, metric_of(case, f"kl_gap.kl_p99.9[{name}]")) for name in chosen]
    marks = tuple(
        Mark("x", m.value, f"p99.9 {name}") for name, m in tails if m and m.value is not None
    )
    axes = Axis(NATS, log=True), Axis("tokens", log=True)
    return Chart(*axes, layers, size_of([case]), "counts, no interval", marks)


def _curves(shown: dict[str, Any], case: CaseResult, *, log: bool) -> Chart:
    layers = tuple(
        Layer(
            name,
            Form.LINE,
            list(range(len(curve))),
            curve,
            faint=name != "sae",
            aside=not log and name in ABLATIONS,
        )
        for name, curve in shown.items()
    )
    y = Axis(NATS if log else "CE increase, nats", log=log)
    return Chart(Axis("position"), y, layers, size_of([case]), NO_INTERVAL)


SECTION = Section(
    "kl_gap",
    "KL gap",
    "Is the SAE's error worse for the model than random errors of the same size?",
    20,
    _figures,
)
