"""Accuracy drops and McNemar's test on cloze prompts, against statsmodels and loops."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import saebench
from saebench.errors import DataError, MeasurementError, NotApplicable
from saebench.experiments.cloze_options import OptionAnswers
from saebench.experiments.cloze_prompts import Answers, ClozeMeasurement
from saebench.properties import find_property
from saebench.properties.cloze import mcnemar_p
from saebench.records.case_result import CaseResult
from saebench.records.metric import Metric
from saebench.records.verdict import Verdict
from saebench.store.json_files import dump_record

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SCORINGS = ("whole", "first")
answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def _pairs(drawn: list[tuple[bool, bool]]) -> tuple[np.ndarray, np.ndarray]:
    clean, changed = zip(*drawn, strict=True)
    return np.array(clean), np.array(changed)


def _measurement(n: int = 40, *, seed: int = 0, right: float = 0.6) -> ClozeMeasurement:
    rng = np.random.default_rng(seed)
    sides = []
    for share in (right, right * 0.7):
        first = rng.random(n) < share
        sides.append(Answers(-rng.gamma(2, 1, n), first, first & (rng.random(n) < 0.8)))
    return ClozeMeasurement(*sides, rng.gamma(2, 1, n), rng.gamma(3, 2, n), cut=3)


def _with_options(n: int = 40) -> ClozeMeasurement:
    """Return a measurement of which every third prompt offers nothing to choose from."""
    rng = np.random.default_rng(7)
    offered = np.arange(n) % 3 != 0
    sides = [offered & (rng.random(n) < share) for share in (0.9, 0.6)]
    return replace(_measurement(n), options=OptionAnswers(offered, *sides))


def _found(measurement: ClozeMeasurement) -> dict[str, Metric]:
    metrics = find_property("cloze").findings(measurement, {}).metrics
    return {metric.name.removeprefix("cloze."): metric for metric in metrics}


@given(answers)
@settings(deadline=None)
def test_mcnemars_p_is_statsmodels(drawn):
    exact = pytest.importorskip("statsmodels.stats.contingency_tables").mcnemar
    clean, changed = _pairs(drawn)
    table = [[int(((clean == a) & (changed == b)).sum()) for b in (1, 0)] for a in (1, 0)]
    expected = min(1.0, float(exact(table, exact=True).pvalue))
    assert mcnemar_p(clean, changed) == pytest.approx(expected, rel=1e-9)


@given(answers)
def test_mcnemars_p_is_the_same_with_the_sides_exchanged_and_never_above_one(drawn):
    clean, changed = _pairs(drawn)
    assert mcnemar_p(clean, changed) == pytest.approx(mcnemar_p(changed, clean))
    assert 0 < mcnemar_p(clean, changed) <= 1


@pytest.mark.parametrize("scoring", SCORINGS)
def test_accuracies_are_shares_and_the_drop_is_their_difference(scoring):
    m = _measurement()
    found = _found(m)
    clean = sum(getattr(m.clean, scoring)) / 40
    changed = sum(getattr(m.changed, scoring)) / 40
    assert found[f"accuracy_clean[{scoring}]"].value == pytest.approx(clean)
    assert found[f"accuracy[{scoring}]"].value == pytest.approx(changed)
    assert found[f"accuracy_drop[{scoring}]"].value == pytest.approx(clean - changed)


def test_the_interval_of_the_drop_is_paired():
    """Where both sides give the same answers, the drop is 0 for certain."""
    m = _measurement()
    same = ClozeMeasurement(m.clean, m.clean, m.squared_error, m.l0, m.cut)
    drop = _found(same)["accuracy_drop[whole]"]
    assert (drop.value, drop.ci.low, drop.ci.high) == (0, 0, 0)
    assert _found(same)["accuracy[whole]"].ci.high > _found(same)["accuracy[whole]"].ci.low


def test_other_metrics_are_means_over_prompts():
    m = _measurement()
    found = _found(m)
    delta = sum(m.changed.log_probability) - sum(m.clean.log_probability)
    assert found["delta_log_p"].value == pytest.approx(delta / 40)
    assert found["mse"].value == pytest.approx(sum(m.squared_error) / 40)
    assert found["l0"].value == pytest.approx(sum(m.l0) / 40)
    assert {metric.n.sequences for metric in found.values()} == {40}


def test_the_four_cells_count_every_prompt_once():
    m = _measurement()
    series = find_property("cloze").findings(m, {}).series
    for scoring in SCORINGS:
        names = {(1, 1): "both", (1, 0): "only_clean", (0, 1): "only_sae", (0, 0): "neither"}
        counted = dict.fromkeys(names.values(), 0)
        for a, b in zip(getattr(m.clean, scoring), getattr(m.changed, scoring), strict=True):
            counted[names[int(a), int(b)]] += 1
        assert series["cells"][scoring] == counted
    assert series["prompts_cut"] == 3


def test_series_of_every_prompt_are_strict_json_in_the_prompts_order():
    m = _measurement()
    series = find_property("cloze").findings(m, {}).series
    json.dumps(series, allow_nan=False)
    assert series["log_p_clean"] == m.clean.log_probability.tolist()
    assert series["delta_log_p"][7] == pytest.approx(
        m.changed.log_probability[7] - m.clean.log_probability[7]
    )


def test_the_choice_between_options_is_scored_on_the_prompts_that_offer_one():
    m = _with_options()
    assert m.options is not None
    n = int(m.options.offered.sum())
    clean, changed = int(m.options.clean.sum()), int(m.options.changed.sum())
    found = _found(m)
    assert found["accuracy_clean[options]"].value == pytest.approx(clean / n)
    assert found["accuracy[options]"].value == pytest.approx(changed / n)
    assert found["accuracy_drop[options]"].value == pytest.approx((clean - changed) / n)
    assert found["accuracy_drop[options]"].n.sequences == n < 40
    expected = mcnemar_p(m.options.clean[m.options.offered], m.options.changed[m.options.offered])
    assert found["mcnemar_p[options]"].value == expected


def test_without_options_their_scoring_is_not_reported():
    assert not [name for name in _found(_measurement()) if "options" in name]


def test_the_prompts_cross_entropy_increases_by_the_mean_of_the_differences():
    m, rng = _measurement(), np.random.default_rng(9)
    ce = rng.gamma(3, 1, 40), rng.gamma(4, 1, 40)
    m = replace(m, clean=replace(m.clean, ce=ce[0]), changed=replace(m.changed, ce=ce[1]))
    assert _found(m)["ce_increase"].value == pytest.approx(sum(ce[1] - ce[0]) / 40)
    assert "ce_increase" not in _found(_measurement())


def test_every_prompts_cell_is_kept_and_counted():
    m = _with_options()
    assert m.options is not None
    series = find_property("cloze").findings(m, {}).series
    json.dumps(series, allow_nan=False)
    for scoring, sides in {"whole": (m.clean.whole, m.changed.whole),
                           "options": (m.options.clean, m.options.changed)}.items():  # fmt: skip
        cells = series["cell_of_prompt"][scoring]
        for cell, clean, changed, offered in zip(cells, *sides, m.options.offered, strict=True):
            names = {(1, 1): "both", (1, 0): "only_clean", (0, 1): "only_sae", (0, 0): "neither"}
            scored = scoring == "whole" or offered
            assert cell == (names[int(clean), int(changed)] if scored else None)
        counted = {name: cells.count(name) for name in series["cells"][scoring]}
        assert counted == series["cells"][scoring]


@pytest.mark.parametrize(("right", "applies"), [(1, False), (2, True)])
def test_it_applies_where_the_model_answers_five_percent(right, applies):
    whole = np.arange(40) < right
    side = Answers(np.zeros(40), whole, whole)
    measurement = ClozeMeasurement(side, side, np.ones(40), np.ones(40), cut=0)
    if applies:
        assert _found(measurement)
        return
    with pytest.raises(NotApplicable, match=r"answers 2\.5% of 40 prompts.*--sae-cloze"):
        _found(measurement)


@pytest.mark.parametrize("what", ["delta", "squared_error"])
def test_nan_is_an_error_and_never_a_value(what):
    m = _measurement()
    values = m.changed.log_probability if what == "delta" else m.squared_error
    values[5] = float("nan")
    with pytest.raises(MeasurementError):
        _found(m)


@pytest.fixture(scope="module")
def prompts(tiny, tmp_path_factory) -> dict[str, str]:
    """Files of prompts that the tiny model answers right, and of ones that it does not.

    They are the half of the texts at whose last word the model is surest of itself.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny.model)
    tokenizer = AutoTokenizer.from_pretrained(tiny.model)
    root, rows = tmp_path_factory.mktemp("cloze"), {"right": [], "wrong": []}
    asked = []
    for line in Path(tiny.texts).read_text().splitlines():
        prompt = json.loads(line)["text"].rpartition(" ")[0]
        ids = torch.tensor([[1, *tokenizer(prompt)["input_ids"]]])
        logits, likeliest = model(input_ids=ids).logits[0, -1, 3:].sort(descending=True)
        asked.append((float(logits[0].detach() - logits[1].detach()), prompt, likeliest))
    asked.sort(key=lambda each: each[0], reverse=True)
    for _, prompt, likeliest in asked[:20]:
        for kind, rank in (("right", 0), ("wrong", 5)):
            rows[kind].append({"prompt": prompt, "answer": f"w{int(likeliest[rank])}"})
    for kind, some in rows.items():
        (root / kind).write_text("".join(json.dumps(row) + "\n" for row in some))
    return {kind: str(root / kind) for kind in rows}


def _judged(tiny: Any, sae: Any = None, **options: Any) -> CaseResult:
    run = saebench.judge(
        sae or tiny.good, tiny.model, tiny.texts, properties=["cloze"], sequences=2, **options
    )
    return run.cases[0]


def test_a_good_sae_keeps_the_answers_and_a_bad_one_loses_them(tiny, prompts):
    good = _judged(tiny, cloze=prompts["right"])
    bad = _judged(tiny, tiny.bad, cloze=prompts["right"])
    assert (good.verdict, bad.verdict) == (Verdict.PASS, Verdict.FAIL)
    drops = [
        {m.name: m.value for m in c.metrics}["cloze.accuracy_drop[whole]"] for c in (good, bad)
    ]
    assert drops[0] <= 0.05 < 0.3 < drops[1]


def test_prompts_that_the_model_cannot_answer_are_skipped_with_what_would_help(tiny, prompts):
    case = _judged(tiny, cloze=prompts["wrong"])
    assert case.verdict is Verdict.SKIPPED
    assert "answers 0.0% of 20 prompts" in case.reason
    assert "--sae-cloze" in case.reason


def test_prompts_with_options_are_judged_by_them_too(tiny, prompts, tmp_path):
    rows = [json.loads(line) for line in Path(prompts["right"]).read_text().splitlines()]
    for row in rows:
        others = [w for w in ("w1", "w2", "w3", "w4") if w != row["answer"]]
        row["options"] = [*others, row["answer"]]
    (tmp_path / "options.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    case = _judged(tiny, cloze=str(tmp_path / "options.jsonl"))
    values = {m.name: m.value for m in case.metrics}
    # The right answer is the likeliest word of all, so of the options too.
    assert values["cloze.accuracy_clean[options]"] == 1
    assert values["cloze.accuracy[options]"] >= values["cloze.accuracy[whole]"]


@pytest.mark.parametrize(("asked", "taken"), [(None, 20), (7, 7), (500, 20)])
def test_as_many_prompts_are_taken_as_are_asked_for(tiny, prompts, asked, taken):
    run = saebench.judge(
        tiny.good, tiny.model, tiny.texts, properties=["cloze"], sequences=2,
        cloze=prompts["right"], prompts=asked,
    )  # fmt: skip
    assert {d.packing: d.sequences for d in run.datasets}["prompts"] == taken


def test_texts_in_memory_do_not_do_away_with_the_prompts(tiny, prompts):
    texts = [json.loads(line)["text"] for line in Path(tiny.texts).read_text().splitlines()]
    run = saebench.judge(
        tiny.good, tiny.model, texts, properties=["cloze"], sequences=2, cloze=prompts["right"]
    )
    assert run.cases[0].verdict is Verdict.PASS


@pytest.mark.parametrize("kind", ["lambada", "cbt"])
def test_the_demos_prompts_are_judged(kind):
    run = saebench.judge("demo:l2-topk", properties=["cloze"], sequences=2,
                         cloze=f"demo:{kind}", prompts=30)  # fmt: skip
    values = {m.name: m.value for m in run.cases[0].metrics}
    assert values["cloze.accuracy_clean[whole]"] > 0.5
    assert ("cloze.accuracy_clean[options]" in values) == (kind == "cbt")


def test_other_prompts_of_the_demo_are_an_error_with_the_nearest():
    with pytest.raises(DataError, match="demo:lambda: no such prompts; did you mean 'lambada'"):
        saebench.judge("demo:l2-topk", properties=["cloze"], sequences=2, cloze="demo:lambda")


def test_without_prompts_it_is_skipped_with_the_option_that_gives_them(tiny):
    case = _judged(tiny)
    assert case.verdict is Verdict.SKIPPED
    assert "--sae-cloze FILE.jsonl" in case.reason


def test_what_was_measured_on_is_in_the_result(tiny, prompts):
    run = saebench.judge(
        tiny.good, tiny.model, tiny.texts, properties=["cloze"], sequences=2,
        cloze=prompts["right"],
    )  # fmt: skip
    data = {d.packing: d for d in run.datasets}["prompts"]
    assert (data.name, data.sequences) == ("right", 20)
    assert run.cases[0].fingerprint


class _Diverged(torch.nn.Module):
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def decode(self, features: torch.Tensor) -> torch.Tensor:
        return features * float("nan")


def test_nan_from_an_sae_is_an_error_never_a_pass_and_the_result_can_be_written(tiny, prompts):
    run = saebench.judge(
        _Diverged(), tiny.model, tiny.texts, properties=["cloze"], sequences=2, context=12,
        hook="blocks.1.hook_resid_pre", cloze=prompts["right"],
    )  # fmt: skip
    assert run.cases[0].verdict is Verdict.ERROR
    assert dump_record(run)


@pytest.mark.parametrize("content", [None, "{oops\n", '{"prompt": "w1"}\n'])
def test_prompts_that_cannot_be_read_end_the_run_before_anything_is_measured(
    gate_run, tiny, content
):
    root = gate_run.pytester.path
    # Not under its own name: this module has it.
    shutil.copy(BENCHMARKS / "test_cloze.py", root / "benchmarks" / "test_last_words.py")
    if content is not None:
        (root / "prompts.jsonl").write_text(content)
    said = gate_run.refused("--sae", tiny.good, "-k", "cloze", "--sae-cloze", "prompts.jsonl")
    assert "prompts.jsonl" in said
