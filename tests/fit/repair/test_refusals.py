"""What a repair refuses, and what is left when it fails."""

import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from saebench.cli import main
from saebench.fit.repair.repair_tasks import ScaledTask
from saebench.store.json_files import read_repair


@pytest.fixture
def repair(tiny, tmp_path, capsys):
    """Run the command on the tiny world; return its exit code and what it said."""

    def run(sae=None, *more, method="scale", out="out", dataset=tiny.texts):
        command = [
            "repair", str(sae or tiny.bad), "--method", method, "--sae-model", tiny.model,
            "--sae-dataset", dataset, "--tokens", "3000", "--batch-tokens", "64",
            "--sequences", "8", "-o", str(tmp_path / out), *more,
        ]  # fmt: skip
        code = main(command)
        return code, " ".join(capsys.readouterr().err.split())

    return run


def _left(tmp_path):
    return sorted(name for name in os.listdir(tmp_path) if name.startswith((".", "out")))


def test_a_tied_sae_is_refused(repair, tiny, tmp_path):
    encoder = load_file(Path(tiny.bad) / "sae_weights.safetensors")["W_enc"]
    code, said = repair(
        tiny.with_weights(tiny.bad, tmp_path / "tied", W_dec=encoder.T.contiguous())
    )
    assert code == 4
    assert "W_dec is the transpose of W_enc: they are tied" in said
    assert _left(tmp_path) == []


def test_an_unfolded_normalisation_needs_a_number_or_folded(repair, tiny, tmp_path):
    path = tiny.copy_of(
        tiny.bad, tmp_path / "sae", normalize_activations="expected_average_only_in"
    )
    for more in ((), ("--sae-norm-factor", "estimate")):
        code, said = repair(path, *more)
        assert code == 4
        assert "--sae-norm-factor" in said
    assert repair(path, "--sae-norm-factor", "folded")[0] == 0
    assert read_repair(tmp_path / "out" / "repair.json").recipe.method == "scale"


@pytest.mark.parametrize("name", ["b_enc", "W_enc", "b_dec"])
def test_an_sae_whose_file_lacks_a_parameter_is_refused_by_its_name(repair, tiny, tmp_path, name):
    shutil.copytree(tiny.bad, tmp_path / "lacking")
    file = tmp_path / "lacking" / "sae_weights.safetensors"
    save_file({k: v for k, v in load_file(file).items() if k != name}, file)
    code, said = repair(tmp_path / "lacking")
    assert code == 4
    assert name in said
    assert _left(tmp_path) == []


def test_a_control_is_nothing_to_repair(repair):
    code, said = repair("demo:control-random_init")
    assert code == 4
    assert "a control, made at run time; there is nothing to repair" in said


def test_several_saes_are_refused(repair, tiny):
    code, said = repair(f"{tiny.root}/saes/*")
    assert code == 4
    assert "SAEs; give one" in said


def test_texts_that_are_too_short_say_how_many_tokens_they_give(repair, tiny, tmp_path):
    code, said = repair(None, "--max-passes", "1")
    assert code == 4
    assert "tokens in rows of 12, but 3,000 were asked for" in said
    assert _left(tmp_path) == []


def test_short_texts_that_are_gone_through_again_say_how_often(repair):
    code, said = repair()
    assert code == 0
    assert "3,000 are" in said
    assert "passes over them" in said


def test_no_texts_are_refused_with_the_option_that_gives_them(tiny, tmp_path, capsys):
    command = ["repair", tiny.bad, "--method", "scale", "--sae-model", tiny.model]
    assert main([*command, "-o", str(tmp_path / "out")]) == 4
    assert "no texts to fit on; give a file or a data set: --sae-dataset" in capsys.readouterr().err


def test_the_saes_own_directory_and_what_holds_it_are_never_written(repair, tiny):
    for out in (tiny.bad, f"{tiny.root}/saes"):
        code, said = repair(tiny.bad, "--force", out=out)
        assert code == 4
        assert "the SAE itself lies there" in said


def test_an_out_that_exists_is_replaced_by_force_alone(repair, tmp_path):
    assert repair()[0] == 0
    before = (tmp_path / "out" / "repair.json").read_bytes()
    code, said = repair()
    assert code == 4
    assert "out: exists already; give another directory, or --force" in said
    assert (tmp_path / "out" / "repair.json").read_bytes() == before
    assert repair(None, "--force")[0] == 0


def test_force_never_removes_what_is_no_sae(repair, tmp_path):
    (tmp_path / "out" / "photos").mkdir(parents=True)
    code, said = repair(None, "--force")
    assert code == 4
    assert "the directory photos: that is no SAE alone" in said
    (tmp_path / "out" / "photos").rmdir()
    (tmp_path / "out" / "letter").write_text("dear")
    code, said = repair(None, "--force")
    assert code == 4
    assert "letter, and no cfg.json" in said
    assert (tmp_path / "out" / "letter").read_text() == "dear"
    code, said = repair(None, "--force", out="out/letter")
    assert code == 4
    assert "is a file; give a directory" in said


@pytest.fixture
def poisoned(monkeypatch):
    """Make the loss NaN from a step on."""

    def poison(step):
        loss, steps = ScaledTask.loss, []

        def poisoned_loss(self, batch):
            steps.append(None)
            return loss(self, batch) * (float("nan") if len(steps) >= step else 1)

        monkeypatch.setattr(ScaledTask, "loss", poisoned_loss)

    return poison


def test_a_nan_ends_with_1_and_keeps_the_last_good_state_to_go_on_from(
    repair, poisoned, tmp_path, monkeypatch
):
    poisoned(20)
    code, said = repair()
    assert code == 1
    assert "the loss is NaN or infinite after" in said
    assert "out.checkpoint" in said
    assert _left(tmp_path) == ["out.checkpoint"]
    monkeypatch.undo()
    code, said = repair()
    assert code == 4
    assert "a repair was begun there" in said
    code, said = repair(None, "--resume", "--learning-rate", "0.0001")
    assert code == 0
    assert _left(tmp_path) == ["out"]
    record = read_repair(tmp_path / "out" / "repair.json")
    assert record.course.tokens >= 3000
    assert "0.001 from 0 tokens on, 0.0001 from" in record.notes[-1]


def test_a_checkpoint_of_other_options_is_refused_naming_the_first(repair, poisoned, tmp_path):
    poisoned(20)
    repair()
    code, said = repair(None, "--resume", "--seed", "1")
    assert code == 4
    assert "was begun with seed 0, now it is 1" in said
    assert _left(tmp_path) == ["out.checkpoint"]


def test_resuming_what_was_never_begun_is_refused(repair):
    code, said = repair(None, "--resume")
    assert code == 4
    assert "no such repair was begun" in said


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--tokens", "0", "--tokens must be 1 or more, found 0"),
        ("--max-passes", "0", "--max-passes must be 1 or more"),
        ("--batch-tokens", "-1", "--batch-tokens must be 1 or more"),
        ("--learning-rate", "nan", "--learning-rate must be above 0, found nan"),
        ("--tolerance", "1", "--tolerance must be a share"),
        ("--seed", "-1", "--seed must be 0 to"),
    ],
)
def test_a_number_that_no_repair_can_have_is_refused_by_its_option(repair, option, value, expected):
    code, said = repair(None, option, value)
    assert code == 4
    assert expected in said
