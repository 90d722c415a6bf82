"""Judged texts that an SAE was trained on: measured, reported, and said by a PASS."""

import json
from pathlib import Path

import pytest

import saebench
from saebench.errors import DataError
from saebench.records.inputs import SubjectRecord, TrainingOverlap
from saebench.records.verdict import Verdict
from saebench.report.markdown import to_markdown
from saebench.report.terminal import render

LOUD = "TRAINED ON JUDGED TEXTS"


def _texts(tiny):
    return [json.loads(line)["text"] for line in Path(tiny.texts).read_text().splitlines()]


def _written(path: Path, texts) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def _judge(tiny, sae=None, **options):
    given = {"properties": ["fidelity"], "sequences": 40, "context": 24} | options
    return saebench.judge(sae or tiny.good, tiny.model, given.pop("data", tiny.texts), **given)


def _unlike(tiny):
    """Texts that share no two words in a row with the judged ones' halves."""
    return [" ".join(reversed(text.split())) for text in _texts(tiny)]


def test_judged_sequences_in_the_training_texts_are_counted(tiny, tmp_path):
    texts = _texts(tiny)
    some = _written(tmp_path / "some.jsonl", [*_unlike(tiny), f"w1 w2 {texts[3]}", texts[7]])
    overlap = _judge(tiny, trained_on=[some]).saes[0].overlap
    assert (overlap.found, overlap.sequences, overlap.complete) == (2, 40, True)
    assert overlap.tokens == sum(len(t.split()) for t in [*texts, *texts[:2]]) + 2
    assert "2 of 40 judged sequences occur in the training texts (some.jsonl, all" in str(
        _judge(tiny, trained_on=some).saes[0].notes
    )


def test_a_few_are_noted_and_more_than_a_twentieth_are_said_by_a_pass(tiny, tmp_path):
    texts = _texts(tiny)
    for count, is_loud in ((2, False), (3, True)):
        some = _written(tmp_path / "some.jsonl", [*_unlike(tiny), *texts[:count]])
        run = _judge(tiny, trained_on=[some], fail_on="fidelity.kl<=9")
        (case,) = run.cases
        assert case.verdict is Verdict.PASS
        says = f"{count} of 40 judged sequences occur in the training texts"
        assert (says in case.reason) is is_loud
        assert says in " ".join(render(run).split())
        assert (LOUD in str(run)) is (LOUD in to_markdown(run)) is is_loud


def test_several_files_are_read_together(tiny, tmp_path):
    texts = _texts(tiny)
    files = [_written(tmp_path / f"{i}.jsonl", [texts[i]]) for i in (4, 9)]
    overlap = _judge(tiny, trained_on=files).saes[0].overlap
    assert (overlap.texts, overlap.found) == ("4.jsonl, 9.jsonl", 2)


def test_without_saying_so_a_file_that_the_metadata_name_is_read(tiny, tmp_path):
    named = _written(tmp_path / "train.jsonl", [*_unlike(tiny), *_texts(tiny)[:10]])
    sae = tiny.copy_of(tiny.good, tmp_path / "sae", metadata__dataset_path=named)
    overlap = _judge(tiny, str(sae)).saes[0].overlap
    assert (overlap.texts, overlap.found) == ("train.jsonl", 10)


def test_a_name_alone_is_said_to_be_not_measured(tiny, tmp_path):
    sae = tiny.copy_of(tiny.good, tmp_path / "sae", metadata__dataset_path="lab/texts.jsonl")
    run = _judge(tiny, str(sae), fail_on="fidelity.kl<=9")
    assert run.saes[0].overlap == TrainingOverlap("lab/texts.jsonl", 40)
    assert "was not measured: --sae-trained-on FILE does" in str(run.saes[0].notes)
    assert LOUD not in str(run)


def test_other_names_are_no_reason_to_read_or_to_say_anything(tiny, tmp_path):
    sae = tiny.copy_of(tiny.good, tmp_path / "sae", metadata__dataset_path="lab/other")
    assert _judge(tiny, str(sae)).saes[0].overlap is None
    assert _judge(tiny).saes[0].overlap is None


def test_what_the_user_says_wins_over_the_metadata(tiny, tmp_path):
    named = _written(tmp_path / "train.jsonl", _texts(tiny))
    sae = tiny.copy_of(tiny.good, tmp_path / "sae", metadata__dataset_path=named)
    own = _written(tmp_path / "own.jsonl", _unlike(tiny))
    overlap = _judge(tiny, str(sae), trained_on=own).saes[0].overlap
    assert (overlap.texts, overlap.found) == ("own.jsonl", 0)


def test_texts_that_cannot_be_read_end_the_run_with_the_options_name(tiny, tmp_path):
    with pytest.raises(DataError, match=r"--sae-trained-on .*missing.jsonl: no such file"):
        _judge(tiny, trained_on=str(tmp_path / "missing.jsonl"))


def test_of_two_saes_each_has_the_overlap_of_its_own_texts(tiny, tmp_path):
    named = _written(tmp_path / "train.jsonl", _texts(tiny)[:5])
    sae = tiny.copy_of(tiny.good, tmp_path / "sae", metadata__dataset_path=named)
    run = _judge(tiny, [str(sae), tiny.bad])
    assert [record.overlap and record.overlap.found for record in run.saes] == [5, None]


def test_the_result_file_holds_the_overlap(gate_run, tiny, tmp_path):
    some = _written(tmp_path / "some.jsonl", _texts(tiny)[:1])
    gate_run.judge("--sae", tiny.good, "-k", "fidelity", "--sae-trained-on", some)
    (sae,) = gate_run.result()["saes"]
    assert sae["overlap"]["found"] == 1
    assert set(sae["overlap"]) == {"texts", "sequences", "found", "tokens", "complete"}


def test_records_of_older_files_have_no_overlap():
    record = SubjectRecord("a", "b", "w", "c", "standard", "h", "resumed", 1, 2, None)
    assert record.overlap is None
