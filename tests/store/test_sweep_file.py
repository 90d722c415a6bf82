"""sweep.json: older schema versions are read."""

import json

import pytest
from runs import make_run

from saebench.errors import StoreError
from saebench.records.repair import Ranged
from saebench.records.sweep import SWEEP_SCHEMA_VERSION, SweepPoint, SweepRecord
from saebench.store.json_files import read_sweep, write_sweep

POINT = SweepPoint(
    "tokens", "blocks.0.hook_resid_pre", "topk:8", "frozen", "dir", 1000, 1e-3, 2.5, True,
    (2.0, 1.5), {"fidelity": "PASS"},
    {"l0": Ranged(8.0), "whole_model_kl": Ranged.of(0.2, 0.1, 0.3)}, Ranged.of(-0.1, -0.2, 0.0),
)  # fmt: skip


def _sweep():
    run = make_run()
    return SweepRecord(
        SWEEP_SCHEMA_VERSION, {}, {}, run.models[0], "kl", "train.jsonl", 500, 1000,
        run.datasets[0], (POINT,),
    )  # fmt: skip


def _flat(number):
    ci = number["ci"] or {"low": None, "high": None}
    return {"value": number["value"], "low": ci["low"], "high": ci["high"]}


def _of_version_2(path):
    """Turn a file into one of version 2, whose intervals were two ends."""
    content = json.loads(path.read_text()) | {"schema_version": 2}
    (point,) = content["points"]
    point["metrics"] = {name: _flat(number) for name, number in point["metrics"].items()}
    point["against_standard"] = _flat(point["against_standard"])
    path.write_text(json.dumps(content))


def test_a_sweep_is_read_back_as_it_was_written(tmp_path):
    write_sweep(_sweep(), tmp_path / "sweep.json")
    assert read_sweep(tmp_path / "sweep.json") == _sweep()


def test_a_sweep_of_schema_version_2_is_still_read(tmp_path):
    write_sweep(_sweep(), tmp_path / "sweep.json")
    _of_version_2(tmp_path / "sweep.json")
    assert read_sweep(tmp_path / "sweep.json") == _sweep()


def test_a_sweep_of_schema_version_1_lacks_learning_rates_and_is_refused(tmp_path):
    (tmp_path / "sweep.json").write_text('{"schema_version": 1}')
    with pytest.raises(StoreError, match="schema_version of a training sweep is 1, this saebench"):
        read_sweep(tmp_path / "sweep.json")
