"""saebench compare."""

import json
import re
import shutil

import pytest
from runs import make_case, make_run

from saebench.records.verdict import Verdict
from saebench.store.json_files import write_record


def test_two_baselines_are_compared_pair_by_pair_and_the_worse_exits_1(project, saebench):
    said = saebench("compare", "good", "bad")
    assert said.code == 1
    assert "bad@" in said.out
    assert "compared with good@" in said.out
    assert "pair by pair over the same sequences" in said.out
    assert "worse" in said.out.split("fidelity.kl")[1].split("↓")[1][:60]


def test_the_better_exits_0(project, saebench):
    assert saebench("compare", "bad", "good", "--metric", "fidelity.kl").code == 0


def test_an_sae_is_not_worse_than_itself(project, saebench):
    said = saebench("compare", "good", "good")
    assert said.code == 0
    assert "worse " not in said.out.replace("worse by", "")


def test_result_files_are_compared_unpaired_and_that_is_said(project, saebench):
    said = saebench("compare", "run.json::one", "run.json::one", "--metric", "fidelity.kl")
    assert said.code == 0
    assert "unpaired" in said.out
    assert "--sae-json writes RUN.sums.npz" in said.out


@pytest.fixture(scope="module")
def two_runs(tiny, tmp_path_factory):
    """Two real runs of SAEs that are nearly equal, written as --sae-json does."""
    from saebench.judging.session import BenchmarkSession
    from saebench.progress import no_progress

    here = tmp_path_factory.mktemp("two")
    for name, path in (("good", tiny.good), ("near", tiny.sae("near", error=0.06))):
        options = {"sae": path, "model": tiny.model, "dataset": tiny.texts, "sequences": "24"}
        session = BenchmarkSession(options | {"json": here / f"{name}.json"}, argv=())
        requests = [session.request(name, each, {}) for each in ("fidelity", "sparsity")]
        session.announce(requests)
        session.prepare(here)
        for request in requests:
            session.case(request, progress=no_progress)
        session.write(here, complete=True)
    return here


@pytest.fixture
def runs(two_runs, tmp_path, monkeypatch):
    shutil.copytree(two_runs, tmp_path / "runs")
    (tmp_path / "baselines").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def test_result_files_with_their_sums_are_compared_pair_by_pair(runs, saebench):
    said = saebench("compare", "runs/good.json", "runs/near.json", "--metric", "fidelity.kl")
    assert said.code == 1
    assert "pair by pair over the same sequences" in said.out
    paired = _width(said.out)
    (runs / "near.sums.npz").unlink()
    said = saebench("compare", "runs/good.json", "runs/near.json", "--metric", "fidelity.kl")
    assert "unpaired" in said.out
    assert paired < _width(said.out) / 3


def _width(out):
    low, high = re.search(r"\[([+-][\d.e+-]+), ([+-][\d.e+-]+)\]", out).groups()
    return float(high) - float(low)


def test_a_page_of_two_runs_is_paired_by_their_sums(runs, saebench):
    said = saebench("report", "runs/good.json", "runs/near.json", "-o", "page.html")
    assert said.code == 0
    text = (runs.parent / "page.html").read_text(encoding="utf-8")
    assert "pair by pair over the same sequences" in text
    assert ">unpaired<" not in text


@pytest.mark.parametrize("command", ["compare", "report"])
def test_sums_that_were_swapped_or_damaged_are_refused_by_name(runs, saebench, command):
    shutil.copy(runs / "near.sums.npz", runs / "good.sums.npz")
    said = saebench(command, "runs/good.json", "runs/near.json")
    assert said.code == 4
    assert "good.sums.npz: holds the sums of another run than good.json's" in said.err
    (runs / "good.sums.npz").write_bytes(b"half")
    said = saebench(command, "runs/good.json", "runs/near.json")
    assert said.code == 4
    assert "good.sums.npz: no per-sequence sums that can be read" in said.err


def test_numbers_that_the_sums_do_not_give_are_refused(runs, saebench):
    content = json.loads((runs / "good.json").read_text())
    (metric,) = (m for c in content["cases"] for m in c["metrics"] if m["name"] == "fidelity.kl")
    metric["value"] *= 1.01
    (runs / "good.json").write_text(json.dumps(content))
    said = saebench("compare", "runs/good.json", "runs/near.json")
    assert said.code == 4
    assert "its sums give fidelity.kl" in said.err


def test_the_sums_are_small(runs):
    assert (runs / "good.sums.npz").stat().st_size < 20_000


def test_saes_of_one_id_are_paired_where_there_are_several(project, saebench):
    said = saebench("compare", "run.json", "run.json", "--metric", "fidelity.kl")
    assert said.code == 0
    assert said.out.count("compared with") == 2


def test_other_tokens_are_incomparable_and_exit_4(project, saebench):
    said = saebench("compare", "good", "othertext")
    assert said.code == 4
    assert "INCOMPARABLE fidelity: measured on other tokens: 11111111 and 22222222" in said.out
    assert "not comparable" in said.err


def test_a_baseline_against_a_run_on_other_tokens_is_incomparable(project, saebench):
    said = saebench("compare", "good", "run.json::one", "--metric", "fidelity.kl")
    assert said.code == 4
    assert "INCOMPARABLE" in said.out


def test_a_metric_measured_for_one_alone_is_never_0(project, saebench):
    from stored import store

    store(project / "baselines", "lacking", without=("sparsity",), kl=0.05)
    said = saebench("compare", "good", "lacking", "--metric", "sparsity.l0")
    assert said.code == 4
    assert "measured for good@" in said.out


def test_a_baseline_is_named_by_id_id_and_sha_or_file(project, saebench):
    (path,) = project.glob("baselines/*/*/good@*.json")
    for name in ("good", path.stem, path.stem[:-3], path, path.relative_to(project)):
        assert saebench("compare", name, "good", "--metric", "fidelity.kl").code == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("good", "baad"), "baad: no file, and no baseline in"),
        (("good", "baad"), "did you mean 'bad'?"),
        (("none.json", "good"), "none.json: no such file"),
        (("run.json::three", "good"), "run.json::three: no SAE 'three' in it; known: one, two"),
        (("run.json", "good"), "have no SAE in common (one, two and good)"),
        (("good", "bad", "--metric", "fidelity.lk"), "did you mean 'fidelity.kl'?"),
        (("good", "bad", "--metric", "cloze.l0"), "nothing to compare"),
        (("good",), "the following arguments are required: B"),
    ],
)
def test_what_cannot_be_compared_ends_with_4_and_says_why(project, saebench, arguments, expected):
    said = saebench("compare", *arguments)
    assert said.code == 4
    assert expected in said.err


@pytest.mark.parametrize("content", ["{", "[]", "3", {"arrays": {}}, {"schema_version": 99}])
def test_a_file_that_is_neither_is_named(project, saebench, odd_json, content):
    said = saebench("compare", odd_json(content), "good")
    assert said.code == 4
    assert "odd.json" in said.err


def test_two_baselines_of_one_name_are_told_apart_by_their_weights(project, saebench):
    from stored import store

    store(project / "baselines", "good", hook="blocks.0.hook_resid_pre")
    said = saebench("compare", "good", "bad")
    assert said.code == 4
    assert "several baselines have that name" in said.err


def test_an_older_result_file_does_not_say_its_tokens(project, saebench):
    write_record(make_run(make_case("one", "fidelity", Verdict.PASS)), project / "old.json")
    content = json.loads((project / "old.json").read_text()) | {"schema_version": 1}
    for case in content["cases"]:
        del case["basis"]
    (project / "old.json").write_text(json.dumps(content))
    said = saebench("compare", "run.json::one", "old.json", "--metric", "fidelity.kl")
    assert said.code == 4
    assert "does not say which tokens" in said.err


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_line_is_wider_than_the_terminal(project, capsys, monkeypatch, width):
    from saebench.cli import main

    monkeypatch.setenv("COLUMNS", str(width))
    main(["compare", "good", "bad"])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= width
    assert out.count("worse") > 2
