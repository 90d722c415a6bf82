"""Every key of SAELens' configurations: honoured, harmless, noted or refused."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from old_saelens import RUNNER_5, load, random_tensors, save

import saebench.formats.saelens_keys as keys
from saebench.errors import SubjectError
from saebench.formats.saelens_keys import HARMLESS, HONOURED, NOTED, REFUSED, check_keys
from saebench.subjects.references import find_subjects

DOCS = Path(__file__).resolve().parents[2] / "docs" / "loaders.md"


def test_no_key_is_in_two_tables():
    tables = [HONOURED, HARMLESS, set(NOTED), set(REFUSED)]
    assert sum(map(len, tables)) == len(set().union(*tables))


@pytest.mark.parametrize(
    ("row", "table"),
    [("honoured", HONOURED), ("harmless", HARMLESS), ("noted", NOTED), ("refused", REFUSED)],
)
def test_the_documentation_shows_the_same_table(row: str, table):
    found = re.search(rf"^\| SAELens \| {row} \| (.*?) \|$", DOCS.read_text(), re.MULTILINE)
    assert found is not None
    assert set(re.findall(r"`(\w+)`", found[1])) == set(table)


def test_every_key_that_the_installed_saelens_writes_is_known():
    from sae_lens import LanguageModelSAERunnerConfig
    from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY

    registered = [*SAE_CLASS_REGISTRY.values(), *SAE_TRAINING_CLASS_REGISTRY.values()]
    classes = [LanguageModelSAERunnerConfig, *(config for _, config in registered)]
    written = {field.name for config in classes for field in fields(config)} - {"sae"}
    assert written <= HONOURED | HARMLESS | set(NOTED) | set(REFUSED)


def test_a_configuration_of_the_runner_of_saelens_5_has_nothing_to_note():
    assert check_keys(RUNNER_5, where="cfg.json") == ()


@pytest.mark.parametrize("key", ["post_activation", "pre_bias", "input_scale", "unit_norm_dec"])
def test_an_unknown_key_that_may_change_the_numbers_is_refused(key: str, tmp_path: Path):
    path = save(tmp_path / "sae", random_tensors(), **{key: 2})
    with pytest.raises(SubjectError, match=rf"cfg\.json: unknown key '{key}' \(2\), which may"):
        find_subjects([str(path)])


@pytest.mark.parametrize("off", [False, 0, 0.0, "none", [], {}])
def test_what_is_switched_off_is_noted_but_no_reason_to_refuse(off):
    [note] = check_keys({"post_activation": off, "tied_weights": off}, where="a/cfg.json")
    assert note == "cfg.json has keys that saebench does not know: post_activation"
    assert check_keys({"post_activation": None, "tied_weights": None}, where="cfg.json") == ()


def test_another_unknown_key_is_noted_in_the_result(tmp_path: Path):
    notes = load(save(tmp_path / "sae", random_tensors(), team="interp")).metadata.notes
    assert "cfg.json has keys that saebench does not know: team" in notes


@pytest.mark.parametrize("key", REFUSED)
def test_a_key_that_no_class_honours_is_refused_with_what_to_do(key: str):
    with pytest.raises(SubjectError, match=rf"cfg: {key}=True is not read .*saebench\.judge\("):
        check_keys({key: True}, where="cfg")


def test_arguments_of_the_models_forward_pass_are_noted():
    [note] = check_keys({"model_kwargs": {"a": 1}}, where="cfg")
    assert keys.NOTED["model_kwargs"] in note
