"""The result file."""

import json
import os
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

import saebench
from saebench.errors import OptionError, StoreError
from saebench.records.case_result import Basis
from saebench.records.metric import Fallback
from saebench.records.run import RESULT, SCHEMA_VERSION
from saebench.store.json_files import check_writable, json_schema, read_run, write_record

GOLDEN = Path(__file__).parent / f"result-schema-{SCHEMA_VERSION}.json"


@pytest.fixture(scope="module")
def run(tiny):
    return saebench.judge(tiny.bad, tiny.model, tiny.texts, sequences=8)


def test_the_schema_is_what_was_released_under_its_version():
    """A change of shape needs a new schema version and a new golden file."""
    released = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert _shape(json_schema(RESULT)) == _shape(released)


def _shape(schema):
    """Leave out the prose: it may be improved under the same version."""
    if isinstance(schema, dict):
        return {k: _shape(v) for k, v in schema.items() if k != "description"}
    return [_shape(v) for v in schema] if isinstance(schema, list) else schema


def test_a_result_of_schema_version_1_is_still_read_and_does_not_say_its_tokens():
    old = Path(__file__).parent
    schema = json.loads((old / "result-schema-1.json").read_text(encoding="utf-8"))
    jsonschema.validate(json.loads((old / "result-1.json").read_text(encoding="utf-8")), schema)
    run = read_run(old / "result-1.json")
    assert run.schema_version == SCHEMA_VERSION
    assert [case.basis for case in run.cases] == [None, None]
    assert [case.kind for case in run.cases] == ["shrinkage", "sparsity"]


def test_the_fallback_of_schema_version_4_is_read_under_its_new_name(tmp_path):
    content = json.loads((Path(__file__).parent / "result-1.json").read_text(encoding="utf-8"))
    content["schema_version"] = 4
    content["cases"][0]["metrics"][0]["stand"] = {"metric": "a.b", "scale": 0.5}
    (tmp_path / "old.json").write_text(json.dumps(content))
    first, *others = read_run(tmp_path / "old.json").cases[0].metrics
    assert first.fallback == Fallback("a.b", 0.5)
    assert [metric.fallback for metric in others] == [None] * len(others)


def test_a_run_answers_for_its_cases(run):
    (sae,) = run.saes
    assert run.cases_of(sae.id) == run.cases
    assert run.cases_of("another") == ()
    assert run.verdict.value == run.run.status
    case = next(case for case in run.cases if case.metrics)
    assert case.metric(case.metrics[0].name) is case.metrics[0]
    assert case.metric("no.such") is None


def test_every_case_says_which_tokens_model_and_seed_it_rests_on(run):
    (model,), (data,) = run.models, run.datasets
    for case in (case for case in run.cases if case.metrics and case.property != "context_length"):
        assert case.basis == Basis(model.weights_sha256, "float32", data.fingerprint, 0)


def test_a_written_run_is_strict_json_of_the_schema(run, tmp_path):
    write_record(run, tmp_path / "out.json")
    text = (tmp_path / "out.json").read_text(encoding="utf-8")
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert list(jsonschema.Draft202012Validator(json_schema(RESULT)).iter_errors(content)) == []


def test_a_run_is_read_back_as_it_was_written(run, tmp_path):
    write_record(run, tmp_path / "out.json")
    assert read_run(tmp_path / "out.json").to_dict() == run.to_dict()


def test_a_number_that_is_not_finite_is_never_written(run, tmp_path):
    case = replace(run.cases[0], duration_s=float("nan"))
    with pytest.raises((StoreError, ValueError)):
        write_record(replace(run, cases=(case,)), tmp_path / "out.json")
    assert not list(tmp_path.iterdir())


def test_missing_directories_are_made_and_no_other_file_is_left(run, tmp_path):
    write_record(run, tmp_path / "a" / "b" / "out.json")
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["out.json"]


def test_an_older_file_is_replaced_whole(run, tmp_path):
    (tmp_path / "out.json").write_text("x" * 10_000_000)
    write_record(run, tmp_path / "out.json")
    assert read_run(tmp_path / "out.json").run == run.run


@pytest.mark.parametrize("place", [".", "..", "/"])
def test_a_directory_is_no_place_for_a_result(run, monkeypatch, tmp_path, place):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=r"--sae-json .*: cannot be written: is a directory"):
        check_writable(Path(place), option="--sae-json")
    with pytest.raises(StoreError, match="cannot be written"):
        write_record(run, Path(place))


@pytest.mark.parametrize("inside", ["out.json/x.json", "."])
def test_a_path_that_cannot_be_written_is_a_clear_error(run, tmp_path, inside):
    (tmp_path / "out.json").write_text("older")
    with pytest.raises(StoreError, match="cannot be written"):
        write_record(run, tmp_path / inside)
    assert (tmp_path / "out.json").read_text() == "older"
    assert os.listdir(tmp_path) == ["out.json"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "No such file"),
        ("{", "not valid JSON"),
        ("[]", "no saebench result file|schema_version"),
        ('{"schema_version": 1}', "no saebench result file: run: Field required"),
    ],
)
def test_a_file_that_is_no_result_is_refused_by_name(tmp_path, content, expected):
    if content is not None:
        (tmp_path / "odd.json").write_text(content)
    with pytest.raises(StoreError, match=expected) as caught:
        read_run(tmp_path / "odd.json")
    assert "odd.json" in str(caught.value)


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "odd.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StoreError, match=r"odd\.json"):
        read_run(tmp_path / "odd.json")


def test_a_result_of_another_schema_version_is_refused(run, tmp_path):
    write_record(run, tmp_path / "out.json")
    content = json.loads((tmp_path / "out.json").read_text()) | {"schema_version": 99}
    (tmp_path / "out.json").write_text(json.dumps(content))
    with pytest.raises(StoreError, match="99"):
        read_run(tmp_path / "out.json")
