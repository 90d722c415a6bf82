"""The pages' commands: the CI chapter's run, and every other one is understood."""

import os
import re
import shlex
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from string import Template

import pytest
import yaml
from chosen_gates import gates_of

from saebench.cli import COMMANDS, main, make_parser

ROOT = Path(__file__).resolve().parents[1]
CHAPTER = ROOT / "docs" / "gate-a-release.md"
PAGES = [ROOT / "README.md", ROOT / "perf" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
QUICK = {
    "SAE": "demo:l2-topk",
    "OPTIONS": "--sae-sequences 32 -k shrinkage --sae-thresholds only.toml -p no:cacheprovider",
}
SHELLS = ("", "text")
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def _blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for named, block in found if named == language]


def _commands(page: Path) -> Iterator[list[str]]:
    """Each command line of a page's blocks as words; indented blocks count too."""
    text = page.read_text(encoding="utf-8")
    indented = re.findall(r"^    ((?:saebench|pytest|make) (?:.*\\\n)*.*)", text, re.MULTILINE)
    for block in [b for shell in SHELLS for b in _blocks(page, shell)] + indented:
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"\s*(saebench|pytest|make) ", line):
                yield shlex.split(line.replace("…", ""), comments=True)


@pytest.fixture(scope="module")
def workflow():
    (text,) = _blocks(CHAPTER, "yaml")
    return yaml.safe_load(text)


def _steps(workflow):
    return workflow["jobs"]["gate"]["steps"]


def _run(step):
    return step.get("run", "")


@pytest.fixture(scope="module")
def job(workflow, tmp_path_factory):
    """The directory in which the workflow's steps ran, and what each command returned."""
    here = tmp_path_factory.mktemp("job")
    shutil.copytree(ROOT / "baselines", here / "baselines")
    (here / "only.toml").write_text(gates_of("shrinkage"), encoding="utf-8")
    scripts = [_run(step) for step in _steps(workflow) if step.get("name") != "Install"]
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("SAEBENCH_")]:
            patch.delenv(name)
        patch.chdir(here)
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("GITHUB_STEP_SUMMARY", str(here / "page"))
        lines = [line for script in scripts for line in script.splitlines()]
        yield here, {line: _saebench(Template(line).substitute(QUICK)) for line in lines}


def _saebench(line: str) -> int:
    """Run a command of saebench in this process; return its exit code."""
    program, *arguments = shlex.split(line)
    assert program == "saebench", line
    return main(arguments)


def test_the_workflow_is_well_formed(workflow):
    assert set(workflow) == {"name", True, "permissions", "env", "jobs"}  # YAML reads on as true
    assert workflow["permissions"] == {"contents": "read"}
    for step in _steps(workflow):
        assert ("uses" in step) != ("run" in step)
        assert re.fullmatch(r"actions/[a-z-]+@v\d+", step.get("uses", "actions/x@v1"))


def test_every_variable_of_the_workflow_is_declared(workflow):
    used = {name for step in _steps(workflow) for name in re.findall(r"\$([A-Z_]+)", _run(step))}
    assert used == {*workflow["env"], "PWD", "GITHUB_PATH"}


def test_install_is_a_target_of_the_makefile(workflow):
    (install,) = [step for step in _steps(workflow) if step.get("name") == "Install"]
    assert "make install" in install["run"]
    assert "install" in TARGETS


def test_every_step_of_the_workflow_succeeds(job):
    _, codes = job
    assert codes == dict.fromkeys(codes, 0)
    assert len(codes) == 5


def test_the_workflow_leaves_the_files_that_it_uploads_and_the_jobs_page(workflow, job):
    here, _ = job
    (upload,) = [s for s in _steps(workflow) if "upload-artifact" in s.get("uses", "")]
    assert all((here / name).stat().st_size for name in upload["with"]["path"].split())
    page = (here / "page").read_text(encoding="utf-8")
    assert page.startswith("## saebench: ✅ PASS")


def test_the_other_commands_of_the_chapter_run(job, monkeypatch):
    here, _ = job
    monkeypatch.chdir(here)
    commands = [line for block in _blocks(CHAPTER, "") for line in block.splitlines()]
    assert len(commands) == 6
    for command in commands:
        assert _saebench(command) == 0, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_is_understood(page, pytestconfig):
    for program, *arguments in _commands(page):
        if program == "make":
            assert arguments[0] in TARGETS
        elif program == "pytest" or arguments[0] == "run":
            for word in arguments:
                if word.startswith("--sae"):
                    pytestconfig.getoption(word.partition("=")[0])  # raises for an unknown one
        else:
            name, *rest = arguments
            make_parser(name, import_module(COMMANDS[name].module)).parse_args(rest)


def test_the_pages_have_commands():
    assert sum(len(list(_commands(page))) for page in PAGES) > 30
