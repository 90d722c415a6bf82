"""The command that measures a failure again."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from option_samples import needed, sample
from runs import make_case, make_run

from saebench.options import OPTIONS, given_options, run_options
from saebench.records.verdict import Verdict
from saebench.report.reproduce import (
    joined_arguments,
    node_of,
    reproduce,
    reproduce_lines,
    split_arguments,
)

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
ARGUMENTS = (
    "benchmarks", "--sae", "my saes/*", "--sae-sequences", "16", "-q", "-k", "kl_gap", "-n", "2",
    "--sae-json", "r.json", "--sae-html=r.html", "--sae-update-baselines",
)  # fmt: skip


def _run(*cases, argv=("pytest", *ARGUMENTS)):
    run = make_run(*cases)
    return replace(run, run=replace(run.run, argv=argv))


def test_what_is_measured_is_kept_and_what_is_written_is_not():
    assert split_arguments(ARGUMENTS) == (
        "benchmarks",
        ["--sae", "my saes/*", "--sae-sequences", "16"],
    )


@pytest.mark.parametrize(
    ("typed", "places", "expected"),
    [
        ("--rootdir DIR -q b --sae demo", "b", "--rootdir=DIR -q b --sae demo"),
        ("b --rootdir DIR", "b", "b --rootdir=DIR"),
        ("--rootdir b b", "b", "--rootdir=b b"),
        ("--rootdir t -v t", "t", "--rootdir=t -v t"),
        ("--rootdir=DIR b", "b", "--rootdir=DIR b"),
        ("-c FILE --lf", "", "-cFILE --lf"),
        ("--lf b", "b", "--lf b"),
        ("--stepwise b", "b", "--stepwise b"),
        ("--durations 3 -o a=b", "", "--durations=3 -oa=b"),
        ("a b --sae-score-bos c", "a b c", "a b --sae-score-bos c"),
        ("--last", "", "--last"),
    ],
)
def test_an_option_and_its_value_are_joined_by_what_the_parser_took_for_places(
    typed, places, expected
):
    assert list(joined_arguments(typed.split(), places.split())) == expected.split()


def test_the_value_of_another_tools_option_is_kept(pytester, tiny):
    """pytest itself parses the words; the result file's command names the value again."""
    (pytester.path / "other").mkdir()
    pytester.makepyprojecttoml("[tool.pytest.ini_options]")
    options = [
        "--rootdir",
        str(pytester.path / "other"),
        "--durations",
        "1",
        "-c",
        "pyproject.toml",
    ]
    done = pytester.runpytest_inprocess(
        str(BENCHMARKS / "test_sparsity.py"), *options, "--sae-stop-early", "--sae", tiny.good,
        *tiny.options(), "--sae-fail-on", "sparsity.l0<=0.5", "-p", "no:cacheprovider",
    )  # fmt: skip
    (line,) = (line for line in done.outlines if "sparsity@good: pytest" in line)
    words = shlex.split(line.partition(": ")[2])
    assert f"--rootdir={pytester.path / 'other'}" in words
    assert "--durations=1" in words
    assert words[words.index("--sae-stop-early") + 1 :][:2] == ["--sae", tiny.good]
    assert words[1].endswith("benchmarks/test_sparsity.py::test_sparsity[good]")
    again = pytester.runpytest_inprocess(*words[1:], "--collect-only", "-q")
    again.stdout.fnmatch_lines(["*::test_sparsity[[]good[]]", "1 test collected*"])


def test_the_command_names_one_test_and_can_be_pasted_into_a_shell():
    run = _run(make_case("one", "fidelity", Verdict.FAIL))
    command = reproduce(run, run.cases[0])
    assert shlex.split(command) == [
        "pytest", "benchmarks/test_fidelity.py::test_fidelity[one]",
        "--sae", "my saes/*", "--sae-sequences", "16", "--sae-allow-partial",
    ]  # fmt: skip


FLAGS = [each.flag for each in OPTIONS if not each.takes_value]
OURS = pytest.mark.parametrize("each", OPTIONS, ids=lambda each: each.flag)


def _given(config):
    """Return the options that pytest read, but for those that write files."""
    given = given_options(config)
    return run_options({o.name: given[o.name] for o in OPTIONS if o.name in given and o.reproduced})


def _again(pytester, *words):
    """Parse words as pytest does; return its config and that of the command printed for them."""
    config = pytester.parseconfig(*words)
    typed = joined_arguments(map(str, config.invocation_params.args), config.args)
    run = _run(make_case("one", "fidelity", Verdict.FAIL), argv=("pytest", *typed))
    return config, pytester.parseconfig(*shlex.split(reproduce(run, run.cases[0]))[1:])


@OURS
def test_the_command_gives_every_option_the_same_value_again(each, pytester):
    option = [each.flag, *([sample(each)] if each.takes_value else [])]
    others = [w for name, text in needed(each).items() for w in (f"--sae-{name}", text)]
    (pytester.path / "benchmarks").mkdir()
    config, again = _again(pytester, "-q", *option, "benchmarks", "--sae", "demo", "-x", *others)
    assert again.args == ["benchmarks/test_fidelity.py::test_fidelity[one]"]
    assert _given(again) == _given(config)
    left_out = {o.name for o in OPTIONS if not o.reproduced} & set(given_options(again))
    assert left_out == {"allow-partial"}  # one case is a part of a run


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("after", ["benchmarks", "--sae-seed 3", "-k kl_gap"])
def test_a_flag_takes_no_value_whatever_follows_it(flag, after):
    repeated = [each.flag for each in OPTIONS if each.flag == flag and each.reproduced]
    seed = ["--sae-seed", "3"] if "seed" in after else []
    root, arguments = split_arguments(["--sae", "demo", flag, *after.split()])
    assert root == "benchmarks"
    assert arguments == ["--sae", "demo", *repeated, *seed]


@OURS
def test_an_option_and_its_value_may_be_one_word(each):
    words = [f"{each.flag}=x"] if each.takes_value else [each.flag]
    assert split_arguments(["tests/b", *words]) == ("tests/b", words if each.reproduced else [])


def test_a_negative_number_stays_the_value_of_its_option(pytester):
    (pytester.path / "b").mkdir()
    config, again = _again(pytester, "--sae-seed", "-1", "b", "--sae", "b", "--rootdir", "b")
    assert _given(again) == _given(config)
    assert _given(again).settings.seed == -1
    assert (_given(again).sae, again.rootpath) == (("b",), pytester.path / "b")
    assert again.args == ["b/test_fidelity.py::test_fidelity[one]"]


@OURS
def test_a_variable_is_set_again_but_for_those_that_write_files(each):
    run = _run(make_case("one", "fidelity", Verdict.FAIL))
    command = reproduce(run, run.cases[0], {each.variable: "a b"})
    assert command.startswith(f"{each.variable}='a b' pytest ") == each.reproduced
    assert (each.variable in command) == each.reproduced


def test_options_from_the_environment_come_before():
    run = _run(make_case("one", "fidelity", Verdict.FAIL))
    command = reproduce(run, run.cases[0], {"SAEBENCH_CONTEXT": "6 4", "HOME": "/root"})
    assert command.startswith("SAEBENCH_CONTEXT='6 4' pytest ")


def test_only_what_did_not_pass_has_a_command_the_worst_first():
    cases = [
        make_case("one", p, v)
        for p, v in (("sparsity", Verdict.PASS), ("cloze", Verdict.FAIL), ("kl_gap", Verdict.ERROR))
    ]
    assert [line.partition("@")[0] for line in reproduce_lines(_run(*cases))] == ["kl_gap", "cloze"]


def test_a_run_from_python_has_no_command():
    run = _run(make_case("one", "fidelity", Verdict.FAIL), argv=("saebench.judge",))
    assert reproduce(run, run.cases[0]) is None


@pytest.mark.parametrize(
    ("sae", "params", "expected"),
    [
        ("l0→l2", {"first": "l0", "second": "l2"}, "test_x.py::test_x[l0->l2]"),
        ("ö", {}, "test_x.py::test_x[\\xf6]"),
        ("l2", {"scope": "all"}, "test_x.py::test_x[l2-all]"),
    ],
)
def test_the_test_is_called_as_pytest_calls_it(sae, params, expected):
    case = replace(make_case(sae, "x", Verdict.FAIL), params=params)
    assert node_of(case) == expected


def test_the_command_finds_the_test_that_it_names(pytester, tiny, monkeypatch):
    """Collected by pytest itself, from the shipped benchmarks."""
    arguments = (str(BENCHMARKS), "--sae", tiny.good, "--sae", tiny.bad)
    run = _run(make_case("good", "kl_gap", Verdict.FAIL), argv=("pytest", *arguments))
    case = replace(run.cases[0], params={"scope": "single"})
    command = shlex.split(reproduce(run, case))
    monkeypatch.chdir(pytester.path)
    done = pytester.runpytest_subprocess(*command[1:], "--collect-only", "-q")
    done.stdout.fnmatch_lines(["*::test_kl_gap[[]good-single[]]", "1 test collected*"])
