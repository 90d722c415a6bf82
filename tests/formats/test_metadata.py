"""Metadata of SAEs: parsed, completed by options, or refused."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saebench.errors import SubjectError
from saebench.formats.metadata import (
    ARCHITECTURES,
    TRANSCODERS,
    check_config,
    metadata_of,
    parse_metadata,
)
from saebench.options import Overrides

HOOK = "blocks.1.hook_resid_pre"
IN, OUT = "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"
FULL = {
    "hook_name": HOOK,
    "model_name": "gpt2-small",
    "context_size": 128,
    "prepend_bos": False,
    "dataset_path": "text",
}


def _parsed(overrides=None, **changes):
    data = {k: v for k, v in (FULL | changes).items() if v is not None}
    return parse_metadata({"metadata": data}, overrides or Overrides(), where="cfg")


def test_complete_metadata_is_read_as_it_stands():
    found = _parsed()
    assert (found.hook, found.model_name, found.training_context) == (HOOK, "gpt2-small", 128)
    assert (found.prepend_bos, found.dataset_path, found.notes) == (False, "text", ())
    assert not found.module_path


def test_the_top_level_keys_of_saelens_before_version_6_are_read():
    old = {"hook_point": HOOK, "hook_point_head_index": 3, "context_size": 64, "d_in": 16}
    found = parse_metadata(old, Overrides(), where="cfg")
    assert (found.hook, found.head, found.training_context) == (HOOK, 3, 64)


def test_overrides_go_over_metadata():
    found = _parsed(Overrides("blocks.0.hook_mlp_out", 32, True))
    assert (found.hook, found.training_context) == ("blocks.0.hook_mlp_out", 32)
    assert found.prepend_bos is True


def test_a_missing_hook_is_refused_with_the_option_that_supplies_it():
    with pytest.raises(SubjectError, match="cfg: metadata has no hook_name.*--sae-hook"):
        _parsed(hook_name=None)
    assert _parsed(Overrides(hook=HOOK), hook_name=None).hook == HOOK


def test_a_missing_prepend_bos_is_taken_as_true_and_noted():
    found = _parsed(prepend_bos=None)
    assert found.prepend_bos is True
    assert "--sae-prepend-bos" in found.notes[0]
    assert _parsed(Overrides(prepend_bos=False), prepend_bos=None).notes == ()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hook_name", 3),
        ("model_name", ["a"]),
        ("context_size", "128"),
        ("context_size", True),
        ("context_size", 1.5),
        ("prepend_bos", "yes"),
        ("prepend_bos", 1),
        ("hook_head_index", "0"),
        ("model_from_pretrained_kwargs", "x"),
        ("dataset_path", {}),
        ("hook_name_out", 3),
        ("notes", "x"),
    ],
)
def test_metadata_of_the_wrong_kind_are_refused_by_name(key, value):
    with pytest.raises(SubjectError, match=rf"cfg: metadata\.{key} must be"):
        _parsed(**{key: value})


def test_processed_weights_are_honoured_or_noted():
    assert _parsed(model_from_pretrained_kwargs={"center_writing_weights": True}).centred
    found = _parsed(model_from_pretrained_kwargs={"fold_ln": True, "n_devices": 2})
    assert found.notes == ("trained with model_from_pretrained_kwargs ['n_devices']: not honoured",)


@pytest.mark.parametrize(("hook", "noted"), [(HOOK, False), ("blocks.0.attn.hook_z", True)])
def test_folded_value_biases_matter_at_hook_z_alone(hook, noted):
    kwargs = {"fold_value_biases": True}
    assert bool(_parsed(hook_name=hook, model_from_pretrained_kwargs=kwargs).notes) is noted


def test_a_hook_name_of_a_plain_model_is_a_module_path():
    assert _parsed(hook_name="model.layers.8", model_class_name="AutoModelForCausalLM").module_path


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *TRANSCODERS])
def test_every_known_architecture_is_taken(architecture):
    config = {"architecture": architecture, "d_in": 4, "d_sae": 8, "k": 2}
    check_config(config, where="cfg")
    assert metadata_of(config)["d_sae"] == 8


def test_a_temporal_sae_is_refused_with_the_reason():
    with pytest.raises(SubjectError, match="predicts each activation from those before it"):
        check_config({"architecture": "temporal", "d_in": 4, "d_sae": 8}, where="cfg")


def _transcoder(overrides=None, **changes):
    data = FULL | {"hook_name": IN, "hook_name_out": OUT} | changes
    config = {"architecture": "transcoder", "metadata": data}
    return parse_metadata(config, overrides or Overrides(), where="cfg")


def test_a_transcoder_reads_at_its_hook_and_is_judged_at_its_output():
    found = _transcoder(hook_head_index=2, hook_head_index_out=3)
    assert (found.hook, found.input_hook) == (OUT, IN)
    assert (found.head, found.input_head) == (3, 2)
    assert any("a transcoder: reads" in note for note in found.notes)


def test_an_sae_reads_where_it_is_judged():
    assert _parsed().input_hook is None


def test_the_options_name_a_transcoders_hooks():
    found = _transcoder(Overrides(hook=HOOK, hook_out="blocks.0.hook_mlp_out"), hook_name_out=None)
    assert (found.hook, found.input_hook) == ("blocks.0.hook_mlp_out", HOOK)


def test_a_transcoders_input_in_hugging_faces_names_goes_over_the_others():
    exact = "model.layers.1.pre_feedforward_layernorm.output"
    assert _transcoder(hf_hook_name=exact).input_hook == exact
    assert _transcoder(Overrides(hook=HOOK), hf_hook_name=exact).input_hook == HOOK


@pytest.mark.parametrize("architecture", TRANSCODERS)
def test_a_transcoder_without_an_output_is_refused_with_the_option(architecture):
    config = {"architecture": architecture, "metadata": FULL}
    with pytest.raises(SubjectError, match="no hook_name_out.*--sae-hook-out"):
        parse_metadata(config, Overrides(), where="cfg")


def test_folded_norms_matter_to_transcoders_alone():
    kwargs = {"fold_ln": True}
    assert not _parsed(model_from_pretrained_kwargs=kwargs).notes
    noted = _transcoder(model_from_pretrained_kwargs=kwargs).notes
    assert "trained with model_from_pretrained_kwargs ['fold_ln']: not honoured" in noted


def test_what_a_format_has_to_say_is_noted():
    assert _parsed(notes=["the layer is a guess"]).notes == ("the layer is a guess",)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
KEYS = st.sampled_from(["architecture", "d_in", "d_sae", "metadata", *FULL, "hook_name_out"])


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(KEYS, JSON), st.dictionaries(KEYS, JSON) | st.none())
def test_any_json_object_is_an_sae_or_an_error_of_ours(config, metadata):
    if metadata is not None:
        config["metadata"] = metadata
    with contextlib.suppress(SubjectError):
        check_config(config, where="cfg")
        assert parse_metadata(config, Overrides(), where="cfg").hook is not None
