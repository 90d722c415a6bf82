"""Cloze and helpfulness: last words that only earlier context determines, and which features help.

Source:
    Anders & Bloom 2024, on examining reconstructed activations.
"""

import math
from collections.abc import Iterator
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
    bars,
    interval_of,
    sae_axis,
    size_of,
    steps,
    with_series,
)
from saebench.report.material import Material
from saebench.report.sections import Section
from saebench.report.tables import Row, Table, names, number, numbers, row

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
HISTOGRAMS = {
    "mean_delta": ("Mean Δ ln p of each feature", "mean Δ ln p over its prompts, nats"),
    "score": ("Score of each feature", "prompts helped − prompts hurt"),
}
ENDS = ("most_helpful", "most_harmful")
NUMBERS = {
    "feature": "feature",
    "prompts": "prompts",
    "mean Δ ln p, nats": "mean_delta",
    "score": "score",
    "p": "p",
    "p, adjusted": "p_adjusted",
}


def _cloze(material: Material) -> Iterator[Figure]:
    cases = [case for case in material.run.cases_about("cloze") if "delta_log_p" in case.series]
    if not cases:
        return
    scored = [s for s in SCORINGS if any(s in case.series["cells"] for case in cases)]
    yield Figure(
        "cloze-accuracy",
        "Answers predicted",
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
    """Yield the chart of the SAEs that were judged on the same prompts, where several were."""
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


def _helpfulness(material: Material) -> Iterator[Figure]:
    cases = material.run.cases_about("helpfulness")
    for name, (title, axis) in HISTOGRAMS.items():
        yield Figure(
            f"helpfulness-{name.replace('_', '-')}",
            title,
            "Features by how the answers fare on the prompts where they fire. Right of 0 they "
            "are in good company.",
            tuple(
                View(_histogram(histogram, axis, case), sae)
                for sae, histogram, case in with_series(cases, f"{name}_histogram")
            ),
            main=True,
        )


def _histogram(histogram: dict[str, Any], axis: str, case: CaseResult) -> Chart:
    tested, prompts = case.defined("helpfulness.tested"), case.metrics[0].n.sequences
    n = f"n = {tested.value if tested else 0:.0f} features on ≥ 20 of {prompts} prompts"
    layer = steps("features", histogram, key="sae")
    y, marks = Axis("features", log=True), (Mark("x", 0.0, ""),)
    return Chart(Axis(axis), y, (layer,), n, "counts, no interval", marks)


def _helpfulness_tables(material: Material) -> Iterator[Table]:
    cases = material.run.cases_about("helpfulness")
    features = dict.fromkeys(  # one may be at both ends
        (sae, tuple(feature.items()))
        for end in ENDS
        for sae, features, _ in with_series(cases, end)
        for feature in features
    )
    if features:
        columns = (*names("SAE"), *numbers(*NUMBERS))
        rows = tuple(_feature_row(sae, dict(items)) for sae, items in features)
        yield Table(
            "helpfulness-table", "The most helpful and the most harmful features", columns, rows,
            note="two-sided sign test, Benjamini–Hochberg over the tested features", by_sae=True,
        )  # fmt: skip


def _feature_row(sae: str, feature: dict[str, float]) -> Row:
    return row(sae, *(number(feature[key]) for key in NUMBERS.values()), sae=sae)


SECTIONS = (
    Section(
        "cloze",
        "Cloze",
        "Does the model still predict a last word that only earlier context determines?",
        60,
        _cloze,
    ),
    Section(
        "helpfulness",
        "Helpfulness",
        "Which features go with better or worse answers?",
        70,
        _helpfulness,
        _helpfulness_tables,
    ),
)
