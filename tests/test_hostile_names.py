"""Names that a stranger chose, from a directory to every place where they are shown."""

import json
import re
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from full_run import full_run
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from runs import make_case, make_run
from stored import HOOK, MODEL, make_subject, store

from saebench.cli import main
from saebench.records.verdict import Verdict
from saebench.report.exports.junit import to_junit
from saebench.report.exports.measurements import to_csv
from saebench.report.exports.model_card import to_model_card
from saebench.report.exports.sae_bench import file_name
from saebench.report.markdown import to_markdown
from saebench.report.page.markup import text
from saebench.report.page.run_page import run_page
from saebench.report.style import Plain
from saebench.report.terminal import remarks, render, sentences
from saebench.store.baselines import _head_sha256, baseline_path
from saebench.store.json_files import write_record
from saebench.text import file_part, plain_lines

NAMES = (
    "\x1b[2J\x1b]8;;https://evil.example\x07click\x1b]8;;\x07", "‮ssap", "a\u2066b\u2069",
    "x\n::stop-commands::y", "x\r\n##[error]z", "<img src=x onerror=alert(1)>",
    "[red]m[/red]", "[link=file:///etc/passwd]l[/link]", "![i](https://evil.example/p.png)",
    "a|b`c*d_e", "=cmd|'/C calc'!A0", "\x00\x07\x08\x9b31m", "\ud800", "../../etc/passwd",
    "NUL", "x" * 400, "]]>&x;",
)  # fmt: skip
SEEN = re.compile(r"\x1b\[[0-9;]*m|\n")  # colours of ours, and the ends of lines


def _hostile_run(name):
    run = full_run("one", "two")
    saes = (replace(run.saes[0], id=name, source=name, architecture=name, hook=name, notes=(name,)),
            run.saes[1])  # fmt: skip
    cases = []
    for case in run.cases:
        swapped = {k: name if v == "one" else v for k, v in case.params.items()}
        gates = tuple(replace(g, sentence=name) for g in case.gates)
        series = case.series | {"sentences": [name]}
        if "tokens" in series:
            series["tokens"] = [t | {"token": name} for t in series["tokens"]]
        own = name if case.sae == "one" else case.sae.replace("one→", f"{name}→")
        cases.append(replace(case, sae=own, id=f"{case.property}@{own}", reason=name,
                             params=swapped, gates=gates, series=series))  # fmt: skip
    data = (replace(run.datasets[0], name=name),)
    models = (replace(run.models[0], name=name, device=name),)
    return replace(run, saes=saes, cases=tuple(cases), datasets=data, models=models)


def _shows_only_text(shown):
    """Nothing steers the terminal, and no line can be taken for a command of a CI service."""
    rest = SEEN.sub("", shown)
    assert all(c.isprintable() for c in rest), sorted({c for c in rest if not c.isprintable()})
    assert not [line for line in shown.splitlines() if line.lstrip().startswith(("::", "##["))]


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_terminal_shows_names_and_is_not_steered_by_them(name, colour):
    run = _hostile_run(name)
    _shows_only_text(render(run, width=90, colour=colour))
    for line in (*sentences(run, *Verdict), *remarks(run)):
        assert "\n" not in line
        _shows_only_text(line)


@pytest.mark.parametrize("name", NAMES)
def test_an_error_about_a_name_keeps_to_its_own_lines(name):
    said = plain_lines(f"--sae {name}: no such directory")
    assert all(line.startswith("| ") for line in said.splitlines()[1:])
    _shows_only_text(said)


def test_even_a_table_that_forgot_to_ask_cannot_steer_the_terminal():
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column("\x1b[31m")
    table.add_row("[link=https://evil.example]x[/link]\x1b[2J\u202e")
    out = StringIO()
    Console(file=out, force_terminal=True, width=80).print(Plain(table))
    assert "evil" not in out.getvalue()
    _shows_only_text(out.getvalue())


@pytest.mark.parametrize("name", NAMES)
def test_the_command_shows_a_result_file_of_a_stranger(name, tmp_path, capsys):
    write_record(_hostile_run(name), tmp_path / "run.json")
    assert main(["show", str(tmp_path / "run.json")]) == 0
    _shows_only_text(capsys.readouterr().out)
    assert main(["show", str(tmp_path / "run.json"), "--sae", name + "x"]) == 4
    _shows_only_text(capsys.readouterr().err)


@pytest.mark.parametrize("name", NAMES)
def test_markdown_holds_no_image_link_or_html_of_a_name(name):
    for source in (to_markdown(_hostile_run(name)), to_model_card(_hostile_run(name))):
        body = source.split("---\n\n")[-1]
        tokens = MarkdownIt("commonmark").enable("table").parse(body)
        inline = [child for token in tokens for child in token.children or ()]
        assert not [t for t in inline if t.type in ("image", "link_open", "html_inline")]
        html = {t.content.strip() for t in tokens if t.type == "html_block"}
        assert all(re.fullmatch(r"</?details>|<details><summary>[\w ]+</summary>", h) for h in html)


@pytest.mark.parametrize("name", NAMES)
def test_xml_html_and_csv_hold_names_as_text(name):
    run = _hostile_run(name)
    assert {e.tag for e in ET.fromstring(to_junit(run).encode()).iter()} <= {
        "testsuites", "testsuite", "testcase", "properties", "property", "failure", "error",
        "skipped",
    }  # fmt: skip
    page = run_page(run)
    assert "<img" not in page
    assert "‮" not in page
    page.encode()
    assert "<" not in text(name).replace("&lt;", "")
    assert not [line for line in to_csv(run).splitlines() if line.startswith(("=", "@"))]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_out_of_a_directory(name, tmp_path):
    subject = replace(make_subject("one"), id=name, hook=name, source=name)
    path = baseline_path(tmp_path, subject, replace(MODEL, name=name))
    assert path.relative_to(tmp_path).parts[-1].endswith(".json")
    assert len(path.relative_to(tmp_path).parts) == 3
    path.parent.mkdir(parents=True)
    path.touch()
    assert path.resolve().is_relative_to(tmp_path.resolve())
    assert "/" not in file_name(subject)
    (tmp_path / file_name(subject)).touch()


@given(st.text(max_size=300))
def test_a_part_of_a_path_is_one_part_on_every_system(name):
    part = file_part(name)
    assert re.fullmatch(r"[A-Za-z0-9_-](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?", part)
    assert len(part) <= 121
    stem = part.partition(".")[0].upper()
    assert stem not in {"CON", "PRN", "AUX", "NUL", *(f"COM{i}" for i in range(10)),
                        *(f"LPT{i}" for i in range(10))}  # fmt: skip


def test_two_saes_whose_names_become_one_get_a_file_each(tmp_path, capsys):
    names = ("a/b", "a_b")
    run = make_run(*(make_case(n, "fidelity", Verdict.PASS) for n in names), saes=names)
    run = replace(run, saes=tuple(replace(s, source=s.id) for s in run.saes))
    write_record(run, tmp_path / "run.json")
    arguments = ["export", str(tmp_path / "run.json"), "--format", "sae_bench"]
    assert main([*arguments, "--out", f"{tmp_path}/out/"]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 2
    capsys.readouterr()


@pytest.mark.filterwarnings("ignore:Glyph")  # the font has none for what is invisible
def test_figures_of_hostile_names_stay_in_their_directory(tmp_path):
    from saebench.report.static_figures import write_figures

    run = _hostile_run("../../\x00" + "n" * 300)
    written = write_figures(run, tmp_path / "figures")
    assert written
    assert {path.parent for path in written} == {tmp_path / "figures"}
    assert {*tmp_path.iterdir()} == {tmp_path / "figures"}


FOLDERS = ("\x1b[31mred", "a\n::error::b", "‮[red]<b>", "=" + "e" * 200)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_directory_s_name_goes_through_a_whole_run_as_text(name, gate_run, tiny, tmp_path):
    sae = tmp_path / name
    shutil.copytree(tiny.good, sae)
    page, summary = tmp_path / "page.html", tmp_path / "run.md"
    done = gate_run.judge("--sae", str(sae), "-k", "fidelity", "--sae-html", str(page),
                          "--sae-md", str(summary), "--sae-update-baselines",
                          *gate_run.only("fidelity"),
                          "--sae-fail-on", "fidelity.kl<=0.0000001")  # fmt: skip
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    _shows_only_text("\n".join(done.outlines))
    assert all(c.isprintable() or c == "\n" for c in summary.read_text())
    assert "\x1b" not in page.read_text()
    assert all(c.isprintable() for c in gate_run.result()["saes"][0]["id"])
    stored = list((gate_run.pytester.path / "baselines").rglob("*.json"))
    assert len(stored) == 1


@pytest.mark.parametrize("name", FOLDERS)
def test_a_damaged_directory_s_name_is_text_in_the_message(name, gate_run, tiny, tmp_path, capsys):
    sae = tmp_path / name
    shutil.copytree(tiny.good, sae)
    (sae / "cfg.json").write_text("{")
    gate_run.refused("--sae", str(sae))
    capsys.readouterr()
    assert main(["list", str(sae)]) == 4
    _shows_only_text(capsys.readouterr().err)


def test_a_directory_whose_name_is_no_text_is_refused(tiny, tmp_path, capsys):
    sae = Path(f"{tmp_path}/bad\udcff")
    try:
        shutil.copytree(tiny.good, sae)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes no such name")
    assert main(["list", str(sae)]) == 4
    assert "no valid UTF-8" in capsys.readouterr().err


def test_a_list_of_saes_shows_hooks_as_text(tiny, tmp_path, capsys):
    sae = tiny.copy_of(tiny.good, tmp_path / "sae", metadata__hook_name="a\x1b[2Jb")
    assert main(["list", str(sae)]) == 0
    _shows_only_text(capsys.readouterr().out)


def test_a_baseline_of_a_stranger_is_shown_as_text(tmp_path, capsys):
    path = store(tmp_path, "one", sequences=4)
    told_ = json.loads(path.read_text())
    told_["sae"]["id"] = told_["model"]["name"] = "\x1b[2J\n::error::x"
    told_["head_sha256"] = _head_sha256(told_)  # a stranger can do that too
    path.write_text(json.dumps(told_))
    for arguments in (["list"], ["show", str(path)]):
        assert main(["baseline", *arguments, "--baselines", str(tmp_path)]) == 0
        _shows_only_text(capsys.readouterr().out)
    assert HOOK
