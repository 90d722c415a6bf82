"""TensorBoard: what is in its event file, and what is said where it is not installed."""

import sys

import pytest

from saebench.cli import main
from saebench.store.json_files import read_training


@pytest.fixture
def options(tiny, tmp_path):
    return [
        "train", "--model", tiny.model, "--dataset", tiny.texts, "--objective", "standard",
        "--hook", "blocks.1.hook_resid_pre", "--context", "12", "--tokens", "1000", "--batch-rows",
        "4", "--sparsity", "topk:4", "-o", str(tmp_path / "out"), "--tensorboard",
        str(tmp_path / "board"),
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_event_file_holds_the_loss_of_each_check(options, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main(options) == 0
    events = EventAccumulator(str(tmp_path / "board" / "out")).Reload()
    checks = read_training(tmp_path / "out" / "training.json").course.checks[1:]
    for name in ("loss", "check"):
        scalars = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in scalars] == [check.tokens for check in checks]
        assert [value for _, value in scalars] == pytest.approx(
            [getattr(check, name) for check in checks], rel=1e-6
        )


def test_without_tensorboard_the_error_names_the_extra_before_anything_is_trained(
    options, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert main(options) == 4
    assert "pip install 'pytest-saebench[tensorboard]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_board_is_refused(options, tmp_path, capsys):
    pytest.importorskip("tensorboard")
    (tmp_path / "board").write_text("")
    assert main(options) == 4
    assert "is a file" in capsys.readouterr().err
