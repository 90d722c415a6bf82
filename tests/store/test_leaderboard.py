"""The leaderboard: built from baselines, deterministic, versioned."""

import json
import os
from pathlib import Path

import jsonschema
import pytest
from stored import MODEL, another, make_data, make_subject, store

from saebench.cli.stored import known_facts
from saebench.errors import StoreError
from saebench.records.baseline import Baseline, StoredCase
from saebench.records.boards import LEADERBOARD
from saebench.records.case_result import Basis
from saebench.records.verdict import Verdict
from saebench.store.environment import baselines_dir
from saebench.store.json_files import json_schema
from saebench.store.leaderboard import (
    build,
    dump_leaderboard,
    read_leaderboard,
    write_leaderboard,
)

GOLDEN = Path(__file__).parent / f"leaderboard-schema-{LEADERBOARD.version}.json"


@pytest.fixture(scope="module")
def facts():
    return known_facts()


@pytest.fixture
def root(tmp_path):
    for id, kl in (("good", 0.05), ("bad", 0.4)):
        store(tmp_path, id, kl=kl)
    return tmp_path


def test_the_schema_is_what_was_released_under_its_version():
    """A change of shape needs a new schema version and a new golden file."""
    released = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert _shape(json_schema(LEADERBOARD)) == _shape(released)


def _shape(schema):
    if isinstance(schema, dict):
        return {k: _shape(v) for k, v in schema.items() if k != "description"}
    return [_shape(v) for v in schema] if isinstance(schema, list) else schema


def test_the_file_is_strict_json_of_the_schema(root, facts):
    content = json.loads(
        dump_leaderboard(build(root, facts)), parse_constant=lambda name: pytest.fail(name)
    )
    schema = jsonschema.Draft202012Validator(json_schema(LEADERBOARD))
    assert list(schema.iter_errors(content)) == []
    assert [row["sae"] for row in content["boards"][0]["rows"]] == ["bad", "good"]
    (board,) = content["boards"]
    for broken in ({"rows": 3}, {"dataset": {}}, {"seed": "none"}):
        assert list(schema.iter_errors(content | {"boards": [board | broken]})), broken


def test_the_shipped_leaderboard_is_what_the_shipped_baselines_give(facts):
    shipped = (baselines_dir() / "leaderboard.json").read_bytes()
    assert shipped == dump_leaderboard(build(baselines_dir(), facts))


def test_the_same_baselines_give_the_same_bytes_in_whatever_order_they_were_stored(tmp_path, facts):
    ids = ("a", "b", "c")
    for place, order in (("one", ids), ("two", ids[::-1])):
        for id in order:
            store(tmp_path / place, id, kl=0.1 + ord(id) / 1000)
    one, two = (dump_leaderboard(build(tmp_path / place, facts)) for place in ("one", "two"))
    assert one == two


def test_each_sae_of_a_board_is_one_line_of_the_file(root, facts):
    lines = dump_leaderboard(build(root, facts)).decode().splitlines()
    assert [json.loads(line.rstrip(","))["sae"] for line in lines if '{"sae"' in line] == [
        "bad", "good",
    ]  # fmt: skip


def test_what_is_read_is_what_was_written(root, facts):
    made = build(root, facts)
    write_leaderboard(made, root / "leaderboard.json")
    assert read_leaderboard(root / "leaderboard.json") == made


def test_the_numbers_are_the_baselines(root, facts):
    (board,) = build(root, facts).boards
    for row in board.rows:
        (path,) = root.glob(f"*/*/{row.sae}@*.json")
        for kind, scores in row.scores.items():
            stored = json.loads(path.read_text())["cases"][f"{kind}@{row.sae}"]["metrics"]
            for name, score in scores.items():
                assert (score.value, [score.ci.low, score.ci.high]) == (
                    stored[name]["value"], stored[name]["ci"],
                )  # fmt: skip


@pytest.mark.parametrize(
    "other",
    [
        {"data": make_data(fingerprint="2" * 64)},
        {"seed": 1},
        {"model": another(weights_sha256="0" * 64)},
        {"model": another(dtype="bfloat16")},
        {"hook": "blocks.2.hook_resid_pre"},
    ],
)
def test_saes_share_a_board_only_on_equal_tokens_noise_model_and_hook(root, facts, other):
    store(root, "elsewhere", kl=0.01, **other)
    boards = build(root, facts).boards
    assert sorted(tuple(row.sae for row in board.rows) for board in boards) == [
        ("bad", "good"), ("elsewhere",),
    ]  # fmt: skip


def test_two_baselines_of_one_sae_are_refused_naming_both(root, facts):
    (path,) = root.glob("*/*/good@*.json")
    again = path.with_name("renamed@0badcafe.json")
    again.write_text(path.read_text())
    with pytest.raises(StoreError, match="both of the SAE") as caught:
        build(root, facts)
    assert path.name in str(caught.value)
    assert again.name in str(caught.value)


def test_a_metric_that_this_saebench_does_not_have_is_kept_without_a_direction(root, facts):
    known = {name: f for name, f in facts.items() if name != "fidelity.kl"}
    (board,) = build(root, known).boards
    assert board.metrics["fidelity.kl"].direction is None
    assert board.rows[0].scores["fidelity"]["fidelity.kl"].value is not None


def test_no_baselines_give_an_empty_leaderboard(tmp_path, facts):
    assert build(tmp_path, facts).boards == ()


def test_a_directory_that_is_not_there_is_refused(tmp_path, facts):
    with pytest.raises(StoreError, match="no such directory"):
        build(tmp_path / "none", facts)


def test_a_damaged_baseline_stops_the_build(root, facts):
    next(root.glob("*/*/good@*.npz")).write_bytes(b"short")
    with pytest.raises(StoreError, match="altered"):
        build(root, facts)


def test_a_case_that_does_not_say_its_tokens_stops_the_build(root, facts, monkeypatch):
    from saebench.store import baselines

    (path,) = root.glob("*/*/good@*.json")
    content = json.loads(path.read_text())
    content["cases"]["fidelity@good"]["sums"] = None
    content["cases_sha256"] = baselines._sha256(content["cases"])
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError, match="which tokens"):
        build(root, facts)


@pytest.mark.parametrize("first", ["", ",early", ",l0-standard", ",a@b-3", ",a,b-1"])
def test_a_case_says_its_tokens_and_seed_whatever_a_pairs_first_sae_is_called(first):
    case = StoredCase("fidelity", {}, "f", Verdict.PASS, {}, f"pairs@{'1' * 8}-7{first}")
    baseline = Baseline(2, make_subject("a"), MODEL, (make_data(),), {})
    assert baseline.basis_of(case) == Basis(MODEL.weights_sha256, "float32", "1" * 64, 7)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "no such file; saebench leaderboard build"),
        ("{", "not valid JSON"),
        ("[]", "schema_version is None"),
        ('{"schema_version": 7}', "schema_version is 7"),
        ('{"schema_version": 1}', "no leaderboard: boards"),
        ("[" * 100_000, "nested too deeply"),
        ('{"schema_version": 1, "boards": NaN}', "NaN is no number of JSON"),
    ],
)
def test_a_file_that_is_no_leaderboard_is_refused_with_the_way_to_make_one(
    tmp_path, text, expected
):
    path = tmp_path / "leaderboard.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(StoreError, match=expected) as caught:
        read_leaderboard(path)
    assert "leaderboard build" in str(caught.value)


def test_a_crash_while_writing_leaves_the_old_file_and_nothing_else(root, facts, monkeypatch):
    path = root / "leaderboard.json"
    path.write_text("older")
    before = sorted(os.listdir(root))
    monkeypatch.setattr(os, "fsync", _read_only)
    with pytest.raises(StoreError, match="cannot be written: Read-only file system"):
        write_leaderboard(build(root, facts), path)
    assert (path.read_text(), sorted(os.listdir(root))) == ("older", before)


def _read_only(_):
    raise OSError(30, "Read-only file system")


def test_a_leaderboard_that_is_a_directory_is_a_clear_error(root, facts):
    (root / "leaderboard.json").mkdir()
    with pytest.raises(StoreError, match="cannot be written"):
        write_leaderboard(build(root, facts), root / "leaderboard.json")
    with pytest.raises(StoreError, match=r"leaderboard\.json"):
        read_leaderboard(root / "leaderboard.json")
