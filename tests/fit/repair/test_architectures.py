"""Repairs of SAEs whose features are not suppressed: what they gain, and what the notes say."""

import math
from functools import cache

import pytest
import torch
from tiny import HOOK, TRAINING_CONTEXT, WIDTH

from saebench.cli import main
from saebench.store.json_files import read_repair

K, THRESHOLD = 6, 0.3
DETAILS = {
    "gated": {"l1_coefficient": 0.5, "l1_warm_up_steps": 0},
    "jumprelu": {"l0_coefficient": 0.5, "jumprelu_init_threshold": THRESHOLD},
    "topk": {"use_sparse_activations": False},
    "batchtopk": {"k": K},
}
NOTES = {
    "gated": "gated: the penalty was on the gate alone",
    "jumprelu": "jumprelu: trained on a penalty that does not depend on the features' size",
    "topk": "there is no scale to fix: what decoder methods gain is fit; l0 stays k",
    "batchtopk": "BatchTopK saved as JumpReLU",
}
LACKING = {"gated": "l1_coefficient", "jumprelu": "l0_coefficient", "batchtopk": "k"}
SAVED_AS = {"batchtopk": "jumprelu"}


def _made(architecture):
    import sae_lens as lens
    from sae_lens.saes.sae import SAEMetadata

    metadata = SAEMetadata(
        hook_name=HOOK, context_size=TRAINING_CONTEXT, prepend_bos=True,
        training_architecture=architecture, training_architecture_details=DETAILS[architecture],
    )  # fmt: skip
    sizes = {"d_in": WIDTH, "d_sae": 2 * WIDTH, "metadata": metadata}
    if architecture == "gated":
        return lens.GatedSAE(lens.GatedSAEConfig(**sizes))
    if architecture == "jumprelu":
        return lens.JumpReLUSAE(lens.JumpReLUSAEConfig(**sizes))
    if architecture == "topk":
        config = lens.TopKSAEConfig(**sizes, k=K, rescale_acts_by_decoder_norm=True)
        return lens.TopKSAE(config)
    return lens.BatchTopKTrainingSAE(lens.BatchTopKTrainingSAEConfig(**sizes, k=K))


@pytest.fixture(scope="module")
def sae_of(tiny, tmp_path_factory):
    """Save an SAE of an architecture that decodes with an error; give its directory."""

    @cache
    def save(architecture):
        sae, path = _made(architecture), tmp_path_factory.mktemp(architecture) / architecture
        both = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)])
        noise = torch.randn(both.shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            sae.W_enc.copy_(both.T)
            sae.W_dec.copy_(both + noise / WIDTH**0.5)
            for name in ("threshold", "topk_threshold"):
                if hasattr(sae, name):
                    getattr(sae, name).fill_(THRESHOLD)
        write = getattr(sae, "save_inference_model", sae.save_model)
        write(path)
        return str(path)

    return save


def _repaired(tiny, sae, method, out):
    options = ["--sae-model", tiny.model, "--sae-dataset", tiny.texts, "--tokens", "3000"]
    options += ["--batch-tokens", "64", "--learning-rate", "0.01", "--sequences", "8"]
    assert main(["repair", sae, "--method", method, "-o", str(out), *options]) == 0
    return read_repair(out / "repair.json")


@pytest.mark.parametrize("architecture", DETAILS)
def test_decoder_lowers_the_error_keeps_l0_and_says_that_it_is_fit(
    tiny, sae_of, architecture, tmp_path, capsys
):
    from sae_lens import SAE

    record = _repaired(tiny, sae_of(architecture), "decoder", tmp_path / "out")
    assert record.row("fidelity.mse").change.high < 0
    assert record.row("sparsity.l0").change.value == pytest.approx(0, abs=0.02)
    assert record.course.flips <= record.course.flips_of / 1000
    assert any(NOTES[architecture] in note for note in record.notes)
    assert NOTES[architecture] in capsys.readouterr().err
    saved = SAE.load_from_disk(tmp_path / "out")
    assert saved.cfg.architecture() == SAVED_AS.get(architecture, architecture)
    assert saved.cfg.metadata.repair["method"] == "decoder"


@pytest.mark.parametrize("architecture", DETAILS)
def test_encoder_methods_lower_the_error_and_change_features(tiny, sae_of, architecture, tmp_path):
    record = _repaired(tiny, sae_of(architecture), "encoder", tmp_path / "out")
    assert record.row("fidelity.mse").change.high < 0
    assert "sae.W_enc" in record.recipe.fitted
    assert record.course.flips > 0
    assert record.analysis is None
    if architecture == "topk":  # l0 stays k, whatever is fitted
        assert record.row("sparsity.l0").after.value == K


@pytest.mark.parametrize("architecture", DETAILS)
def test_the_baseline_goes_on_with_the_saes_own_training(tiny, sae_of, architecture, tmp_path):
    record = _repaired(tiny, sae_of(architecture), "baseline", tmp_path / "out")
    assert "sae.W_dec" in record.recipe.fitted
    assert record.recipe.tolerance == 0
    assert record.course.tokens >= 3000
    assert not any("what decoder methods gain" in note for note in record.notes)
    values = [getattr(row, side).value for row in record.rows for side in ("before", "after")]
    assert all(v is None or math.isfinite(v) for v in values)


@pytest.mark.parametrize("architecture", LACKING)
def test_a_baseline_that_does_not_know_its_penalty_says_what_is_missing(
    tiny, sae_of, architecture, tmp_path, capsys
):
    bare = tiny.copy_of(
        sae_of(architecture), tmp_path / "bare", metadata__training_architecture_details={}
    )
    options = ["--sae-model", tiny.model, "--sae-dataset", tiny.texts, "--tokens", "500"]
    out = tmp_path / "out"
    assert main(["repair", str(bare), "--method", "baseline", "-o", str(out), *options]) == 4
    assert f"training_architecture_details.{LACKING[architecture]}" in capsys.readouterr().err
    assert not out.exists()


def test_a_real_topk_gains_fit_and_keeps_its_sixteen_features(real_data, tmp_path):
    out = tmp_path / "out"
    command = ["repair", real_data.sae("l2-topk16"), "--method", "decoder", "-o", str(out)]
    command += ["--sae-model", real_data.model, "--tokens", "100000", "--sequences", "32"]
    command += ["--sae-dataset", real_data.heldout.replace("heldout", "train")]
    assert main([*command, "--judge-dataset", real_data.heldout]) == 0
    record = read_repair(out / "repair.json")
    assert record.row("sparsity.l0").after.value == 16
    assert abs(record.row("fidelity.mse").share.value) < 0.05  # it was trained to fit already
