"""Hard tokens: when the SAE's error is worse than a random one (seed 002)."""

from collections.abc import Iterator
from typing import Any

from saebench.records.run import CaseResult
from saebench.report.charts import Axis, Cell, Chart, Figure, Form, Layer, Mark, Table, View
from saebench.report.queries import (
    NO_INTERVAL,
    Material,
    bars,
    cases_of,
    interval_of,
    sae_axis,
    size_of,
    with_series,
)
from saebench.report.sections import Section

GAP = "KL(SAE) − KL(ε-random), nats"
WHICH = ("largest gap", "middle", "smallest gap")


def _figures(material: Material) -> Iterator[Figure]:
    cases = cases_of(material.run, "hard_tokens")
    yield Figure(
        "hard-texts",
        "Texts, token by token",
        "Orange: the SAE is worse than noise of its own size there. Blue: it is better. The "
        "underline's thickness says how much. Dotted: not scored.",
        tuple(
            View(_text(text), sae, f"text {text['sequence']}, {which}")
            for sae, texts, _ in with_series(cases, "texts")
            for text, which in zip(texts, WHICH, strict=False)
        ),
    )
    yield Figure(
        "hard-correlations",
        "What goes with the gap",
        "Spearman's rank correlation of the gap with each property of a token.",
        (View(_correlations(cases)),) if any(case.metrics for case in cases) else (),
        main=True,
    )
    yield Figure(
        "hard-parts",
        "The gap by each property of a token",
        "Mean gap in each tenth of the tokens.",
        tuple(
            View(_part(what, part, case), sae, what)
            for sae, parts, case in with_series(cases, "gap_by_part")
            for what, part in parts.items()
        ),
    )


def _text(text: dict[str, Any]) -> Chart:
    layer = Layer("gap", Form.TEXT, text["tokens"], text["gap"])
    n = f"n = {sum(v is not None for v in text['gap'])} tokens of text {text['sequence']}"
    return Chart(Axis("token"), Axis(GAP), (layer,), n, "one text, no interval")


def _correlations(cases: list[CaseResult]) -> Chart:
    names = dict.fromkeys(m.name for case in cases for m in case.metrics)
    layers = tuple(
        bars(name.partition("[")[2].rstrip("]"), cases, name, form=Form.DOTS) for name in names
    )
    axes = sae_axis(cases), Axis("ρ")
    return Chart(*axes, layers, size_of(cases), interval_of(cases), (Mark("y", 0.0, ""),))


def _part(what: str, part: dict[str, Any], case: CaseResult) -> Chart:
    layer = Layer("gap", Form.LINE, part["mean"], part["gap"], key="sae")
    marks = (Mark("y", 0.0, "as bad as noise"),)
    return Chart(Axis(what), Axis(GAP), (layer,), size_of([case]), NO_INTERVAL, marks)


def _tables(material: Material) -> Iterator[Table]:
    cases = cases_of(material.run, "hard_tokens")
    found = [(sae, row) for sae, rows, _ in with_series(cases, "tokens") for row in rows]
    if found:
        yield Table(
            "hard-tokens-table",
            "The tokens with the highest mean gap",
            ("SAE", "token", "seen", "texts", "mean gap, nats", "95% CI", "sd"),
            tuple(_row(sae, row) for sae, row in found),
            tuple(sae for sae, _ in found),
            f"{size_of(cases)}; tokens seen at least 5 times; CI over the texts that hold them",
        )


def _row(sae: str, row: dict[str, Any]) -> tuple[str | Cell, ...]:
    ends = "–" if row["ci"] is None else f"[{row['ci'][0]:.3g}, {row['ci'][1]:.3g}]"
    return (
        sae,
        repr(row["token"]),
        Cell(str(row["count"]), row["count"]),
        Cell(str(row["sequences"]), row["sequences"]),
        Cell(f"{row['mean_gap']:.4g}", row["mean_gap"]),
        Cell(ends, row["ci"][0] if row["ci"] else None),
        Cell(f"{row['sd']:.3g}", row["sd"]),
    )


SECTION = Section(
    "hard_tokens",
    "Hard tokens",
    "At which tokens is the SAE worse than noise?",
    40,
    _figures,
    _tables,
)
