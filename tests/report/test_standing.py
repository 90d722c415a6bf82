"""Where a run's SAEs would stand."""

from dataclasses import replace

import pytest
from runs import make_case, make_run

from saebench.records.boards import (
    Board,
    BoardData,
    BoardModel,
    Facts,
    Leaderboard,
    Row,
    Score,
)
from saebench.records.metric import Direction, Interval, Metric, SampleSize
from saebench.records.verdict import Verdict
from saebench.report.standing import RANKED_BY, place_lines

FACTS = {
    RANKED_BY: Facts("×", Direction.LOWER),
    "fidelity.kl": Facts("nats", Direction.LOWER),
    "sparsity.l0": Facts("features", Direction.LOWER),
}
MADE = {"kl_gap[scope=all]": RANKED_BY, "fidelity": "fidelity.kl", "sparsity": "sparsity.l0"}


def _row(sae, gap, kl, l0, *, weights=None):
    values = dict(zip(MADE, (gap, kl, l0), strict=True))
    scores = {
        kind: {MADE[kind]: Score(1, v, Interval(v - 0.1, v + 0.1, 0.95, ""))}
        for kind, v in values.items()
    }
    return Row(sae, weights or sae, "c", "standard", 32, 12, {}, scores)


def _board(*rows, fingerprint="f"):
    model = BoardModel("model", "w", "float32")
    data = BoardData("d", None, fingerprint, 64, 12, "documents")
    return Leaderboard(
        1, (Board(model, "blocks.0.hook_resid_pre", data, 0, FACTS, rows),), ()
    )  # fmt: skip


def _run(gap, kl=0.5, l0=20.0, *, half=0.1):
    cases = []
    for kind, value in zip(MADE, (gap, kl, l0), strict=True):
        metric = Metric(
            MADE[kind], 1, value, "", Direction.LOWER, SampleSize(64, 640),
            Interval(value - half, value + half, 0.95, "made up"),
        )  # fmt: skip
        about = kind.partition("[")[0]
        case = make_case("one", about, Verdict.PASS)
        cases.append(replace(case, id=f"{kind}@one", metrics=(metric,)))
    return make_run(*cases)


OTHERS = (_row("a", 1.0, 0.1, 10.0), _row("b", 2.0, 0.2, 20.0), _row("c", 3.0, 0.3, 30.0))


def test_a_new_sae_would_be_among_the_others():
    (line,) = place_lines(_run(2.5), _board(*OTHERS))
    assert line == (
        "one: would be 3rd of 4 on model · blocks.0.hook_resid_pre by kl_gap.ratio[eps_random]; "
        "on no Pareto front"
    )


def test_its_interval_says_how_sure_the_place_is():
    (line,) = place_lines(_run(2.5, half=0.8), _board(*OTHERS))
    assert "3rd of 4 (2nd to 4th within its interval)" in line


def test_an_sae_that_is_on_the_board_is_placed_without_itself():
    (line,) = place_lines(_run(2.5), _board(*OTHERS, _row("old", 2.6, 1, 1, weights="w")))
    assert "one: is 3rd of 4" in line


def test_a_pareto_front_is_named_by_what_it_is_of():
    (line,) = place_lines(_run(2.5, kl=0.05, l0=20.0), _board(*OTHERS))
    assert line.endswith("on the Pareto front of l0 × fidelity.kl")


@pytest.mark.parametrize(
    "change",
    [{"dataset": "g"}, {"seed": 4}],
)
def test_on_other_tokens_or_noise_there_is_no_place_and_that_is_said(change):
    run = _run(2.5)
    cases = tuple(replace(c, basis=replace(c.basis, **change)) for c in run.cases)
    (line,) = place_lines(replace(run, cases=cases), _board(*OTHERS))
    assert line == (
        "1 SAE not placed on model · blocks.0.hook_resid_pre: that leaderboard was measured on "
        "other tokens or seeds"
    )


@pytest.mark.parametrize("change", [{"model": "x"}, {"dtype": "bfloat16"}])
def test_in_another_model_there_is_no_place(change):
    run = _run(2.5)
    cases = tuple(replace(c, basis=replace(c.basis, **change)) for c in run.cases)
    lines = list(place_lines(replace(run, cases=cases), _board(*OTHERS)))
    assert not any("one" in line for line in lines)


def test_alone_on_its_board_an_sae_has_no_place():
    assert list(place_lines(_run(2.5), _board(_row("old", 2.6, 1, 1, weights="w")))) == []


def test_a_run_without_the_ranking_metric_or_of_an_older_schema_places_nothing():
    run = _run(2.5)
    older = replace(run, cases=tuple(replace(c, basis=None) for c in run.cases))
    assert list(place_lines(older, _board(*OTHERS))) == []
    assert list(place_lines(replace(run, cases=run.cases[1:]), _board(*OTHERS))) == []


def test_another_version_of_the_metric_is_not_placed():
    row = _row("a", 1.0, 0.1, 10.0)
    newer = {**row.scores, "kl_gap[scope=all]": {RANKED_BY: Score(2, 1.0, None)}}
    assert list(place_lines(_run(2.5), _board(replace(row, scores=newer)))) == []


def test_an_undefined_ratio_is_not_placed():
    run = _run(2.5)
    case = run.cases[0]
    undefined = replace(case, metrics=(replace(case.metrics[0], value=None, ci=None),))
    found = list(place_lines(replace(run, cases=(undefined, *run.cases[1:])), _board(*OTHERS)))
    assert found == []
