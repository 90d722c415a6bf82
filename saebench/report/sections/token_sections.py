"""Single tokens and hard tokens: one substitution alone, and where it is worse than noise.

Source:
    Gurnee 2024, "SAE reconstruction errors are (empirically) pathological".
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from saebench.records.case_result import CaseResult
from saebench.report.charts import (
    NO_INTERVAL,
    Axis,
    Chart,
    Figure,
    Form,
    Layer,
    Mark,
    View,
    by_sae,
    curve,
    size_of,
    steps,
    with_series,
)
from saebench.report.material import Material
from saebench.report.sections import Section
from saebench.report.tables import Table
from saebench.report.tables.run_tables import tokens_table

NATS = "KL, nats"
AT = {0: "at the substituted token", 1: "at the next token"}
Z_BINS = 40
Z_SHOWN = 20.0  # a few tokens reach hundreds, and would leave the rest in one bin
TEXT = 160  # last letters of the text before the token
GAP = "KL(SAE) − KL(ε-random), nats"
WHICH = ("largest gap", "middle", "smallest gap")


def _single_token(material: Material) -> Iterator[Figure]:
    offsets = material.run.cases_about("single_token", experiment="offsets")
    draws = material.run.cases_about("single_token", experiment="draws")
    yield Figure(
        "single-bars",
        "One token substituted",
        "Mean KL at that token and at the next, under each substitution of that token alone.",
        tuple(View(_bars(offsets, at), label=label) for at, label in AT.items() if offsets),
    )
    yield Figure(
        "single-offsets",
        "One token's substitution, and the next 16 positions",
        "Mean KL over documents. How fast the curves fall says how local the damage is.",
        tuple(
            View(_offsets(curves, case), sae)
            for sae, curves, case in with_series(offsets, "kl_by_offset")
        ),
        main=True,
    )
    yield Figure(
        "single-examples",
        "The 25 likeliest next tokens",
        "What the model says after a token, clean and with that token substituted. The examples "
        "range from a small KL under the SAE to the largest.",
        tuple(
            View(_example(example), sae, f"{i}. KL {example['kl'].get('sae', 0):.2g} nats")
            for sae, examples, _ in with_series(offsets, "examples")
            for i, example in enumerate(examples, 1)
        ),
    )
    yield Figure(
        "single-draws",
        "Random errors of one token, and the SAE's own",
        "KL of many ε-random substitutions of the same token. The line is the SAE's; z counts the "
        "standard deviations between it and the draws' mean.",
        tuple(
            View(_draws(token, case), sae, f"{i}. text {token['sequence']}")
            for sae, tokens, case in with_series(draws, "histograms")
            for i, token in enumerate(tokens, 1)
        ),
        main=True,
    )
    yield Figure(
        "single-z",
        "How far out the SAE's error is",
        "z of the SAE's KL among the random errors of the same token, over tokens. Right of 2 it "
        "is worse than noise would be by chance.",
        tuple(View(_z(z, case), sae) for sae, z, case in with_series(draws, "z")),
        main=True,
    )


def _bars(cases: list[CaseResult], at: int) -> Chart:
    names = dict.fromkeys(m.name for case in cases for m in case.metrics)
    chosen = [n for n in names if n.startswith("single_token.kl[") and f"@{at}]" in n]
    metrics = {name.partition("[")[2].partition("@")[0]: name for name in chosen}
    return by_sae(cases, Axis(NATS, log=True), metrics, form=Form.BARS)


def _offsets(curves: dict[str, Any], case: CaseResult) -> Chart:
    layers = tuple(curve(name, kl, faint=name != "sae") for name, kl in curves.items())
    axis = Axis(f"tokens after position {case.series['position']}")
    return Chart(axis, Axis(NATS, log=True), layers, size_of([case]), NO_INTERVAL)


def _example(example: dict[str, Any]) -> Chart:
    ranks = [f"{i}. {token}" for i, token in enumerate(example["tokens"], 1)]
    layers = tuple(
        Layer(
            name if name == "clean" else f"{name}, KL {example['kl'][name]:.3g}",
            Form.DOTS, ranks, values, key=name,
        )
        for name, values in example["probabilities"].items()
    )  # fmt: skip
    axis = Axis("next token", categories=tuple(ranks))
    read = f"After: “…{example['text'][-TEXT:]}”"
    where = f"n = 1 token: position {example['position']} of text {example['sequence']}"
    return Chart(
        axis, Axis("probability", log=True), layers, where, "one example, no interval", note=read
    )


def _draws(token: dict[str, Any], case: CaseResult) -> Chart:
    index = case.series["sequence"].index(token["sequence"])
    z = case.series["z"][index]
    z_text = "z undefined" if z is None else f"z = {z:.1f}"
    layer = steps("eps_random", token)
    mark = Mark("x", token["kl_sae"], f"SAE, {z_text}")
    n = f"n = {case.series['draws']} draws at position {case.series['position']}"
    return Chart(Axis(NATS), Axis("draws"), (layer,), n, "counts, no interval", (mark,))


def _z(z: list[float | None], case: CaseResult) -> Chart:
    values = [min(value, Z_SHOWN) for value in z if value is not None]
    beyond = f" ({Z_SHOWN:g} and more together)" if Z_SHOWN in values else ""
    edges, counts = histogram(values, bins=Z_BINS)
    marks = (Mark("x", 0.0, "the draws' mean"), Mark("x", 2.0, "z = 2"))
    n = f"n = {len(values)} tokens, {case.series['draws']} draws each"
    layer = Layer("sae", Form.STEPS, edges, counts)
    return Chart(Axis(f"z, σ{beyond}"), Axis("tokens"), (layer,), n, "counts, no interval", marks)


def histogram(values: list[float], *, bins: int) -> tuple[list[float], list[int]]:
    """Return the edges of equal bins and how many values are in each.

    Example:
        >>> histogram([0.0, 1.0, 2.0], bins=2)
        ([0.0, 1.0, 2.0], [1, 2])
    """
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    width = (high - low) / bins or 1.0
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value - low) / width))] += 1
    return [low + i * width for i in range(bins + 1)], counts


def _hard_tokens(material: Material) -> Iterator[Figure]:
    cases = material.run.cases_about("hard_tokens")
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
    metrics = {name.partition("[")[2].rstrip("]"): name for name in names}
    return by_sae(cases, Axis("ρ"), metrics, marks=(Mark("y", 0.0, ""),))


def _part(what: str, part: dict[str, Any], case: CaseResult) -> Chart:
    layer = Layer("gap", Form.LINE, part["mean"], part["gap"], key="sae")
    marks = (Mark("y", 0.0, "as bad as noise"),)
    return Chart(Axis(what), Axis(GAP), (layer,), size_of([case]), NO_INTERVAL, marks)


def _special_tokens(material: Material) -> Iterator[Figure]:
    cases = material.run.cases_about("special_tokens")
    yield Figure(
        "special-tokens-position",
        "Position 0 and special tokens substituted too",
        "KL by position with the usual tokens substituted, and with every token. Where the curves "
        "are far apart, the SAE's output must not replace these tokens' activations.",
        tuple(
            View(_by_mask(curves, case), sae)
            for sae, curves, case in with_series(cases, "kl_by_position")
        ),
    )


def _by_mask(curves: dict[str, Any], case: CaseResult) -> Chart:
    layers = tuple(curve(name, kl, faint=name == "usual") for name, kl in curves.items())
    axes = Axis("position"), Axis(NATS, log=True)
    return Chart(*axes, layers, size_of([case]), NO_INTERVAL)


def _hard_token_tables(material: Material) -> Iterator[Table]:
    cases = [case for case in material.run.cases_about("hard_tokens") if case.series.get("tokens")]
    if cases:
        note = f"{size_of(cases)}; tokens seen at least 5 times; CI over the texts that hold them"
        yield replace(tokens_table(cases), note=note)


SECTIONS = (
    Section(
        "single_token",
        "Single token",
        "What does one token's substitution do, and is it worse than chance?",
        30,
        _single_token,
    ),
    Section(
        "hard_tokens",
        "Hard tokens",
        "At which tokens is the SAE worse than noise?",
        40,
        _hard_tokens,
        _hard_token_tables,
    ),
    Section(
        "special_tokens",
        "Special tokens",
        "May the SAE be substituted at position 0 and special tokens?",
        45,
        _special_tokens,
    ),
)
