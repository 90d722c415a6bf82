"""Warnings of libraries during loading become a note or a refusal, and are never lost."""

import ast
import logging
import warnings
from pathlib import Path

import pytest

from saebench.errors import HostError, SubjectError
from saebench.formats.library_warnings import listening, without_harmless
from saebench.options import Overrides
from saebench.subjects.host_loading import load_host, unread_weights
from saebench.subjects.loading import load_subject, wrap_sae
from saebench.subjects.references import find_subjects

PACKAGE = Path(__file__).resolve().parents[2] / "saebench"
ODD = "the decoder  was\nlost"
OF_A_CLT = "This loads the CLT layer … should only be used to find feature activations, not for "


def test_a_warning_and_a_logged_one_become_notes_once_each():
    with listening() as heard:
        for _ in range(2):
            warnings.warn(ODD, UserWarning, stacklevel=1)
            logging.getLogger("sae_lens.saes.sae").warning("half of %s is missing", "it")
        logging.getLogger("transformers.modeling_utils").error("no weights")
        logging.getLogger("sae_lens").info("loading")
    assert heard.notes(source="x") == (
        "warned while loading: half of it is missing",
        "warned while loading: no weights",
        "warned while loading: the decoder was lost",
    )


def test_what_changes_no_number_is_no_note():
    with listening() as heard:
        warnings.warn("np.bool is deprecated", DeprecationWarning, stacklevel=1)
        warnings.warn("This SAE has non-empty model_from_pretrained_kwargs.", stacklevel=1)
    assert heard.notes(source="x") == ()


def test_a_warning_that_numbers_would_mean_nothing_is_a_refusal_that_cites_it():
    with listening() as heard:
        warnings.warn(OF_A_CLT + "reconstruction", UserWarning, stacklevel=1)
    with pytest.raises(SubjectError, match="--sae x: one layer of a cross-layer .*feature activ"):
        heard.notes(source="--sae x")


def test_loggers_and_filters_are_left_as_they_were():
    logger = logging.getLogger("transformers")
    before = (logger.level, logger.propagate, logger.handlers[:], warnings.filters[:])
    with pytest.raises(KeyError), listening():
        raise KeyError
    assert before == (logger.level, logger.propagate, logger.handlers, warnings.filters)


def test_where_harmless_warnings_are_dropped_the_others_are_given_again():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with without_harmless():
            warnings.warn(ODD, UserWarning, stacklevel=1)
            warnings.warn("The final matryoshka level is not set", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["the decoder was lost"]


def test_what_a_loader_warns_of_stands_in_the_result(tiny, monkeypatch):
    from saebench.formats.saelens import SAELens

    load = SAELens.load

    def warning(self, directory, config):
        warnings.warn("b_dec was not found, using zeros", UserWarning, stacklevel=1)
        return load(self, directory, config)

    monkeypatch.setattr(SAELens, "load", warning)
    (reference,) = find_subjects([tiny.good])
    subject = load_subject(reference, overrides=Overrides(), device="cpu")
    assert subject.metadata.notes == ("warned while loading: b_dec was not found, using zeros",)


def test_what_is_warned_of_while_an_object_is_taken_stands_in_the_result():
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig

    class Warning_(BatchTopKTrainingSAE):
        def save_inference_model(self, path):
            warnings.warn("threshold was never learned", UserWarning, stacklevel=1)
            return super().save_inference_model(path)

    sae = Warning_(BatchTopKTrainingSAEConfig(d_in=4, d_sae=8, k=2))
    notes = wrap_sae(sae, id="x", overrides=Overrides(hook="blocks.0.hook_mlp_out")).metadata.notes
    assert "warned while loading: threshold was never learned" in notes


def test_a_model_whose_files_lack_weights_is_refused_by_their_names(tiny, tmp_path):
    _changed(tiny.model, tmp_path / "m", drop="model.layers.1.mlp.up_proj.weight")
    with pytest.raises(HostError, match=r"do not have 1 of .*layers\.1\.mlp\.up_proj\.weight"):
        load_host(str(tmp_path / "m"), device="cpu", dtype="float32", asked_by="test")


def test_a_model_whose_weights_have_another_shape_is_refused_by_their_names(tiny, tmp_path):
    import torch

    _changed(tiny.model, tmp_path / "m", **{"model.norm.weight": torch.ones(9)})
    with pytest.raises(HostError, match=r"in another shape 1 of .*model\.norm\.weight"):
        load_host(str(tmp_path / "m"), device="cpu", dtype="float32", asked_by="test")


def test_weights_that_a_model_has_no_place_for_are_noted(tiny, tmp_path):
    import torch

    _changed(tiny.model, tmp_path / "m", **{"model.extra.weight": torch.ones(3)})
    host = load_host(str(tmp_path / "m"), device="cpu", dtype="float32", asked_by="test")
    assert [n for n in host.notes if "model.extra.weight" in n]
    assert load_host(tiny.model, device="cpu", dtype="float32", asked_by="test").notes == ()
    assert unread_weights({}, model="m") == ()


def _changed(model, to, *, drop="", **tensors):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(model, to)
    kept = load_file(to / "model.safetensors") | tensors
    kept.pop(drop, None)
    save_file(kept, to / "model.safetensors", metadata={"format": "pt"})


def test_no_other_module_silences_a_library():
    """Whoever filters warnings or turns a logger down loses what it would have said."""
    silent = {"simplefilter", "filterwarnings", "catch_warnings", "set_verbosity_error", "setLevel"}
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute | ast.Name)
        and getattr(node, "attr", getattr(node, "id", None)) in silent
    }
    # A process that only measures shards says nothing of its own.
    assert found == {"formats/library_warnings.py", "scale/process_start.py"}
