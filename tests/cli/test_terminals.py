"""Terminals and pipes of any encoding, and paths of any letters, in any locale."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from runs import make_case, make_run

from saebench.cli import main
from saebench.records.verdict import Verdict
from saebench.report.terminal import render
from saebench.store.json_files import read_run, write_record
from saebench.text import every_text, from_system, plain_text

PLAIN_C = {"LC_ALL": "C", "PYTHONUTF8": "0", "OMP_NUM_THREADS": "1"}
ASCII = {"PYTHONIOENCODING": "ascii"}
NAME = "Sä→e"
SEVERAL = """
import sys
from saebench.cli import main
for line in sys.argv[1].split("\\n"):
    print("==", main(line.split("|")))
"""


def _ascii_file(errors: str = "strict") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=errors, write_through=True)


def _written(file: io.TextIOWrapper) -> str:
    return file.buffer.getvalue().decode("ascii")  # pyright: ignore


@pytest.fixture
def run_file(project) -> Path:
    path = project / "läuft→.json"
    write_record(make_run(make_case(NAME, "fidelity", Verdict.FAIL), saes=(NAME,)), path)
    return path


@pytest.mark.parametrize(
    "command",
    ["show FILE", "export FILE --format csv", "export FILE --format markdown",
     "export FILE --format model-card", "report FILE -o page.html", "list demo", "doctor",
     "baseline list", "leaderboard build", "compare FILE FILE", "--help", "run --help",
     "show nö.json", "list nö→"],
)  # fmt: skip
def test_every_command_writes_to_an_ascii_pipe(run_file, command):
    out, err = _ascii_file(), _ascii_file()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(command.replace("FILE", run_file.name).split())
        except SystemExit as ended:
            code = int(ended.code or 0)
    assert code == (4 if "nö" in command else 0)  # there is no such file
    assert (out.errors, err.errors) == ("strict", "strict")  # as they were before
    assert "Traceback" not in _written(err)
    assert _written(out) or _written(err)


def test_what_ascii_lacks_is_escaped_and_lines_are_drawn_in_it(run_file):
    out = _ascii_file()
    with redirect_stdout(out):
        main(["show", run_file.name])
    assert "S\\xe4\\u2192e  FAIL" in _written(out)
    assert "+----" in _written(out)


def _run(code: str, *arguments: str, cwd: Path, **environment: str):
    inherited = {k: v for k, v in os.environ.items() if k not in ("LANG", "LC_ALL", "PYTHONUTF8")}
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, check=False,
        env=inherited | {"PYTHONPATH": root} | environment,
    )  # fmt: skip


def test_paths_of_any_letters_are_read_and_written_in_the_c_locale(tiny, run_file, project):
    sae = tiny.copy_of(tiny.good, project / NAME)
    name = run_file.name
    lines = [f"list|{sae}", f"show|{name}", f"export|{name}|--format|csv|--out|aus→/gabe.csv",
             f"report|{name}|-o|Säite.html", f"compare|{name}|{name}", "list|*"]  # fmt: skip
    (project / "aus→").mkdir()
    done = _run(SEVERAL, "\n".join(lines), cwd=project, **PLAIN_C)
    out = done.stdout.decode("ascii")
    assert [line for line in out.splitlines() if line.startswith("==")] == ["== 0"] * 6, done.stderr
    assert "S\\xe4\\u2192e  standard" in out
    assert (project / "aus→" / "gabe.csv").is_file()
    assert (project / "Säite.html").is_file()


@pytest.mark.usefixtures("few_documents_decide_in_processes")
def test_a_run_in_the_c_locale_reads_and_writes_such_paths_and_prints_its_table(tiny, project):
    import shutil

    tiny.copy_of(tiny.good, project / NAME)
    shutil.copytree(tiny.model, project / "Mödel")
    shutil.copy(tiny.texts, project / "Täxte.jsonl")
    line = (f"run|--sae|{NAME}|--sae-model|Mödel|--sae-dataset|Täxte.jsonl|--sae-sequences|24"
            "|-k|fidelity|--sae-json|aüs.json|--sae-md|aüs.md|--sae-html|aüs.html"
            "|-p|no:cacheprovider")  # fmt: skip
    done = _run(SEVERAL, line, cwd=project, **PLAIN_C)
    out = done.stdout.decode("ascii")
    assert "== 0" in out, out + done.stderr.decode()
    assert "S\\xe4\\u2192e  INCOMPLETE" in out
    assert "\\u2500" not in out  # what tables are drawn with where the terminal has it
    run = read_run(project / "aüs.json")
    assert (run.saes[0].id, run.models[0].name) == (NAME, "Mödel")
    assert run.datasets[0].name == "Täxte.jsonl"
    assert (project / "aüs.md").read_text(encoding="utf-8").count(NAME) > 1


@pytest.mark.usefixtures("few_documents_decide_in_processes")
def test_an_ascii_pipe_gets_the_runs_table_too(tiny, project):
    line = (f"run|--sae|{tiny.good}|--sae-model|{tiny.model}|--sae-dataset|{tiny.texts}"
            "|--sae-sequences|8|-k|fidelity|-p|no:cacheprovider")  # fmt: skip
    done = _run(SEVERAL, line, cwd=project, **ASCII)
    assert "== 0" in done.stdout.decode("ascii"), done.stderr
    assert "good  INCOMPLETE" in done.stdout.decode("ascii")


def test_a_run_of_an_sae_whose_name_holds_an_arrow_is_exported_whole(run_file, capsys):
    """An arrow joins a pair's names in results; in an SAE's own name it is a letter."""
    main(["export", run_file.name, "--format", "csv"])
    assert NAME in capsys.readouterr().out
    main(["show", run_file.name, "--sae", NAME])
    assert "fidelity.kl" in capsys.readouterr().out


def test_tables_are_drawn_in_the_letters_of_the_terminal():
    run = make_run(make_case("one", "fidelity", Verdict.PASS))
    assert "─" in render(run)
    assert "─" not in render(run, encoding="ascii")


def test_a_stream_that_knows_no_encoding_is_left_alone():
    file = io.StringIO()
    with every_text(file):
        file.write("→")
    assert file.getvalue() == "→"


def test_a_judged_run_prints_wherever_it_is_printed(tiny):
    import saebench

    run = saebench.judge(tiny.good, tiny.model, tiny.texts, sequences=4, properties=["fidelity"])
    out = _ascii_file()
    with redirect_stdout(out):
        print(run)  # noqa: T201
    assert "\\u2191" in _written(out)


@pytest.mark.parametrize("name", ["Märchen→.jsonl", "plain", "日本"])
def test_a_path_of_the_c_locale_is_shown_as_it_is_written(name):
    halves = name.encode().decode("ascii", "surrogateescape")
    assert from_system(halves) == from_system(name) == name
    assert plain_text(halves) == name


@pytest.mark.parametrize("name", [chr(0xDCE4), chr(0xD800), "a" + chr(0xDCFF)])
def test_what_is_no_utf8_stays_as_it_is_and_is_never_written(name):
    assert from_system(name) == name
    assert plain_text(name).isascii()


def test_bytes_that_would_turn_the_writing_are_no_more_than_a_question_mark():
    assert plain_text("\u202e".encode().decode("ascii", "surrogateescape")) == "?"
