"""Cloze: last words that only earlier context determines (seed 001)."""

import math
from collections.abc import Iterator

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
)
from saebench.report.sections import Section

SCORINGS = {"whole": "whole word", "first": "first token", "options": "among the options"}
CELLS = {
    "both": "both right",
    "only_clean": "only the model alone right",
    "only_sae": "only with the SAE right",
    "neither": "both wrong",
}
ACROSS = {"mse": "‖x − x̂‖²", "ce_increase": "ΔCE over the prompt, nats"}
DELTA = "Δ ln p of the answer, nats"
POINTS = 12_000  # in one chart; beyond it every k-th prompt is drawn
LINES = 60
ANSWERS = "Right and wrong answers, with the SAE and without: prompt by prompt."


def _figures(material: Material) -> Iterator[Figure]:
    cases = [case for case in cases_of(material.run, "cloze") if "delta_log_p" in case.series]
    if not cases:
        return
    scored = [s for s in SCORINGS if any(s in case.series["cells"] for case in cases)]
    yield Figure(
        "cloze-accuracy",
        "Answers found",
        "Share of prompts whose last word the model predicts, alone and with the SAE.",
        tuple(View(_accuracy(cases, s), label=SCORINGS[s]) for s in scored),
        main=True,
    )
    yield Figure(
        "cloze-ce",
        "Cross-entropy lost over the prompts",
        "Mean increase over every token of the prompts.",
        (View(_ce(cases)),),
        main=True,
    )
    for name in ACROSS:
        yield Figure(
            f"cloze-scatter-{name.replace('_', '-')}",
            f"{ACROSS[name].partition(',')[0]} against Δ ln p, prompt by prompt",
            "Each mark is a prompt; left of 0 the SAE makes the answer less likely. Histograms of "
            "the four classes along both axes.",
            tuple(View(_scatter(c, name), c.sae) for c in cases if name in c.series),
            main=True,
        )
    yield Figure(
        "cloze-strip",
        "Δ ln p by SAE",
        "Each mark is a prompt, the bar is the mean with its interval.",
        (View(_strip(cases)),),
        main=True,
        wide=True,
    )
    yield Figure(
        "cloze-parallel",
        "The same prompts across the SAEs",
        f"One line for each of up to {LINES} prompts: do the same ones suffer everywhere?",
        tuple(View(chart) for chart in _parallel(cases)),
        main=True,
        wide=True,
    )


def _accuracy(cases: list[CaseResult], scoring: str) -> Chart:
    layers = (
        bars("the model alone", cases, f"cloze.accuracy_clean[{scoring}]", key="clean"),
        bars("with the SAE", cases, f"cloze.accuracy[{scoring}]", key="sae"),
    )
    axes = sae_axis(cases), Axis("accuracy, share")
    return Chart(*axes, layers, size_of(cases, "prompts"), interval_of(cases))


def _ce(cases: list[CaseResult]) -> Chart:
    layer = bars("with the SAE", cases, "cloze.ce_increase", key="sae")
    axes = sae_axis(cases), Axis("CE increase, nats")
    return Chart(*axes, (layer,), size_of(cases, "prompts"), interval_of(cases))


def _scatter(case: CaseResult, name: str) -> Chart:
    classes = case.series["cell_of_prompt"]["whole"]
    rows = list(zip(case.series["delta_log_p"], case.series[name], classes, strict=True))
    layers = tuple(
        Layer(label, Form.DOTS, [x for x, _, c in rows if c == cell],
              [y for _, y, c in rows if c == cell], key=cell)
        for cell, label in CELLS.items()
    )  # fmt: skip
    n = f"n = {len(rows)} prompts"
    marks = (Mark("x", 0.0, ""),)
    axes = Axis(DELTA), Axis(ACROSS[name])
    return Chart(*axes, layers, n, "prompts, no interval", marks, marginals=True)


def _strip(cases: list[CaseResult]) -> Chart:
    total = sum(len(case.series["delta_log_p"]) for case in cases)
    step = math.ceil(total / POINTS)
    points: list[tuple[str, float]] = [
        (case.sae, value) for case in cases for value in case.series["delta_log_p"][::step]
    ]
    every = Layer("prompts", Form.DOTS, [s for s, _ in points], [v for _, v in points], faint=True)
    mean = bars("mean", cases, "cloze.delta_log_p", form=Form.DOTS, key="sae")
    fewer = "" if step == 1 else f", one in {step} drawn"
    n = size_of(cases, "prompts") + fewer
    marks = (Mark("y", 0.0, ""),)
    return Chart(sae_axis(cases), Axis(DELTA), (every, mean), n, interval_of(cases), marks)


def _parallel(cases: list[CaseResult]) -> Iterator[Chart]:
    """Give the chart of the SAEs that were asked the same prompts, where several were."""
    basis = cases[0].basis
    same = [c for c in cases if c.basis == basis and len(c.series["delta_log_p"])]
    if len(same) < 2:
        return
    saes = [case.sae for case in same]
    count = min(len(case.series["delta_log_p"]) for case in same)
    chosen = range(0, count, math.ceil(count / LINES))
    layers = tuple(
        Layer(f"prompt {i}", Form.LINE, saes, [c.series["delta_log_p"][i] for c in same],
              key="prompt", faint=True)
        for i in chosen
    )  # fmt: skip
    n = f"n = {len(chosen)} of {count} prompts"
    axes = sae_axis(same), Axis(DELTA)
    yield Chart(*axes, layers, n, NO_INTERVAL, (Mark("y", 0.0, ""),))


SECTION = Section(
    "cloze",
    "Cloze",
    "Does the model still find a last word that only earlier context tells?",
    60,
    _figures,
)
