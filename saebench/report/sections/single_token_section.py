"""Single token: one substitution alone, and its place among random errors (seed 002)."""

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
    sae_axis,
    size_of,
    with_series,
)
from saebench.report.sections import Section

NATS = "KL, nats"
AT = {0: "at the substituted token", 1: "at the next token"}
Z_BINS = 40
Z_SHOWN = 20.0  # a few tokens reach hundreds, and would leave the rest in one bin
TEXT = 160  # letters of what the model has read


def _figures(material: Material) -> Iterator[Figure]:
    offsets = cases_of(material.run, "single_token", experiment="offsets")
    draws = cases_of(material.run, "single_token", experiment="draws")
    yield Figure(
        "single-bars",
        "One token substituted",
        "Mean KL there and one token later, under each substitution of that token alone.",
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
            View(_example(shown), sae, f"{i}. KL {shown['kl'].get('sae', 0):.2g} nats")
            for sae, found, _ in with_series(offsets, "examples")
            for i, shown in enumerate(found, 1)
        ),
    )
    yield Figure(
        "single-draws",
        "Random errors of one token, and the SAE's own",
        "KL of many ε-random substitutions of the same token. The line is the SAE's; z counts the "
        "standard deviations between it and the draws' mean.",
        tuple(
            View(_draws(shown, case), sae, f"{i}. text {shown['sequence']}")
            for sae, found, case in with_series(draws, "histograms")
            for i, shown in enumerate(found, 1)
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
    found = [m.name for case in cases for m in case.metrics]
    kept = dict.fromkeys(n for n in found if n.startswith("single_token.kl[") and f"@{at}]" in n)
    layers = tuple(bars(n.partition("[")[2].partition("@")[0], cases, n) for n in kept)
    axes = sae_axis(cases), Axis(NATS, log=True)
    return Chart(*axes, layers, size_of(cases), interval_of(cases))


def _offsets(curves: dict[str, Any], case: CaseResult) -> Chart:
    layers = tuple(
        Layer(name, Form.LINE, list(range(len(curve))), curve, faint=name != "sae")
        for name, curve in curves.items()
    )
    axis = Axis(f"tokens after position {case.series['position']}")
    return Chart(axis, Axis(NATS, log=True), layers, size_of([case]), NO_INTERVAL)


def _example(shown: dict[str, Any]) -> Chart:
    ranks = [f"{i}. {token}" for i, token in enumerate(shown["tokens"], 1)]
    layers = tuple(
        Layer(
            name if name == "clean" else f"{name}, KL {shown['kl'][name]:.3g}",
            Form.DOTS, ranks, values, key=name,
        )
        for name, values in shown["probabilities"].items()
    )  # fmt: skip
    axis = Axis("next token", categories=tuple(ranks))
    read = f"After: “…{shown['text'][-TEXT:]}”"
    where = f"n = 1 token: position {shown['position']} of text {shown['sequence']}"
    return Chart(
        axis, Axis("probability", log=True), layers, where, "one example, no interval", note=read
    )


def _draws(shown: dict[str, Any], case: CaseResult) -> Chart:
    index = case.series["sequence"].index(shown["sequence"])
    z = case.series["z"][index]
    told = "z undefined" if z is None else f"z = {z:.1f}"
    layer = Layer("eps_random", Form.STEPS, shown["edges"], shown["counts"])
    mark = Mark("x", shown["kl_sae"], f"SAE, {told}")
    n = f"n = {case.series['draws']} draws at position {case.series['position']}"
    return Chart(Axis(NATS), Axis("draws"), (layer,), n, "counts, no interval", (mark,))


def _z(z: list[float | None], case: CaseResult) -> Chart:
    kept = [min(value, Z_SHOWN) for value in z if value is not None]
    beyond = f" ({Z_SHOWN:g} and more together)" if Z_SHOWN in kept else ""
    edges, counts = histogram(kept, bins=Z_BINS)
    marks = (Mark("x", 0.0, "the draws' mean"), Mark("x", 2.0, "z = 2"))
    n = f"n = {len(kept)} tokens, {case.series['draws']} draws each"
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


SECTION = Section(
    "single_token",
    "Single token",
    "What does one token's substitution do, and is it worse than chance?",
    30,
    _figures,
)
