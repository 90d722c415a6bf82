"""sweep.json: older schema versions are read."""

import json
from pathlib import Path

import pytest
from runs import make_run

from saebench.errors import StoreError
from saebench.records.repair import Ranged
from saebench.records.sweep import SWEEP_SCHEMA_VERSION, SweepPoint, SweepRecord
from saebench.store.json_files import read_sweep, write_record

PUBLISHED = sorted((Path(__file__).parents[2] / "docs" / "train").glob("*.json"))
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


def test_a_sweep_is_read_back_as_it_was_written(tmp_path):
    write_record(_sweep(), tmp_path / "sweep.json")
    assert read_sweep(tmp_path / "sweep.json") == _sweep()


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_the_published_sweeps_of_schema_version_2_are_still_read(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["schema_version"] == 2
    for point, stored in zip(read_sweep(path).points, content["points"], strict=True):
        for name, number in stored["metrics"].items():
            read = point.metrics[name]
            assert {"value": read.value, "low": read.low, "high": read.high} == number


def test_a_sweep_of_schema_version_1_lacks_learning_rates_and_is_refused(tmp_path):
    (tmp_path / "sweep.json").write_text('{"schema_version": 1}')
    with pytest.raises(StoreError, match="schema_version of a training sweep is 1, this saebench"):
        read_sweep(tmp_path / "sweep.json")
