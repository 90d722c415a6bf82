"""What cannot be judged ends with exit code 4, a message that helps, and nothing written.

Some cases run pytest to its end (`refused`); the others, a run's first half (`refusal`).
"""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import FEATURES

import saebench
from saebench.errors import DataError, OptionError, SubjectError
from saebench.subjects.references import find_subjects

WEIGHTS = "sae_weights.safetensors"


def test_no_sae_at_all_is_refused_and_says_how_to_name_one(gate_run):
    message = gate_run.refused()
    assert "no SAE to judge" in message
    assert "--sae PATH" in message


def test_a_path_that_does_not_exist_is_refused(gate_run, tmp_path):
    message = gate_run.refused("--sae", str(tmp_path / "absent"))
    assert "absent: no such directory" in message
    assert "expected a SAELens directory" in message


def test_a_directory_without_an_sae_is_refused(gate_run, tmp_path):
    message = gate_run.refusal("--sae", str(tmp_path))
    assert "no SAE in it" in message
    assert "save_model" in message


def test_a_directory_of_saes_is_refused_with_the_glob_that_means_them(gate_run, tiny):
    above = str(Path(tiny.good).parent)
    assert f"--sae '{above}/*'" in gate_run.refusal("--sae", above)


def test_a_glob_without_match_is_refused(gate_run, tmp_path):
    assert "matches 0 directories" in gate_run.refusal("--sae", str(tmp_path / "x*"))


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_truncated_weights_are_refused(gate_run, tiny, tmp_path, length):
    sae = tiny.copy_of(tiny.good, tmp_path / "cut")
    content = (sae / WEIGHTS).read_bytes()
    (sae / WEIGHTS).write_bytes(content[:length])
    message = gate_run.refusal("--sae", str(sae))
    assert f"{sae}/{WEIGHTS}: truncated" in message
    assert "copy or save it again" in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"architecture": "topk"}, "cfg.json: k must be a positive integer, found None"),
        ({"architecture": "gated"}, "the weights have no b_gate, b_mag, r_mag"),
        ({"architecture": "temporal"}, "predicts each activation from those before it"),
        ({"normalize_activations": "bogus"}, "normalize_activations must be none"),
        ({"normalize_activations": "expected_average_only_in"}, "--sae-norm-factor folded"),
        ({"apply_b_dec_to_input": "yes"}, "apply_b_dec_to_input must be bool, found 'yes'"),
        ({"reshape_activations": "hook_z"}, "for hook_z SAEs"),
        ({"metadata__hook_head_index": 0}, "hook_head_index=0: only hook_z has heads"),
        ({"metadata__hook_name": "model.layers.0.mlp.gate_proj"}, "of tiny-llama is 32 wide"),
    ],
)
def test_a_configuration_that_the_weights_or_model_do_not_bear_is_refused(
    gate_run, tiny, tmp_path, change, expected
):
    sae = tiny.copy_of(tiny.good, tmp_path / "odd", **change)
    assert expected in gate_run.refusal("--sae", str(sae))


def test_missing_weights_are_refused(gate_run, tiny, tmp_path):
    sae = tiny.copy_of(tiny.good, tmp_path / "bare")
    (sae / WEIGHTS).unlink()
    assert f"{WEIGHTS}: missing" in gate_run.refusal("--sae", str(sae))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ("\x00\xff", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1, 2]", "expected a JSON object, found list"),
        (" " * (1 << 21), "no SAE configuration"),
    ],
)
def test_a_cfg_json_that_is_no_configuration_is_refused(gate_run, tiny, tmp_path, text, expected):
    sae = tiny.copy_of(tiny.good, tmp_path / "odd")
    (sae / "cfg.json").write_text(text, encoding="latin-1")
    message = gate_run.refusal("--sae", str(sae))
    assert expected in message
    assert "cfg.json" in message


@pytest.mark.parametrize("key", ["d_in", "d_sae"])
@pytest.mark.parametrize("size", [10**12, 2**31, -1, 0, 1.5, "32", None, True])
def test_an_impossible_size_is_refused_before_anything_is_allocated(tiny, tmp_path, key, size):
    sae = tiny.copy_of(tiny.good, tmp_path / "huge", **{key: size})
    with pytest.raises(SubjectError, match=f"{key} must be a positive integer, found"):
        find_subjects([str(sae)])


def test_a_size_of_a_trillion_features_ends_with_exit_code_4(gate_run, tiny, tmp_path):
    sae = tiny.copy_of(tiny.good, tmp_path / "huge", d_sae=10**12)
    assert "d_sae must be a positive integer" in gate_run.refused("--sae", str(sae))


@pytest.mark.parametrize("size", [16, 33, 2**31 - 1])
def test_shapes_that_disagree_with_the_weights_are_refused(gate_run, tiny, tmp_path, size):
    sae = tiny.copy_of(tiny.good, tmp_path / "other", d_sae=size)
    message = gate_run.refusal("--sae", str(sae))
    assert f"W_enc is (16, {FEATURES}), but cfg.json says (16, {size})" in message


def test_weights_without_an_encoder_are_refused(gate_run, tiny, tmp_path):
    sae = tiny.copy_of(tiny.good, tmp_path / "empty")
    save_file({"b_dec": torch.zeros(16)}, sae / WEIGHTS)
    assert "the weights have no W_dec, W_enc, b_enc" in gate_run.refusal("--sae", str(sae))


def test_an_unknown_architecture_is_refused(gate_run, tiny, tmp_path):
    sae = tiny.copy_of(tiny.good, tmp_path / "odd", architecture="topkk")
    message = gate_run.refusal("--sae", str(sae))
    assert "unknown architecture 'topkk'; did you mean 'topk'?" in message


def test_d_in_that_is_not_the_models_width_is_refused(gate_run, tiny):
    message = gate_run.refused("--sae", tiny.sae("narrow", width=8))
    assert "d_in is 8, but blocks.1.hook_resid_pre of tiny-llama is 16 wide" in message
    assert "--sae-model" in message


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        ("blocks.7.hook_resid_pre", "has 2 blocks, 0 to 1"),
        ("blocks.0.hook_resid_prre", "did you mean 'hook_resid_pre'?"),
        ("transformer.h.3", "is not known: expected blocks.LAYER.HOOK"),
        ("blocks.-1.hook_resid_pre", "is not known"),
        ("", "no hook_name"),
    ],
)
def test_a_hook_that_is_not_in_the_model_is_refused(gate_run, tiny, tmp_path, hook, expected):
    sae = tiny.copy_of(tiny.good, tmp_path / "hooked", metadata__hook_name=hook)
    assert expected in gate_run.refusal("--sae", str(sae))


@pytest.mark.parametrize(
    ("missing", "named", "option"),
    [
        ("hook_name", "--sae-hook", ("--sae-hook", "blocks.1.hook_resid_pre")),
        ("context_size", "--sae-context", ("--sae-context", "10")),
        ("context_size", "--sae-context", ("--sae-training-context", "10")),
    ],
)
def test_missing_metadata_is_refused_and_an_option_supplies_it(
    gate_run, tiny, tmp_path, missing, named, option
):
    sae = str(tiny.copy_of(tiny.good, tmp_path / "mute", drop=(missing,)))
    message = gate_run.refusal("--sae", sae)
    assert f"metadata has no {missing}" in message
    assert named in message
    assert gate_run.judge("--sae", sae, *option, "-k", "shrinkage").ret == 0


def test_missing_model_name_is_refused_and_sae_model_supplies_it(gate_run, tiny, tmp_path):
    sae = str(tiny.copy_of(tiny.good, tmp_path / "mute", drop=("model_name",)))
    data = ("--sae-dataset", tiny.texts, "--sae-sequences", "8", "-k", "shrinkage")
    done = gate_run.run("--sae", sae, *data)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*metadata has no model_name*give it: --sae-model PATH|NAME*"])
    assert gate_run.run("--sae", sae, *data, "--sae-model", tiny.model).ret == 0


def test_malformed_metadata_is_refused(gate_run, tiny, tmp_path):
    sae = tiny.copy_of(tiny.good, tmp_path / "odd", metadata__context_size="128")
    assert "metadata.context_size must be int, found str" in gate_run.refusal("--sae", str(sae))


@pytest.mark.parametrize("context", [-5, 0, 1, 2])
def test_an_impossible_training_context_is_refused(gate_run, tiny, tmp_path, context):
    sae = tiny.copy_of(tiny.good, tmp_path / "short", metadata__context_size=context)
    message = gate_run.refusal("--sae", str(sae))
    assert f"a training context of {context} tokens; expected 3 or more" in message


def test_no_data_at_all_is_refused(gate_run, tiny):
    with pytest.raises(DataError, match="no texts to measure on.*--sae-dataset"):
        gate_run.prepare("--sae", tiny.good)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("empty.jsonl", "", "the file is empty"),
        ("blank.jsonl", "\n\n", "no document has 12 tokens; 0 were read"),
        ("rows.csv", "text\nw1", ".csv is not read; expected one of .jsonl, .txt, .parquet"),
        ("rows", "text\nw1", "no suffix is not read"),
        ("odd.jsonl", '{"text": "w1"}\n{"txt": 1}\n', "line 2: expected a string under 'text'"),
        ("null.jsonl", '{"text": null}\n', "1 were read (found: 1 null text), the longest has 0"),
        ("list.jsonl", '{"text": "w1"}\n\n[1]\n', "line 3: expected a string under 'text'"),
        ("json.jsonl", '{"text": "w1"}\n{"text"\n', "line 2: not valid JSON"),
        ("short.txt", "w1 w2\nw3 w4 w5\n", "2 were read, the longest has 4"),
        ("odd.parquet", "no parquet", "no parquet file"),
    ],
)
def test_texts_that_cannot_be_read_are_refused(gate_run, tiny, tmp_path, name, content, expected):
    (tmp_path / name).write_text(content)
    message = gate_run.refusal("--sae", tiny.good, "--sae-dataset", str(tmp_path / name))
    assert expected in message
    assert name in message


def test_texts_that_are_not_utf8_are_refused(gate_run, tiny, tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    message = gate_run.refusal("--sae", tiny.good, "--sae-dataset", str(tmp_path / "latin.jsonl"))
    assert "latin.jsonl, line 1: expected UTF-8 text, found the byte 0xe9" in message


def test_texts_of_special_tokens_alone_are_refused(gate_run, tiny, tmp_path):
    """A token that does not count is no data: nothing would be measured."""
    (tmp_path / "eos.txt").write_text("</s> " * 20 + "\n")
    message = gate_run.refusal("--sae", tiny.good, "--sae-dataset", str(tmp_path / "eos.txt"))
    assert "eos.txt: all tokens of its 1 sequences are special" in message


def test_a_text_file_that_does_not_exist_is_refused(gate_run, tiny, tmp_path):
    absent = str(tmp_path / "absent.jsonl")
    message = gate_run.refused("--sae", tiny.good, "--sae-dataset", absent)
    assert f"{absent}: no such file" in message


def test_a_directory_that_is_no_saved_data_set_is_refused(gate_run, tiny, tmp_path):
    message = gate_run.refusal("--sae", tiny.good, "--sae-dataset", str(tmp_path))
    assert "not a directory written by datasets.save_to_disk" in message


def test_no_document_long_enough_is_refused_and_says_what_was_read(gate_run, tiny):
    message = gate_run.refusal("--sae", tiny.good, "--sae-context", "40")
    assert "no document has 40 tokens; 40 were read, the longest has 25" in message
    assert "smaller --sae-context" in message


def test_a_context_beyond_the_models_is_refused(gate_run, tiny):
    message = gate_run.refusal("--sae", tiny.good, "--sae-context", "49")
    assert "--sae-context 49: tiny-llama takes 48 tokens at most" in message


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(gate_run, tiny, tmp_path, bad):
    sae = tiny.with_weights(tiny.good, tmp_path / "nan", b_dec=torch.full((16,), bad))
    message = gate_run.refusal("--sae", str(sae))
    assert "b_dec has 16 values that are NaN or infinite of 16" in message


class _Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("name", ["sae.pt", "ae.pth", "pytorch_model.bin", "sae.pkl"])
def test_a_pickle_is_refused_unopened(gate_run, tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(_Bomb()))
    message = gate_run.refusal("--sae", str(tmp_path / name))
    assert "a pickle can run code when it is opened, so it is refused" in message
    assert "save_model" in message
    assert not (gate_run.pytester.path / "exploded").exists()


def test_a_directory_with_a_pickle_in_place_of_weights_is_refused(gate_run, tiny, tmp_path):
    sae = tiny.copy_of(tiny.good, tmp_path / "pickled")
    (sae / WEIGHTS).rename(sae / "sae_weights.pt")
    assert "a pickle can run code" in gate_run.refusal("--sae", str(sae))


def test_a_directory_that_holds_only_a_pickle_is_refused(gate_run, tmp_path):
    (tmp_path / "ae.pt").write_bytes(pickle.dumps(_Bomb()))
    assert "a pickle can run code" in gate_run.refusal("--sae", str(tmp_path))


def test_a_pickle_under_the_name_of_safetensors_is_refused(gate_run, tiny, tmp_path):
    sae = tiny.copy_of(tiny.good, tmp_path / "disguised")
    (sae / WEIGHTS).write_bytes(pickle.dumps(_Bomb()))
    assert "no safetensors file" in gate_run.refusal("--sae", str(sae))


def test_a_pickle_in_dictionary_learnings_place_is_refused_and_does_not_run(gate_run, tmp_path):
    stated = {"dict_class": "AutoEncoder", "activation_dim": 16, "dict_size": 32,
            "submodule_name": "resid_post_layer_0"}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({"trainer": stated}))
    (tmp_path / "ae.pt").write_bytes(pickle.dumps({"bias": _Bomb()}))
    assert "could run code, so it is refused" in gate_run.refused("--sae", str(tmp_path))
    assert not (gate_run.pytester.path / "exploded").exists()


@pytest.mark.parametrize(
    ("option", "message"), [(None, "--sae-hook"), ("blocks.7.hook_resid_pre", "has 2 blocks")]
)
def test_a_sparsify_directory_of_another_name_needs_a_hook_that_fits(
    gate_run, tmp_path, option, message
):
    shapes = {"encoder.weight": (24, 16), "encoder.bias": (24,), "W_dec": (24, 16), "b_dec": (16,)}
    save_file({n: torch.ones(s) for n, s in shapes.items()}, tmp_path / "sae.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps({"d_in": 16, "num_latents": 24, "k": 4}))
    given = ["--sae-hook", option] if option else []
    assert message in gate_run.refusal("--sae", str(tmp_path), "--sae-context", "12", *given)


def test_prompts_by_a_name_that_is_not_cached_are_refused(gate_run, tiny, monkeypatch):
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    message = gate_run.refusal("--sae", tiny.good, "--sae-cloze", "cbt_cn")
    assert "--sae-cloze cam-cst/cbt:CN:test: no such file" in message


def test_an_unknown_intervention_is_refused_with_the_nearest(gate_run, tiny):
    message = gate_run.refusal("--sae", tiny.good, "--sae-interventions", "zero,eps_randm")
    assert "unknown intervention 'eps_randm'; did you mean 'eps_random'?" in message


def test_an_unknown_metric_in_a_rule_is_refused_with_the_nearest(gate_run, tiny):
    message = gate_run.refused("--sae", tiny.good, "--sae-fail-on", "fidelity.kll<=1")
    assert "unknown metric 'fidelity.kll'; did you mean 'fidelity.kl'?" in message
    assert "| fidelity.kll<=1 | ^" in message


def test_a_rule_that_does_not_parse_is_refused_with_a_caret(gate_run, tiny):
    done = gate_run.judge("--sae", tiny.good, "--sae-fail-on", "fidelity.kl = 1")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*expected <=, <, >=*", "|   fidelity.kl = 1", "|               ^"])


def test_an_unknown_property_is_refused_with_the_nearest(tiny):
    with pytest.raises(OptionError, match="unknown property 'fidelty'; did you mean 'fidelity'"):
        saebench.judge(tiny.good, tiny.model, tiny.texts, properties=["fidelty"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no such file"),
        ("schema_version = ", "not valid TOML"),
        ("schema_version = 2\n", "schema_version is 2, this saebench reads 1"),
        ("", "schema_version is None, this saebench reads 1"),
    ],
)
def test_a_threshold_file_that_cannot_be_read_is_refused(
    gate_run, tiny, tmp_path, content, expected
):
    path = tmp_path / "limits.toml"
    if content is not None:
        path.write_text(content)
    message = gate_run.refusal("--sae", tiny.good, "--sae-thresholds", str(path))
    assert expected in message
    assert "limits.toml" in message


def test_a_transcoder_that_does_not_say_what_it_predicts_is_refused(gate_run, tiny, tmp_path):
    sae = tiny.copy_of(tiny.good, tmp_path / "transcoder", architecture="transcoder")
    message = gate_run.refusal("--sae", str(sae))
    assert "metadata has no hook_name_out" in message
    assert "--sae-hook-out" in message


@pytest.mark.parametrize("name", ["SAEBENCH_FAILON", "saebench_fail_on", "SAEBENCH_FAIL-ON"])
def test_a_variable_that_is_no_option_is_refused_with_the_nearest(
    gate_run, tiny, monkeypatch, name
):
    monkeypatch.setenv(name, "fidelity.kl<=0")
    message = gate_run.refused("--sae", tiny.good)
    assert f"unknown variable {name}; did you mean 'SAEBENCH_FAIL_ON'?" in message


@pytest.mark.parametrize("table", ["saebench = 3", "[[tool.saebench]]\nseed = 1"])
def test_a_table_of_options_that_is_no_table_is_refused(gate_run, tiny, pytester, table):
    head = "" if table.startswith("[[") else "[tool]\n"
    pytester.makepyprojecttoml(head + table + "\n")
    message = gate_run.refused("--sae", tiny.good)
    assert "[tool.saebench] of pyproject.toml: expected a table" in message


@pytest.mark.parametrize("name", ["SEQUENCES", "CONTEXT", "BATCH_SIZE", "SEED", "TRAINING_CONTEXT"])
def test_an_environment_value_that_is_no_number_is_refused(gate_run, tiny, monkeypatch, name):
    monkeypatch.setenv(f"SAEBENCH_{name}", "abc")
    option = "--sae-" + name.lower().replace("_", "-")
    with pytest.raises(OptionError, match=f"{option}: expected a whole number, found 'abc'"):
        gate_run.prepare("--sae", tiny.good, "--sae-model", tiny.model, "--sae-dataset", tiny.texts)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--sae-sequences", "0"),
        ("--sae-sequences", "-3"),
        ("--sae-prompts", "0"),
        ("--sae-context", "2"),
        ("--sae-batch-size", "0"),
        ("--sae-training-context", "-1"),
        ("--sae-profile", "smoky"),
        ("--sae-dtype", "float23"),
        ("--sae-device", "gpu"),
        ("--sae-packing", "document"),
        ("--sae-inconclusive", "ignore"),
        ("--sae-prepend-bos", "perhaps"),
    ],
)
def test_an_impossible_option_value_is_refused_by_name(gate_run, tiny, option, value):
    message = gate_run.refusal("--sae", tiny.good, option, value)
    assert option in message
    assert value in message


def test_tf32_is_refused_where_there_is_none(gate_run, tiny):
    asked = ("--sae-dtype", "tf32", "--sae-device", "cpu")
    message = gate_run.refusal("--sae", tiny.good, "--sae-model", tiny.model, *asked)
    assert "--sae-dtype tf32 needs an NVIDIA GPU" in message
    assert "found device cpu" in message


def _model_without_weights(tiny, to: Path) -> Path:
    shutil.copytree(tiny.model, to)
    (to / "model.safetensors").unlink()
    return to


def test_a_model_directory_without_weights_is_refused(gate_run, tiny, tmp_path):
    model = str(_model_without_weights(tiny, tmp_path / "empty"))
    message = gate_run.refusal("--sae", tiny.good, "--sae-model", model)
    assert f"model '{model}' (--sae-model) cannot be loaded" in message
    assert "safetensors" in message


def test_a_model_with_only_pickled_weights_is_refused_unopened(gate_run, tiny, tmp_path):
    model = _model_without_weights(tiny, tmp_path / "pickled")
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(_Bomb()))
    message = gate_run.refusal("--sae", tiny.good, "--sae-model", str(model))
    assert "cannot be loaded" in message
    assert not (gate_run.pytester.path / "exploded").exists()


def test_truncated_model_weights_are_refused(gate_run, tiny, tmp_path):
    model = tmp_path / "cut"
    shutil.copytree(tiny.model, model)
    content = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(content[:-50])
    message = gate_run.refusal("--sae", tiny.good, "--sae-model", str(model))
    assert "cannot be loaded" in message


def test_a_model_without_a_tokenizer_is_refused(gate_run, tiny, tmp_path):
    model = tmp_path / "mute"
    shutil.copytree(tiny.model, model)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).unlink()
    message = gate_run.refusal("--sae", tiny.good, "--sae-model", str(model))
    assert "cannot be loaded" in message


def test_a_directory_that_is_no_model_is_refused(gate_run, tiny, tmp_path):
    message = gate_run.refused("--sae", tiny.good, "--sae-model", str(tmp_path))
    assert f"model '{tmp_path}' (--sae-model) cannot be loaded" in message


def test_a_model_whose_architecture_is_unknown_is_refused(gate_run, tiny, tmp_path):
    model = tmp_path / "odd"
    shutil.copytree(tiny.model, model)
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "bert", "architectures": ["BertModel"]}
    (model / "config.json").write_text(json.dumps(config))
    message = gate_run.refusal("--sae", tiny.good, "--sae-model", str(model))
    assert f"'{model}' (--sae-model): its files do not have 44 of the model's weights" in message
