"""The options: each declared once, and the same on the command line, elsewhere, and in Python."""

import json
from dataclasses import fields
from enum import StrEnum

import numpy as np
import pytest
import torch
from option_samples import needed, sample

from saebench.errors import OptionError
from saebench.option_kinds import Group
from saebench.options import (
    OPTIONS,
    Overrides,
    Packing,
    RunOptions,
    Scale,
    Settings,
    given_options,
    options_from,
    run_options,
)


@pytest.fixture(autouse=True)
def _nothing_in_the_environment(monkeypatch):
    monkeypatch.delenv("SAEBENCH_ALLOW_PARTIAL")


NAMES = {each.name: each for each in OPTIONS}


def value_of(options: RunOptions, field: str):
    """Return the value of an option, in whichever record it is."""
    records = (options, options.settings, options.settings.overrides, options.scale)
    return next(getattr(r, field) for r in records if field in {f.name for f in fields(r)})


every_option = pytest.mark.parametrize("each", OPTIONS, ids=lambda each: each.flag)


@every_option
def test_an_option_has_one_name_in_every_place(each):
    assert each.flag == ("--sae" if each.name == "sae" else f"--sae-{each.name}")
    assert each.variable == "SAEBENCH_" + each.name.upper().replace("-", "_")
    assert [o.name for o in OPTIONS].count(each.name) == 1
    assert [o.field for o in OPTIONS].count(each.field) == 1


@every_option
def test_an_options_default_is_its_records(each):
    assert value_of(RunOptions(), each.field) == each.default
    assert value_of(options_from(RunOptions, {each.field: None}), each.field) == each.default


@every_option
def test_the_command_line_the_environment_and_pyproject_mean_the_same(each, pytester, monkeypatch):
    monkeypatch.chdir(pytester.path)
    written = needed(each) | {each.name: sample(each)}
    expected = run_options(written)
    assert value_of(expected, each.field) != each.default

    def parsed(*words: str) -> RunOptions:
        config = pytester.parseconfig("--rootdir", str(pytester.path), *words)
        return run_options(given_options(config))

    words = [
        word
        for name, text in written.items()
        for word in [NAMES[name].flag, *([text] if NAMES[name].takes_value else [])]
    ]
    assert parsed(*words) == expected
    with monkeypatch.context() as patched:
        for name, text in written.items():
            patched.setenv(NAMES[name].variable, text)
        assert parsed() == expected
    lines = "".join(f"{name} = {json.dumps(text)}\n" for name, text in written.items())
    pytester.makepyprojecttoml("[tool.saebench]\n" + lines)
    assert parsed() == expected


def test_what_is_typed_goes_before_the_environment_and_that_before_pyproject(pytester, monkeypatch):
    pytester.makepyprojecttoml("[tool.saebench]\nseed = 1\ncontext = 11\ndraws = 21\n")
    monkeypatch.setenv("SAEBENCH_SEED", "2")
    monkeypatch.setenv("SAEBENCH_CONTEXT", "12")
    config = pytester.parseconfig("--rootdir", str(pytester.path), "--sae-seed", "3")
    settings = run_options(given_options(config)).settings
    assert (settings.seed, settings.context, settings.draws) == (3, 12, 21)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("sequences", "x", "--sae-sequences: expected a whole number, found 'x'"),
        ("sequences", 5.7, "--sae-sequences: expected a whole number, found 5.7"),
        ("sequences", True, "--sae-sequences: expected a whole number, found True"),
        ("training-context", "1.5", "--sae-training-context: expected a whole number"),
        ("prepend-bos", "perhaps", "--sae-prepend-bos: expected True or False, found 'perhaps'"),
        ("cost", "x", "--sae-cost: expected True or False, found 'x'"),
        ("worker-gpus", "inf", "--sae-worker-gpus: expected a number"),
        ("norm-factor", "-1", "expected folded, estimate or a number above 0, found '-1'"),
        ("fail-on", 3, "--sae-fail-on: expected a list of texts, found 3"),
        ("sae", [3], r"--sae: expected a list of texts, found \[3\]"),
        ("json", 3, "--sae-json: expected a path, found 3"),
        ("packing", "packd", "--sae-packing: unknown value 'packd'; did you mean 'packed'?"),
        ("sequencess", "3", r"\[tool.saebench\].*'sequencess'; did you mean 'sequences'"),
    ],
)
def test_a_value_that_an_option_cannot_have_is_refused_by_its_name(name, text, said):
    with pytest.raises(OptionError, match=said):
        run_options({name: text})


@pytest.mark.parametrize("each", [o for o in OPTIONS if o.least is not None], ids=lambda o: o.flag)
def test_less_than_the_least_is_refused_and_the_least_is_not(each):
    others = needed(each)
    run_options(others | {each.name: str(each.least)})
    with pytest.raises(OptionError, match=f"{each.flag} must be {each.least} or more, found"):
        run_options(others | {each.name: str(each.least - 1)})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ray-address": "auto"}, "--sae-ray-address is Ray's: give --sae-engine ray too"),
        ({"worker-gpus": "1"}, "--sae-worker-gpus is Ray's"),
        ({"rerun": "always"}, "--sae-rerun always: of which run?"),
        ({"stop-early": "yes", "workers": "2"}, "give one or the other"),
        ({"stop-early": "yes", "update-new": "yes"}, "--sae-stop-early with --sae-update-new"),
    ],
)
def test_options_that_exclude_each_other_are_refused(given, said):
    with pytest.raises(OptionError, match=said):
        run_options(given)


def test_python_may_give_objects_of_other_libraries():
    settings = Settings(
        device=torch.device("cpu"), dtype=torch.bfloat16, bos_token=5, sequences=np.int64(4)
    )
    assert (settings.device, settings.dtype) == ("cpu", "bfloat16")
    assert (settings.bos_token, settings.sequences) == ("5", 4)


def test_a_text_may_stand_for_a_list_of_one_and_for_a_choice():
    settings = Settings(interventions="zero", packing="packed")
    assert settings.interventions == ("zero",)
    assert settings.packing is Packing.PACKED


@pytest.mark.parametrize("text", ["zero,eps_random", " zero , eps_random ,"])
def test_interventions_are_separated_by_commas(text):
    assert run_options({"interventions": text}).settings.interventions == ("zero", "eps_random")


def test_saes_and_rules_in_one_text_are_separated_by_line_ends():
    assert run_options({"sae": "a, b\nc"}).sae == ("a, b", "c")


def test_a_path_may_begin_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert str(run_options({"json": "~/out.json"}).json) == "/somewhere/out.json"


def test_numbers_are_changed_by_what_workers_are_sent():
    """Workers get the SAEs and the settings: no other option may change what they measure."""
    sent = {f.name for record in (Settings, Overrides) for f in fields(record)} | {"sae", "cost"}
    of_numbers = {each.field for each in OPTIONS if each.group in (Group.SAE, Group.DATA)}
    assert of_numbers <= sent
    assert not sent & {f.name for f in fields(Scale)}


def test_only_what_is_written_has_no_part_in_measuring_again():
    left_out = {each.name for each in OPTIONS if not each.reproduced}
    assert left_out == {"json", "md", "html", "update-baselines", "update-new", "allow-partial"}


def test_defaults_are_in_the_help():
    assert NAMES["position"].help.endswith("(default 32)")
    assert NAMES["seed"].help.endswith("(default 0)")
    assert NAMES["packing"].help.endswith("(default documents)")
    assert "default: the profile's" in NAMES["sequences"].help
    assert "(default" not in NAMES["cost"].help


def test_every_choice_is_in_the_help():
    enums = [f.type for f in (*fields(Settings), *fields(Scale)) if isinstance(f.type, type)]
    chosen = [kind for kind in enums if issubclass(kind, StrEnum)]
    metavars = {each.kind.metavar for each in OPTIONS}
    assert {"|".join(kind) for kind in chosen} <= metavars
    assert len(chosen) == 6


def test_every_group_has_options():
    assert {each.group for each in OPTIONS} == set(Group)
