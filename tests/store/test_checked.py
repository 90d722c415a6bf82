"""Baselines whose records were edited."""

import json

import pytest
from stored import store

from saebench.errors import StoreError
from saebench.store.baselines import _head_sha256, load_baseline, read_baseline
from saebench.store.json_files import dump_record


@pytest.fixture
def path(tmp_path):
    return store(tmp_path, "one")


def _edit(path, **changes):
    """Change a file's records with their checksum, as no hand does by chance."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(content | {"head_sha256": _head_sha256(content)}))


def test_what_was_stored_is_read_as_it_is(path):
    loaded, plain = load_baseline(path), read_baseline(path)
    assert loaded.arrays.keys() == plain["arrays"].keys()
    content = json.loads(dump_record(loaded.record))
    for name in ("sae", "model", "datasets"):
        assert content[name] == plain[name]
    metrics = [
        c.pop("noise") for case in content["cases"].values() for c in case["metrics"].values()
    ]
    assert set(metrics) == {None}
    assert content["cases"] == plain["cases"]


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"sae": None}, "sae"),
        ({"sae": {"id": "one"}}, r"sae\.source"),
        ({"model": []}, "model"),
        ({"datasets": [{"name": 3}]}, r"datasets\.0\.name"),
        ({"datasets": None}, "datasets"),
    ],
)
def test_an_edited_record_is_refused_naming_its_place(path, changes, place):
    _edit(path, **changes)
    with pytest.raises(StoreError, match=f"no saebench baseline: {place}") as caught:
        load_baseline(path)
    assert path.name in str(caught.value)


COMMANDS = ["leaderboard build", "baseline list", "baseline show one", "compare one one"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_it_without_a_traceback(path, tmp_path, capsys, command):
    from saebench.cli import main

    _edit(path, sae={"id": "one"})
    assert main([*command.split(), "--baselines", str(tmp_path)]) == 4
    assert "no saebench baseline" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sae", "model", "datasets", "stored"])
def test_a_record_edited_by_hand_is_refused(path, name):
    content = json.loads(path.read_text())
    changed = "2030-01-01" if name == "stored" else []
    path.write_text(json.dumps(content | {name: changed}))
    with pytest.raises(StoreError, match="edited by hand"):
        read_baseline(path)
