"""Places on a board, and the Pareto front."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saebench.errors import OptionError
from saebench.records.boards import Board, BoardData, BoardModel, Facts, Row, Score
from saebench.records.metric import Direction, Interval
from saebench.records.ranking import front, fronts, place_of, rank

FACTS = {
    "p.low": Facts("nats", Direction.LOWER),
    "p.high": Facts("share", Direction.HIGHER),
    "p.near": Facts("×", Direction.TARGET, 1.0),
    "p.odd": Facts("", None),
}
values = st.floats(-5, 5)
points = st.dictionaries(st.text(min_size=1), st.tuples(values, values), max_size=12)


def _row(sae, value, *, metric="p.low", case="p", version=1, ci=None, **more):
    scores = {case: {metric: Score(version, value, ci), **more}}
    return Row(sae, sae * 8, "c", "standard", 8, 16, {}, scores)


def _board(*rows):
    data = BoardData("texts", None, "f", 8, 16, "documents")
    return Board(BoardModel("toy", "m", "float32"), "hook", data, 0, FACTS, rows)


def _order(board, metric):
    return [(each.place, each.row.sae) for each in rank(board, metric).ranked]


def test_the_lowest_is_first_where_lower_is_better():
    assert _order(_board(_row("a", 2.0), _row("b", 1.0)), "p.low") == [(1, "b"), (2, "a")]


def test_the_highest_is_first_where_higher_is_better():
    rows = [_row(sae, value, metric="p.high") for sae, value in (("a", 2.0), ("b", 1.0))]
    assert _order(_board(*rows), "p.high") == [(1, "a"), (2, "b")]


def test_the_nearest_to_the_target_is_first_on_whichever_side():
    named = (("a", 0.7), ("b", 1.2), ("c", 1.5))
    rows = [_row(sae, value, metric="p.near") for sae, value in named]
    assert [sae for _, sae in _order(_board(*rows), "p.near")] == ["b", "a", "c"]


def test_equal_values_share_a_place_and_the_next_is_counted_on():
    rows = [_row("a", 1.0), _row("b", 1.0), _row("c", 2.0)]
    assert _order(_board(*rows), "p.low") == [(1, "a"), (1, "b"), (3, "c")]


@given(st.lists(values, min_size=1, max_size=10, unique=True))
def test_places_are_those_of_a_sorted_list(found):
    rows = [_row(f"s{i}", value) for i, value in enumerate(found)]
    expected = sorted(range(len(found)), key=found.__getitem__)
    assert _order(_board(*rows), "p.low") == [(1 + i, f"s{k}") for i, k in enumerate(expected)]


def test_an_older_version_of_the_metric_is_never_ranked_with_the_newer():
    board = _board(_row("a", 0.1, version=1), _row("b", 2.0, version=2), _row("c", 3.0, version=2))
    found = rank(board, "p.low")
    assert [each.row.sae for each in found.ranked] == ["b", "c"]
    assert found.unranked == ((board.rows[0], "measured as version 1, the others as 2"),)


def test_undefined_and_missing_values_have_no_place():
    board = _board(_row("a", None), _row("b", 1.0), _row("c", 1.0, metric="p.high"))
    found = rank(board, "p.low")
    assert [each.row.sae for each in found.ranked] == ["b"]
    assert [(row.sae, why) for row, why in found.unranked] == [
        ("a", "undefined"), ("c", "not measured"),
    ]  # fmt: skip


def test_an_unknown_metric_is_refused_with_the_nearest():
    with pytest.raises(OptionError, match=r"did you mean 'p\.low'"):
        rank(_board(_row("a", 1.0)), "p.lov")


def test_a_metric_without_a_better_side_is_refused():
    with pytest.raises(OptionError, match="which way"):
        rank(_board(_row("a", 1.0, metric="p.odd")), "p.odd")


def test_a_metric_of_several_cases_needs_one_named():
    board = _board(_row("a", 1.0, case="p[x=1]"), _row("b", 2.0, case="p[x=2]"))
    with pytest.raises(OptionError, match=r"p\[x=1\], p\[x=2\]"):
        rank(board, "p.low")
    assert [each.row.sae for each in rank(board, "p.low", case="p[x=2]").ranked] == ["b"]


def test_of_several_cases_the_one_with_all_tokens_at_once_is_ranked():
    board = _board(_row("a", 1.0, case="p[scope=all]"), _row("b", 2.0, case="p[scope=single]"))
    assert [each.row.sae for each in rank(board, "p.low").ranked] == ["a"]


def test_a_new_value_is_placed_among_the_others_by_its_interval_too():
    board = _board(*(_row(f"s{v}", float(v)) for v in (1, 2, 3, 4)))
    place = place_of(rank(board, "p.low"), Score(1, 2.5, Interval(0.5, 3.5, 0.95, "")))
    assert (place.place, place.best, place.worst, place.of) == (3, 1, 4, 5)


def test_an_interval_around_the_target_reaches_the_first_place():
    board = _board(_row("a", 1.05, metric="p.near"))
    place = place_of(rank(board, "p.near"), Score(1, 0.8, Interval(0.7, 1.1, 0.95, "")))
    assert (place.place, place.best, place.worst) == (2, 1, 2)


def test_an_sae_that_is_on_the_board_is_not_counted_twice():
    board = _board(_row("a", 1.0), _row("b", 2.0))
    place = place_of(rank(board, "p.low"), Score(1, 2.0, None), without=board.rows[1])
    assert (place.place, place.of) == (2, 2)


@pytest.mark.parametrize("score", [Score(1, None, None), Score(2, 1.0, None)])
def test_what_cannot_be_compared_has_no_place(score):
    assert place_of(rank(_board(_row("a", 1.0)), "p.low"), score) is None


@given(points)
def test_the_front_is_what_a_brute_force_search_finds(found):
    dominated = {
        name
        for (name, (x, y)), (a, b) in itertools.product(found.items(), found.values())
        if a <= x and b <= y and (a < x or b < y)
    }
    assert front(found) == set(found) - dominated


@given(points)
def test_somebody_is_on_the_front_of_any_points(found):
    assert bool(front(found)) == bool(found)


def test_fronts_are_of_l0_against_kl_and_the_kl_gap():
    facts = {
        "sparsity.l0": Facts("features", Direction.LOWER),
        "fidelity.kl": Facts("nats", Direction.LOWER),
        "kl_gap.ratio[eps_random]": Facts("×", Direction.LOWER),
    }
    rows = tuple(
        replace(_row(sae, 0.0), scores=_three(l0, kl, gap))
        for sae, l0, kl, gap in (("a", 10, 0.5, 3), ("b", 20, 0.1, 2), ("c", 30, 0.2, 1))
    )
    found = fronts(replace(_board(*rows), metrics=facts))
    named = {metric: {k[0] for k in keys} for metric, keys in found.items()}
    assert named == {"fidelity.kl": {"a", "b"}, "kl_gap.ratio[eps_random]": {"a", "b", "c"}}


def _three(l0, kl, gap):
    return {
        "sparsity": {"sparsity.l0": Score(1, l0, None)},
        "fidelity": {"fidelity.kl": Score(1, kl, None)},
        "kl_gap[scope=all]": {"kl_gap.ratio[eps_random]": Score(1, gap, None)},
    }
