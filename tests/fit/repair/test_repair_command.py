"""The command: a repair of the tiny world, and what it refuses."""

import json

import pytest

from saebench.cli import main
from saebench.store.json_files import read_repair


@pytest.fixture
def options(tiny, tmp_path):
    out = tmp_path / "out"
    return [
        "repair", tiny.bad, "--sae-model", tiny.model, "--sae-dataset", tiny.texts,
        "--tokens", "2000", "--batch-tokens", "64", "-o", str(out),
    ]  # fmt: skip


def test_a_repair_lowers_the_error_and_leaves_l0(options, tmp_path, capsys):
    assert main([*options, "--method", "decoder"]) == 0
    record = read_repair(tmp_path / "out" / "repair.json")
    assert record.row("fidelity.mse").change.high < 0
    assert record.row("sparsity.l0").change.value == 0
    assert "perplexity gap recovered" in capsys.readouterr().out
    recipe = json.loads((tmp_path / "out" / "cfg.json").read_text())["metadata"]["repair"]
    assert recipe["method"] == "decoder"
    assert not (tmp_path / "out.checkpoint").exists()


def test_out_that_exists_is_refused_without_force(options, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert main([*options, "--method", "scale"]) == 4
    assert "exists already" in capsys.readouterr().err
    assert main([*options, "--method", "scale", "--force"]) == 0


def test_too_short_texts_are_refused_saying_how_many_tokens_there_are(options, capsys):
    assert main([*options, "--method", "scale", "--tokens", "900000"]) == 4
    assert "tokens in rows of 12" in capsys.readouterr().err


def test_judging_on_the_fitted_texts_is_refused_naming_documents(options, tiny, capsys):
    assert main([*options, "--method", "scale", "--judge-dataset", tiny.texts]) == 4
    assert "overlap" in capsys.readouterr().err


def test_a_diverging_fit_exits_with_1_and_writes_nothing(options, tmp_path, capsys):
    assert main([*options, "--method", "scale", "--learning-rate", "1e30"]) == 1
    assert "NaN or infinite" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
