"""The command: trainings of the tiny world, what they write, and what is refused."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

import saebench
from saebench.cli import main
from saebench.data.documents import open_documents
from saebench.data.packed import RowSource
from saebench.fit.loop import fit
from saebench.store.json_files import read_training
from saebench.subjects.host_loading import load_host


@pytest.fixture
def options(tiny, tmp_path):
    return [
        "train", "--model", tiny.model, "--dataset", tiny.texts,
        "--hook", "blocks.1.hook_resid_pre", "--context", "12",
        "--batch-rows", "4", "--tokens", "2000", "-o", str(tmp_path / "out"),
    ]  # fmt: skip


def _weights(directory):
    return load_file(directory / "sae_weights.safetensors")


def test_a_frozen_training_begins_with_a_standard_one_and_writes_a_saelens_directory(
    options, tmp_path, capsys
):
    from sae_lens import SAE

    out = tmp_path / "out"
    assert main([*options, "--objective", "frozen", "--sparsity", "l1:0.1/0.001"]) == 0
    assert SAE.load_from_disk(str(out)).cfg.metadata.hook_name == "blocks.1.hook_resid_pre"
    record, first = (read_training(p / "training.json") for p in (out, tmp_path / "out.init"))
    assert (first.recipe.objective, first.recipe.init) == ("standard", "random")
    assert record.recipe.init == first.sae.weights_sha256
    assert record.course.checks[-1].check < record.course.checks[0].check
    assert not (out / "host_patch.safetensors").exists()
    assert (out / "log.csv").read_text().startswith("tokens,loss,check\n0,,")
    assert "a standard SAE is trained first" in capsys.readouterr().err


@pytest.mark.parametrize("sparsity", ["topk:4", "batchtopk:4"])
def test_an_intrusive_training_writes_the_changed_half_layers_and_nothing_else(
    options, tmp_path, sparsity
):
    out = tmp_path / "out"
    command = [*options, "--objective", "intrusive", "--sparsity", sparsity, "--init", "random"]
    assert main(command) == 0
    patch = load_file(out / "host_patch.safetensors")
    assert {name.rsplit(".", 2)[0] for name in patch} == {
        "model.layers.0.mlp", "model.layers.1.self_attn"
    }  # fmt: skip
    assert read_training(out / "training.json").course.host_moved > 0


def test_one_half_layer_alone_can_be_trained(options, tmp_path):
    command = [*options, "--objective", "non-intrusive", "--sparsity", "topk:4"]
    assert main([*command, "--init", "identity", "--half-layers", "after"]) == 0
    patch = load_file(tmp_path / "out" / "host_patch.safetensors")
    assert all(name.startswith("model.layers.1.self_attn.") for name in patch)


def test_the_gate_judges_on_the_patched_model_and_tells_the_tax(options, tmp_path, tiny):
    for objective in ("intrusive", "non-intrusive"):
        out = str(tmp_path / objective)
        command = [*options, "--objective", objective, "--sparsity", "topk:8", "--init", "random"]
        assert main([*command, "-o", out, "--learning-rate", "0.01"]) == 0
    tax = {}
    for objective in ("intrusive", "non-intrusive"):
        run = saebench.judge(
            str(tmp_path / objective), tiny.model, tiny.texts, sequences=8, properties=["tax"],
            host_patch=True,
        )  # fmt: skip
        assert "+patch-" in run.models[0].name
        assert any("judged in tiny-llama+patch-" in note for note in run.saes[0].notes)
        (gate,) = run.cases[0].gates
        assert gate.rule == "tax.ce_increase<=0.05"
        assert not gate.secondary
        tax[objective] = {m.name: m.value for m in run.cases[0].metrics}
    assert (
        0 < tax["non-intrusive"]["tax.kl_from_original"] < tax["intrusive"]["tax.kl_from_original"]
    )
    assert tax["intrusive"]["tax.kl"] > 0


def test_an_sae_without_a_patch_has_no_tax(tiny):
    run = saebench.judge(tiny.good, tiny.model, tiny.texts, sequences=2, properties=["tax"])
    assert run.cases[0].verdict.value == "SKIPPED"
    assert "host_patch.safetensors" in run.cases[0].reason


def test_a_resumed_training_ends_with_the_bits_of_one_that_was_not(options, tmp_path, monkeypatch):
    command = [*options, "--objective", "non-intrusive", "--sparsity", "batchtopk:4"]
    command += ["--init", "random"]
    assert main([*command, "-o", str(tmp_path / "uninterrupted")]) == 0
    halfway = iter(range(9))

    def interrupted(*args, on_check, **more):
        def check(losses):
            on_check(losses)
            if next(halfway) == 8:
                raise KeyboardInterrupt

        return fit(*args, on_check=check, **more)

    monkeypatch.setattr("saebench.fit.training.training_run.fit", interrupted)
    assert main(command) == 2
    monkeypatch.undo()
    assert not (tmp_path / "out").exists()
    assert main([*command, "--sparsity", "batchtopk:5", "--resume"]) == 4
    assert main([*command, "--resume"]) == 0
    for file in ("sae_weights.safetensors", "host_patch.safetensors"):
        one, two = (load_file(tmp_path / d / file) for d in ("uninterrupted", "out"))
        assert all(torch.equal(one[n], two[n]) for n in one)
    assert not (tmp_path / "out.checkpoint").exists()


def test_a_diverging_loss_stops_with_1_and_keeps_the_last_good_checkpoint(
    options, tmp_path, capsys
):
    command = [*options, "--objective", "frozen", "--sparsity", "l1:0/0", "--init", "random"]
    assert main([*command, "--learning-rate", "1e30", "--clip", "0"]) == 1
    assert "stopped there" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_training_that_diverged_goes_on_with_a_smaller_rate_and_says_so(
    options, tmp_path, capsys
):
    command = [*options, "--objective", "frozen", "--sparsity", "topk:4", "--init", "random"]
    assert main([*command, "--learning-rate", "100", "--clip", "0"]) == 1
    assert f"the last good state is in {tmp_path / 'out.checkpoint'}" in capsys.readouterr().err
    assert main([*command, "--learning-rate", "0.001", "--clip", "0", "--resume"]) == 0
    note = read_training(tmp_path / "out" / "training.json").notes[-1]
    assert "the learning rate was changed when the fit was resumed: 100 from 0 tokens" in note


def test_a_coefficient_that_kills_most_features_is_warned_of(options, capsys):
    command = [*options, "--objective", "frozen", "--sparsity", "l1:1000", "--init", "random"]
    assert main([*command, "--learning-rate", "0.02", "--tokens", "12000"]) == 0
    dead = re.search(r"\d+ of 128 features \((\d+)%\) are dead", capsys.readouterr().err)
    assert dead is not None
    assert int(dead[1]) > 50


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--hook", "blocks.0.hook_resid_pre"], "no half-layer before it"),
        (["--hook", "blocks.1.hook_resid_post"], "no half-layer after it"),
        (["--hook", "blocks.1.attn.hook_z"], "not between two half-layers"),
        (["--expansion", "0"], "--expansion must be 1 or more"),
        (["--sparsity", "topk:4.5"], "--sparsity topk:4.5"),
        (["--sparsity", "topk:1000"], "the SAE has 128 features"),
        (["--sparsity", "l2:3"], "no such kind"),
        (["--init", "identity", "--expansion", "1"], "needs --expansion 2"),
        (["--tokens", "90000"], "tokens in rows of 12"),
    ],
)
def test_what_cannot_be_is_refused_saying_why(options, tmp_path, more, said, capsys):
    command = [*options, "--objective", "intrusive", "--sparsity", "topk:4", "--init", "random"]
    assert main([*command, *more]) == 4
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_texts_that_it_is_to_be_judged_on_may_not_be_among_those_trained_on(
    options, tiny, tmp_path, capsys
):
    command = [*options, "--objective", "frozen", "--sparsity", "topk:4"]
    assert main([*command, "--judge-dataset", tiny.texts]) == 4
    assert "overlap" in capsys.readouterr().err
    assert not (tmp_path / "out.init").exists()


def test_checks_are_made_on_rows_that_are_not_trained_on(options, tiny, tmp_path):
    assert main([*options, "--objective", "standard", "--sparsity", "topk:4"]) == 0
    course = read_training(tmp_path / "out" / "training.json").course
    host = load_host(tiny.model, device="cpu", dtype="float32", asked_by="test")
    texts = open_documents(tiny.texts)
    rows = RowSource(texts, host.tokenizer, 12, host.tokenizer.bos_token_id, host.special_ids)
    every = rows.survey(10**4, passes=10**4)
    assert course.texts_tokens < every.tokens
    assert course.dead_of == every.tokens - course.texts_tokens


def test_force_removes_no_directory_that_holds_more_than_an_sae(options, tmp_path, capsys):
    notes = tmp_path / "out" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    assert main([*options, "--objective", "standard", "--sparsity", "topk:4", "--force"]) == 4
    assert "--force replaces an SAE's directory, but there is notes.txt" in capsys.readouterr().err
    assert notes.read_text() == "mine"


def test_out_that_exists_is_refused_without_force(options, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    command = [*options, "--objective", "standard", "--sparsity", "topk:4"]
    assert main(command) == 4
    assert "exists already" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda file: file.write_bytes(b"half"), "no safetensors file"),
        (lambda file: file.write_bytes((file.parent / "sae_weights.safetensors").read_bytes()),
         "expected format"),
    ],
)  # fmt: skip
def test_a_damaged_patch_is_refused(options, tmp_path, tiny, change, said):
    command = [*options, "--objective", "intrusive", "--sparsity", "topk:4", "--init", "random"]
    assert main(command) == 0
    change(tmp_path / "out" / "host_patch.safetensors")
    with pytest.raises(saebench.errors.SubjectError, match=said):
        saebench.judge(str(tmp_path / "out"), tiny.model, tiny.texts, sequences=2, host_patch=True)


def test_a_training_file_of_another_version_is_refused(tmp_path):
    file = tmp_path / "training.json"
    file.write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(saebench.errors.StoreError, match="schema_version of a training is 99"):
        read_training(file)
