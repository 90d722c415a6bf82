"""saebench export."""

import csv
import json
import os
import sys
from xml.etree import ElementTree as ET

import pytest
from huggingface_hub import ModelCard

from saebench.report.exports.renderers import BUILT_IN

READERS = {
    "csv": lambda text: list(csv.DictReader(text.splitlines())),
    "junit": lambda text: list(ET.fromstring(text.encode()).iter("testcase")),
    "markdown": lambda text: [line for line in text.splitlines() if line.startswith("| `")],
    "model-card": lambda text: ModelCard(text).data.eval_results,
    "sae_lens": json.loads,
}


@pytest.mark.parametrize("layout", READERS)
def test_each_format_is_written_and_read_by_its_own_readers(project, saebench, layout):
    said = saebench("export", "run.json", "--format", layout, "--out", "new/dir/out")
    assert (said.code, said.out) == (0, "written: new/dir/out")
    text = (project / "new" / "dir" / "out").read_text()
    assert len(READERS[layout](text)) >= 2
    assert "one" in text


def test_every_format_is_tested():
    assert set(READERS) | {"sae_bench"} == set(BUILT_IN)


def test_without_out_it_goes_to_standard_output(project, capsys):
    from saebench.cli import main

    assert main(["export", "run.json", "--format", "csv", "--sae", "two"]) == 0
    assert [row["sae"] for row in READERS["csv"](capsys.readouterr().out)] == ["two", "two"]


def test_sae_bench_writes_a_file_for_each_sae(project, saebench):
    assert saebench("export", "run.json", "--format", "sae_bench", "--out", "core/").code == 0
    assert sorted(os.listdir(project / "core")) == [
        "one_custom_sae_eval_results.json", "two_custom_sae_eval_results.json",
    ]  # fmt: skip


def test_sae_bench_of_one_sae_may_be_one_file(project, saebench):
    options = ("--format", "sae_bench", "--sae", "one", "--out", "one.json")
    assert saebench("export", "run.json", *options).code == 0
    assert json.loads((project / "one.json").read_text())["sae_lens_release_id"] == "one"


@pytest.mark.parametrize("out", [(), ("--out", "run.json")])
def test_sae_bench_of_several_saes_needs_a_directory(project, saebench, out):
    before = (project / "run.json").read_bytes()
    said = saebench("export", "run.json", "--format", "sae_bench", *out)
    assert said.code == 4
    assert "give a directory with --out, or choose one with --sae" in said.err
    assert (project / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("run.json",), "required: --format"),
        (("run.json", "--format", "xml"), "invalid choice: 'xml'"),
        (("none.json", "--format", "csv"), "none.json: No such file"),
        (("run.json", "--format", "csv", "--sae", "x"), "--sae x: not in this result file"),
        (
            ("run.json", "--format", "csv", "--out", "baselines"),
            "cannot be written: Is a directory",
        ),
        (("run.json", "--format", "csv", "--out", "run.json/x"), "cannot be written"),
    ],
)
def test_what_cannot_be_exported_ends_with_4_and_leaves_nothing(
    project, saebench, arguments, expected
):
    before = sorted(path.name for path in project.rglob("*"))
    said = saebench("export", *arguments)
    assert (said.code, said.out) == (4, "")
    assert expected in said.err
    assert sorted(path.name for path in project.rglob("*")) == before


def test_a_run_without_judged_saes_is_refused(project, saebench):
    from runs import make_run

    from saebench.store.json_files import write_record

    write_record(make_run(), project / "empty.json")
    said = saebench("export", "empty.json", "--format", "junit")
    assert said.code == 4
    assert "no judged SAE" in said.err


MODULE = """
def names(run):
    return " and ".join(sae.id for sae in run.judged)

def broken(run):
    return run.no_such_thing

def number(run):
    return 3

nothing = 3
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a distribution that declares renderers of its module."""
    root = tmp_path / "site"
    (root / "lab-1.0.dist-info").mkdir(parents=True)
    (root / "lab_renderers.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setitem(sys.modules, "lab_renderers", None)
    monkeypatch.delitem(sys.modules, "lab_renderers")

    def declare(**points):
        lines = [f"{name.replace('_', '-')} = {value}" for name, value in points.items()]
        (root / "lab-1.0.dist-info" / "METADATA").write_text("Name: lab\nVersion: 1.0\n")
        text = "[saebench.renderers]\n" + "\n".join(lines) + "\n"
        (root / "lab-1.0.dist-info" / "entry_points.txt").write_text(text)

    return declare


def test_a_distribution_adds_a_format(project, saebench, installed):
    installed(sae_names="lab_renderers:names")
    said = saebench("export", "run.json", "--format", "sae-names")
    assert (said.code, said.out) == (0, "one and two")
    assert "sae-names" in saebench("export", "--help").out


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("lab_renderers:broken", "failed: AttributeError"),
        ("lab_renderers:number", "returned a int, expected a string"),
        ("lab_renderers:nothing", "is not callable"),
        ("lab_renderers:absent", "cannot be imported"),
    ],
)
def test_a_format_that_does_not_work_names_its_distribution(
    project, saebench, installed, value, expected
):
    installed(odd=value)
    said = saebench("export", "run.json", "--format", "odd")
    assert said.code == 4
    assert f"renderer 'odd' ({value} of lab) {expected}" in said.err
    assert saebench("export", "run.json", "--format", "csv").code == 0


def test_a_distribution_cannot_replace_a_format(project, saebench, installed):
    installed(csv="lab_renderers:names")
    said = saebench("export", "run.json", "--format", "csv")
    assert said.code == 4
    assert "rename it" in said.err


def test_the_help_says_how_a_distribution_adds_a_format(saebench):
    assert "saebench.renderers" in saebench("export", "--help").out
