"""The sweep: what it trains, judges and draws, and that it goes on after a kill."""

import csv

import pytest

from saebench.cli import main
from saebench.fit.training import training_sweep as trainings
from saebench.records.sweep import KL, L0
from saebench.store.json_files import read_sweep


@pytest.fixture
def options(tiny, tmp_path):
    return [
        "train-sweep", "--model", tiny.model, "--dataset", tiny.texts, "--context", "12",
        "--hook", "blocks.1.hook_resid_pre", "--sparsity", "topk:2", "topk:6",
        "--batch-rows", "4", "--tokens", "1000", "--sequences", "8", "-o", str(tmp_path / "out"),
    ]  # fmt: skip


@pytest.fixture
def trained(monkeypatch):
    """The directories that are trained into, as they are."""
    directories = []

    def train(job, **more):
        directories.append(job.out)
        return real(job, **more)

    real = trainings.train
    monkeypatch.setattr(trainings, "train", train)
    return directories


def test_a_killed_sweep_goes_on_and_gives_the_frontier(options, tmp_path, trained, monkeypatch):
    real = trainings.train

    def killed(job, **more):
        if len(trained) == 4:
            raise KeyboardInterrupt
        return real(job, **more)

    monkeypatch.setattr(trainings, "train", killed)
    objectives = ["--objectives", "standard", "frozen", "non-intrusive"]
    assert main([*options, *objectives]) == 2
    monkeypatch.setattr(trainings, "train", real)
    assert main([*options, *objectives]) == 0
    assert len(trained) == len(set(trained)) == 8
    out = tmp_path / "out"
    points = read_sweep(out / "sweep.json").points
    assert [p.objective for p in points] == ["standard", "frozen", "non-intrusive"] * 2
    assert all(p.metrics[L0].value <= 6.001 for p in points)
    assert all((p.against_standard is None) == (p.objective == "standard") for p in points)
    for point in points:
        assert ("tax_kl" in point.metrics) == (point.objective == "non-intrusive")
        assert point.metrics[KL].low < point.metrics[KL].value < point.metrics[KL].high
    rows = list(csv.DictReader((out / "frontier.csv").read_text().splitlines()))
    assert float(rows[1]["whole_model_kl"]) == points[1].metrics[KL].value
    assert list(out.glob("training-frontier*.png"))


def test_other_options_for_the_same_directory_are_refused(options, capsys):
    assert main([*options, "--objectives", "standard"]) == 0
    assert main([*options, "--objectives", "standard", "--learning-rate", "0.1"]) == 4
    assert "was trained with learning_rate 0.001, now it is 0.1" in capsys.readouterr().err


@pytest.mark.parametrize("packing", ["documents", "packed"])
def test_texts_that_are_judged_on_and_trained_on_are_refused_before_anything_is_trained(
    options, tiny, trained, packing, capsys
):
    assert main([*options, "--judge-dataset", tiny.texts, "--judge-packing", packing]) == 4
    assert "overlap, so that the result would be judged on its training texts" in (
        capsys.readouterr().err
    )
    assert not trained


def test_an_objective_may_have_a_learning_rate_of_its_own(options, tmp_path):
    more = ["--objectives", "standard", "frozen", "--sparsity", "topk:2"]
    assert main([*options, *more, "--objective-rate", "frozen=0.0003"]) == 0
    points = read_sweep(tmp_path / "out" / "sweep.json").points
    assert [p.learning_rate for p in points] == [0.001, 0.0003]


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        ("frosen=1", "no such objective; did you mean 'frozen'?"),
        ("frozen=much", "expected frozen=NUMBER"),
        ("frozen=-1", "--learning-rate must be above 0"),
        ("intrusive=1", "is not among --objectives"),
    ],
)
def test_a_rate_that_is_none_is_refused(options, rate, said, capsys):
    assert main([*options, "--objectives", "frozen", "--objective-rate", rate]) == 4
    assert said in capsys.readouterr().err


def test_in_equal_time_the_faster_objective_gets_more_tokens(options, tmp_path, monkeypatch):
    rates = {"blocks.1.hook_resid_pre": {"standard": 1.0, "frozen": 2.0}}
    monkeypatch.setattr(trainings, "_rates", lambda *_, **__: rates)
    objectives = ["--objectives", "standard", "frozen", "--sparsity", "topk:2"]
    assert main([*options, *objectives, "--equal", "time"]) == 0
    standard, frozen = read_sweep(tmp_path / "out" / "sweep.json").points
    assert standard.tokens == pytest.approx(2 * frozen.tokens, rel=0.1)


def test_objectives_are_really_timed(options, tmp_path, tiny):
    from saebench.fit.training import Objective, Sparsity, TrainJob

    base = TrainJob(
        Objective.STANDARD, "blocks.1.hook_resid_pre", tmp_path, Sparsity("topk", 4),
        model=tiny.model, dataset=tiny.texts, context=12, tokens=500,
    )  # fmt: skip
    job = trainings.SweepJob(
        base, (base.hook,), (Objective.STANDARD, Objective.NON_INTRUSIVE), (base.sparsity,)
    )
    rates = trainings._rates(job, say=lambda _: None)[base.hook]
    assert 0 < rates["standard"] < rates["non-intrusive"]
    assert trainings._rates(job, say=lambda _: None)[base.hook] == rates


def test_the_report_shows_the_frontier(options, tmp_path, tiny):
    import saebench
    from saebench.store.json_files import write_record

    assert main([*options, "--objectives", "standard", "frozen", "--sparsity", "topk:2"]) == 0
    run, page = tmp_path / "run.json", tmp_path / "page.html"
    write_record(saebench.judge(tiny.good, tiny.model, tiny.texts, sequences=2), run)
    sweep = str(tmp_path / "out" / "sweep.json")
    assert main(["report", str(run), "--training", sweep, "-o", str(page)]) == 0
    assert "Does training on the whole model" in page.read_text()
    assert main(["report", str(run), "--training", str(run), "-o", str(page)]) == 4
