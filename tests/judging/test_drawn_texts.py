"""A run describes the whole file: documents are drawn from it, and a drift along it is noted."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import saebench
from saebench.experiments.prepare import prepare
from saebench.judging.drifts import with_drift_notes
from saebench.options import Settings
from saebench.records.case_result import CaseResult
from saebench.records.metric import Interval
from saebench.records.run import Run
from saebench.report.terminal import remarks
from saebench.subjects.references import find_subjects

HALF, SEQUENCES, WORDS, BROKEN = 200, 100, 40, 20
MARGIN = "fidelity.kl:+5%"
DRIFTS = "fidelity.kl drifts along"


@pytest.fixture(scope="module")
def world(tiny, tmp_path_factory) -> dict[str, str]:
    """An SAE that is worse at half the words, and a file whose first half uses more of them."""
    root = tmp_path_factory.mktemp("drawn")
    weights = load_file(Path(tiny.good) / "sae_weights.safetensors")["W_dec"].clone()
    weights[3 : 3 + BROKEN] *= 0.5
    sae = tiny.with_weights(tiny.good, root / "sae", W_dec=weights)
    rng = random.Random(0)
    hard, easy = ([_text(rng, share) for _ in range(HALF)] for share in (0.8, 0.2))
    alternating = [text for pair in zip(hard, easy, strict=True) for text in pair]
    files = {"changing": [*hard, *easy], "even": alternating}
    for name, texts in files.items():
        rows = (json.dumps({"text": text}) + "\n" for text in texts)
        (root / f"{name}.jsonl").write_text("".join(rows))
    paths = {name: str(root / f"{name}.jsonl") for name in files}
    return paths | {"sae": str(sae), "model": tiny.model}


def _text(rng: random.Random, share: float) -> str:
    """Return twelve words, of which a share is of those that the SAE gets wrong."""
    first = [0 if rng.random() < share else BROKEN for _ in range(12)]
    return " ".join(f"w{start + rng.randrange(BROKEN)}" for start in first)


def _judged(world: dict[str, str], file: str = "changing", **options: Any) -> Run:
    given: dict[str, Any] = {"sequences": SEQUENCES, "properties": ["fidelity"]} | options
    return saebench.judge(world["sae"], world["model"], world[file], **given)


def _kl(run: Run) -> tuple[float, Interval]:
    kl = next(m for m in run.cases[0].metrics if m.name == "fidelity.kl")
    assert kl.value is not None
    assert kl.ci is not None
    return kl.value, kl.ci


def _sentences(run: Run) -> list[str]:
    return [s for case in run.cases for s in case.series.get("sentences", ())]


def test_the_interval_of_drawn_documents_covers_the_whole_files_value(world):
    whole, _ = _kl(_judged(world, sequences=2 * HALF))
    drawn = [_kl(_judged(world, seed=seed))[1] for seed in range(8)]
    # Each covers it with 95% or more, as it is of a quarter of the file.
    assert sum(ci.low <= whole <= ci.high for ci in drawn) >= 7
    _, first = _kl(_judged(world, order="file"))
    assert first.low > whole


def test_a_smaller_runs_sequences_are_the_first_of_a_larger_ones(world):
    small, large = (_sequences(world, n) for n in (20, 60))
    assert small.ids.tolist() == large.ids[:20].tolist()
    assert small.order == "drawn by seed 0 from all documents"
    assert len({*large.places}) == 60


def _sequences(world: dict[str, str], count: int) -> Any:
    settings = Settings(model=world["model"], dataset=world["changing"], sequences=count)
    [bench] = prepare(settings, find_subjects([world["sae"]]))
    return bench.tokens


def test_a_drift_along_the_file_is_noted(world):
    run = _judged(world)
    [sentence] = [s for s in _sentences(run) if s.startswith(DRIFTS)]
    assert "its first texts alone would not stand for it" in sentence
    drift = run.cases[0].series["drift"]["fidelity.kl"]
    assert drift["early"] > 1.5 * drift["late"]
    assert any(sentence in line for line in remarks(run))


def test_no_drift_is_noted_where_texts_are_in_no_order(world):
    for seed in range(5):
        assert not [s for s in _sentences(_judged(world, "even", seed=seed)) if "drifts" in s]


def test_the_first_documents_that_drift_are_said_to_stand_for_themselves_alone(world):
    run = _judged(world, order="file", sequences=2 * HALF - 50)
    [sentence] = [s for s in _sentences(run) if DRIFTS in s]
    assert sentence.startswith("measured on the first 350 of the file, and fidelity.kl")
    assert "--sae-order seeded" in sentence
    whole = _judged(world, order="file", sequences=2 * HALF + 50)
    assert any(s.startswith(DRIFTS) for s in _sentences(whole))
    assert run.datasets[0].policies["order"] == "in the file's order"


def test_the_p_values_of_all_deciding_metrics_are_corrected_together(world):
    [case] = _judged(world, sequences=40).cases
    cases = [_with_p(case, str(i), p) for i, p in enumerate((0.004, 0.2, 0.3))]
    assert [_notes(each) for each in with_drift_notes(cases[:2])] == [1, 0]  # 2 × 0.004 < 1%
    assert [_notes(each) for each in with_drift_notes(cases)] == [0, 0, 0]  # 3 × 0.004 > 1%
    noted = with_drift_notes(cases[:2])
    assert with_drift_notes(noted) == noted
    # A note of one process's run goes where the whole run does not bear it out.
    assert [_notes(each) for each in with_drift_notes((*noted, cases[2]))] == [0, 0, 0]


def _with_p(case: CaseResult, id: str, p: float) -> CaseResult:
    drift = case.series["drift"]["fidelity.kl"] | {"p": p}
    return replace(case, id=id, series={"drift": {"fidelity.kl": drift}})


def _notes(case: CaseResult) -> int:
    return sum(DRIFTS in sentence for sentence in case.series.get("sentences", ()))


def test_workers_measure_the_same_documents(world, tmp_path):
    alone = _judged(world, sequences=24)
    shared = _judged(world, sequences=24, workers=1, shard_sequences=8)
    assert [d.fingerprint for d in shared.datasets] == [d.fingerprint for d in alone.datasets]
    assert _kl(shared)[0] == pytest.approx(_kl(alone)[0], rel=1e-6)
    drifts = [run.cases[0].series["drift"] for run in (shared, alone)]
    assert drifts[0].keys() == drifts[1].keys()
    for name, drift in drifts[0].items():
        assert drift == pytest.approx(drifts[1][name], rel=1e-4)


def test_prompts_are_drawn_too_and_their_record_says_so(world, tiny, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    rng = random.Random(1)
    rows = [json.dumps({"text": _text(rng, 0.5)}) + "\n" for _ in range(60)]
    prompts.write_text("".join(rows))
    runs = [_judged(world, properties=["cloze"], cloze=str(prompts), prompts=30, order=order)
            for order in ("seeded", "file")]  # fmt: skip
    records = [run.datasets[-1] for run in runs]
    assert [r.packing for r in records] == ["prompts", "prompts"]
    assert records[0].fingerprint != records[1].fingerprint
    assert [r.policies["order"] for r in records] == [
        "drawn by seed 0 from all prompts", "in the file's order",
    ]  # fmt: skip


def test_a_baseline_of_another_order_says_which_option_measures_as_it_was(
    gate_run, world, tmp_path
):
    args = ("--sae", world["sae"], "--sae-dataset", world["changing"], "-k", "fidelity",
            *gate_run.only("fidelity"))  # fmt: skip
    gate_run.judge(*args, "--sae-order", "file", "--sae-update-baselines")
    held = ("--sae-baseline", "baselines")
    gate_run.judge(*args, *held)
    [gate] = [g for c in gate_run.result()["cases"] for g in c["gates"] if g["rule"] == MARGIN]
    assert gate["verdict"] == "INCOMPARABLE"
    orders = "documents in the file's order, and documents drawn by seed 0 from all documents"
    assert orders in gate["sentence"]
    assert "--sae-order file takes them as the first did" in gate["sentence"]
    gate_run.judge(*args, *held, "--sae-order", "file")
    [gate] = [g for c in gate_run.result()["cases"] for g in c["gates"] if g["rule"] == MARGIN]
    assert gate["verdict"] == "PASS"


def test_stories_that_a_generator_draws_one_by_one_keep_their_order():
    from saebench.data.prompts import Prompts
    from saebench.experiments.prepare import demo_documents, prompts_of
    from saebench.options import Order, Settings

    stories = demo_documents("heldout")
    drawn = stories.in_order(Order.SEEDED, seed=3)
    assert [next(iter(drawn)), drawn.order] == [
        next(iter(stories)), "as generated, each independently of the others",
    ]  # fmt: skip
    prompts = prompts_of(Settings(prompts=2), demo=True)
    assert isinstance(prompts, Prompts)
    assert prompts.order == drawn.order
