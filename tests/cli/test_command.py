"""The saebench command."""

import json
import os
import subprocess
import sys

import pytest
from tiny import FEATURES, HOOK

import saebench
from saebench.cli import main
from saebench.options import OPTIONS
from saebench.store.environment import benchmarks_dir

COMMAND = [sys.executable, "-c", "import sys; from saebench.cli import main; sys.exit(main())"]


def test_list_shows_id_architecture_features_and_hook(tiny, capsys):
    assert main(["list", tiny.good, tiny.bad]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["SAE", "architecture", "features", "hook"]
    assert [row.split() for row in rows] == [
        [name, "standard", str(FEATURES), HOOK] for name in ("good", "bad")
    ]


def test_lists_columns_are_aligned(tiny, tmp_path, capsys):
    long = tiny.copy_of(tiny.good, tmp_path / "a-name-much-longer-than-the-others")
    main(["list", tiny.good, str(long)])
    lines = capsys.readouterr().out.splitlines()
    assert len({line.find("blocks.") for line in lines[1:]}) == 1
    assert lines[0].index("architecture") == lines[1].index("standard")


def test_list_takes_a_glob_and_a_name_of_the_hub_without_loading_it(tiny, capsys):
    assert main(["list", str(tiny.root / "saes" / "*"), "some-release:blocks.3"]) == 0
    out = capsys.readouterr().out
    assert {"good", "bad", "some-release:blocks.3"} <= set(out.split())


@pytest.mark.parametrize("spec", ["/no/such/sae", "no-such-sae", "a\0b", ""])
def test_list_of_what_is_no_sae_ends_with_4_and_says_so(spec, capsys):
    assert main(["list", spec]) == 4
    said = capsys.readouterr()
    assert said.err.startswith("saebench: --sae ")
    assert "Traceback" not in said.err
    assert not said.out


def test_list_of_a_broken_sae_ends_with_4_naming_the_file(tiny, tmp_path, capsys):
    broken = tiny.copy_of(tiny.good, tmp_path / "broken")
    (broken / "sae_weights.safetensors").write_bytes(b"short")
    assert main(["list", str(broken)]) == 4
    assert "sae_weights.safetensors" in capsys.readouterr().err


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "run" in out
    assert "list" in out
    assert "release gate" in out


def test_the_help_of_run_has_every_option(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["run", "--help"])
    assert ended.value.code == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines() if "  --" in line}
    assert {each.flag for each in OPTIONS} <= listed


def test_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == f"saebench {saebench.__version__}"


@pytest.mark.parametrize("arguments", [[], ["--verbose"], ["lst"], ["list", "--sae", "x"]])
def test_without_a_known_command_the_usage_is_shown(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code not in (0, 1)
    assert "usage: saebench" in capsys.readouterr().err


def test_run_hands_its_arguments_to_pytest_in_its_own_place(monkeypatch):
    handed = []

    def execv(path: str, command: list[str]) -> None:
        handed.append((path, command))
        raise SystemExit(0)  # a process that was replaced does not come back

    monkeypatch.setattr("saebench.cli.run_command.os.execv", execv)
    arguments = ["--sae", "x", "-k", "kl_gap", "--help"]
    monkeypatch.setattr(sys, "argv", ["saebench", "run", *arguments])
    with pytest.raises(SystemExit):
        main()
    ((path, command),) = handed
    assert path == command[0] == sys.executable
    assert str(benchmarks_dir()) in command
    assert command[-5:] == arguments


def test_a_caller_in_python_is_not_replaced_and_gets_the_exit_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--co", "-q", "--no-such-option"]) == pytest.ExitCode.USAGE_ERROR


def test_arguments_are_the_command_lines_where_none_are_given(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["saebench", "list", "/no/such/sae"])
    assert main() == 4
    assert "/no/such/sae" in capsys.readouterr().err


def _saebench(cwd, *arguments):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SAEBENCH_")}
    command = [*COMMAND, "run", *arguments, "-p", "no:cacheprovider"]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_run_judges_as_pytest_on_the_benchmarks_does(gate_run, tiny, tmp_path):
    few = ("--sae-min-documents", "1")
    options = ("--sae", tiny.bad, *tiny.options(), "-k", "shrinkage", *few)
    done = _saebench(tmp_path, *options, "--sae-json", "out.json")
    expected = gate_run.run(*options)
    assert done.returncode == expected.ret == pytest.ExitCode.TESTS_FAILED, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    keys = ("id", "verdict", "fingerprint", "metrics", "gates")
    assert [[c[k] for k in keys] for c in found["cases"]] == [
        [c[k] for k in keys] for c in gate_run.result()["cases"]
    ]


def test_run_takes_the_options_of_the_project_that_it_is_started_in(tiny, tmp_path):
    """As pytest itself would; baselines belong to that project too."""
    table = {"sae": [tiny.good], "model": tiny.model, "dataset": tiny.texts}
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
    (tmp_path / "pyproject.toml").write_text("[tool.saebench]\n" + lines)
    done = _saebench(tmp_path, "--collect-only", "-q", "-k", "shrinkage")
    assert "test_shrinkage[good]" in done.stdout, done.stdout + done.stderr
