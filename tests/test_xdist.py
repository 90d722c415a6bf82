"""-n: one SAE's cases in one process, results as without."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from saebench.judging.session import BenchmarkSession
from saebench.store.sums_file import dump_sums, parse_sums

pytest.importorskip("xdist")
from saebench.xdist import share_of

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
JUDGED = ("fidelity", "shrinkage", "sparsity")
TIMES = {"id", "started", "finished", "argv"}


def _project(root, *, conftest=""):
    (root / "benchmarks").mkdir(parents=True)
    for name in JUDGED:
        shutil.copy(BENCHMARKS / f"test_{name}.py", root / "benchmarks")
    (root / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (root / "conftest.py").write_text(conftest)
    return root


def _pytest(root, *options):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SAEBENCH_")}
    command = [sys.executable, "-m", "pytest", "benchmarks", "-p", "no:cacheprovider", *options]
    return subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )


# Which process ran which case, and how many SAEs each measured.
WATCHING = """
import json, os
from pathlib import Path
def pytest_runtest_logreport(report):
    worker = getattr(report, "worker_id", None)
    if worker and report.when == "call":
        line = json.dumps([worker, report.nodeid])
        with open(Path(__file__).with_name("workers.jsonl"), "a") as file:
            file.write(line + "\\n")
def pytest_sessionstart(session):
    from saebench.judging.measuring import InProcess
    run = InProcess.run
    def counted(self, bench, experiment, targets, **more):
        line = json.dumps([os.environ.get("PYTEST_XDIST_WORKER"), [t.name for t in targets]])
        with open(Path(__file__).with_name("measured.jsonl"), "a") as file:
            file.write(line + "\\n")
        return run(self, bench, experiment, targets, **more)
    InProcess.run = counted
"""


SCHEDULER = """
def pytest_terminal_summary(terminalreporter, config):
    scheduler = type(config.pluginmanager.getplugin("dsession").sched).__name__
    terminalreporter.write_line(f"SCHEDULER {scheduler}")
"""


@pytest.fixture(scope="module")
def shared(tiny, tmp_path_factory):
    """One run in two processes and one in one: their directories."""
    saes = [*_saes(tiny), *tiny.options(), "--sae-json", "out.json", "--sae-md", "out.md"]
    two = _project(tmp_path_factory.mktemp("two"), conftest=WATCHING + SCHEDULER)
    done = _pytest(two, *saes, "--junitxml", "out.xml", "-n", "2")
    assert done.returncode == 1, done.stdout + done.stderr
    (two / "stdout").write_text(done.stdout)
    one = _project(tmp_path_factory.mktemp("one"))
    assert _pytest(one, *saes, "--junitxml", "out.xml").returncode == 1
    return two, one


def _saes(tiny):
    third = tiny.sae("third", error=0.2)
    return [option for sae in (tiny.good, tiny.bad, third) for option in ("--sae", sae)]


def _result(root):
    found = json.loads((root / "out.json").read_text())
    found["run"] = {k: v for k, v in found["run"].items() if k not in TIMES}
    for case in found["cases"]:
        del case["duration_s"]
    assert found.pop("cost")  # of two processes two, each with its own times
    return found


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_result_file_is_that_of_one_process(shared):
    two, one = map(_result, shared)
    assert two == one


def test_the_sums_beside_the_result_file_are_those_of_one_process(shared):
    found = []
    for root in shared:
        run_id, sums = parse_sums((root / "out.sums.npz").read_bytes(), where=str(root))
        assert run_id == json.loads((root / "out.json").read_text())["run"]["id"]
        found.append(dump_sums(sums, run_id=""))
    assert found[0] == found[1]


def test_the_markdown_summary_is_that_of_one_process_but_for_the_time(shared):
    two, one = ((root / "out.md").read_text().splitlines() for root in shared)
    assert [line for line in two if "- seed" not in line] == [
        line for line in one if "- seed" not in line
    ]


def test_junit_has_the_same_names_and_properties(shared):
    two, one = (
        {
            test.get("name"): [(p.get("name"), p.get("value")) for p in test.iter("property")]
            for test in ET.parse(root / "out.xml").iter("testcase")
        }
        for root in shared
    )
    assert two == one
    assert "test_fidelity[good]" in two


def test_the_cases_of_one_sae_ran_in_one_process_and_both_had_some(shared):
    workers = {}
    for worker, nodeid in _lines(shared[0] / "workers.jsonl"):
        workers.setdefault(nodeid.partition("[")[2], set()).add(worker)
    assert all(len(used) == 1 for used in workers.values())
    assert set.union(*workers.values()) == {"gw0", "gw1"}


def test_each_sae_was_measured_once_those_of_one_share_together(shared):
    measured = [sorted(saes) for _, saes in _lines(shared[0] / "measured.jsonl")]
    assert sorted(measured) == [["bad", "good"], ["third"]]


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("test_a[good]", 0), ("test_a[good-all]", 0), ("test_a[all-good]", 0), ("test_a[bad]", 1),
        ("test_a[good-bad]", 2), ("test_a[x-good-bad-y]", 2), ("test_a", None), ("test_a[x]", None),
        ("test_a[goods]", None), ("test_a[a[b]c]", 3),
    ],
)  # fmt: skip
def test_a_tests_share_is_that_of_the_longest_name_in_its_id(test, expected):
    shares = {"good": 0, "bad": 1, "good-bad": 2, "a[b]c": 3}
    assert share_of(f"benchmarks/test_a.py::{test}", shares) == expected


def test_without_dist_the_cases_are_distributed_by_sae(shared):
    assert "SCHEDULER BySae\n" in (shared[0] / "stdout").read_text()


@pytest.fixture
def in_workers(gate_run):
    """Run the benchmarks with -n: the controller in this process, the workers in their own."""

    def run(processes, *options, conftest=""):
        (gate_run.pytester.path / "conftest.py").write_text(conftest)
        return gate_run.judge("-n", str(processes), *options)

    return run


@pytest.mark.parametrize(("dist", "expected"), [("load", "Load"), ("each", "Each")])
def test_a_dist_that_was_asked_for_is_kept(in_workers, tiny, dist, expected):
    options = ("--sae", tiny.good, "-k", "nothing", "--dist", dist)
    done = in_workers(1, *options, conftest=SCHEDULER)
    assert f"SCHEDULER {expected}Scheduling" in done.outlines
    assert done.ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_runs_that_judge_no_sae_are_distributed_as_ever(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "pyproject.toml").write_text("broken, and none of our business")
    (tmp_path / "conftest.py").write_text(SCHEDULER)
    (tmp_path / "benchmarks" / "test_usual.py").write_text("def test_usual():\n    pass\n")
    done = _pytest(tmp_path, "-n", "1", "-c", "pytest.ini")
    assert "SCHEDULER LoadScheduling\n" in done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (("--sae-fail-on", "fidelity.kl<<1"), "rule not understood"),
        (("--sae-profile", "huge"), "--sae-profile: unknown value 'huge'"),
        (("--sae-md", "."), "--sae-md .: cannot be written"),
    ],
)
def test_wrong_usage_in_a_worker_is_4_as_in_one_process(in_workers, tiny, option, expected):
    done = in_workers(1, "--sae", tiny.good, *option)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    said = done.stdout.str() + done.stderr.str()
    assert expected in said
    assert "INTERNALERROR" not in said


CRASH = """
import os
import pytest
@pytest.hookimpl(trylast=True)
def pytest_runtest_setup(item):
    if "shrinkage" in item.nodeid and "bad" in item.nodeid:
        os._exit(1)
"""


def test_a_process_that_dies_leaves_a_run_that_is_not_complete(tiny, tmp_path):
    project = _project(tmp_path / "p", conftest=CRASH)
    options = ("--sae", tiny.good, "--sae", tiny.bad, *tiny.options(), "-n", "2")
    options = (*options, "--max-worker-restart", "0", "--sae-json", "out.json")
    done = _pytest(project, *options, "-k", "shrinkage")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    found = json.loads((project / "out.json").read_text())
    assert found["run"]["complete"] is False
    assert [case["id"] for case in found["cases"]] == ["shrinkage@good"]


@pytest.mark.parametrize(
    ("processes", "expected"),
    [(1, []), (2, [0, 0, 1]), (3, [0, 1, 2]), (8, [0, 2, 5])],
)
def test_saes_are_shared_out_evenly_side_by_side(tiny, processes, expected):
    specs = [tiny.good, tiny.bad, tiny.sae("third")]
    session = BenchmarkSession({"sae": specs, "model": tiny.model}, argv=())
    shares = session.share_out(processes)
    assert [shares[id] for id in ("good", "bad", "third") if id in shares] == expected
