"""The leaderboard's tables, as text."""

import pytest
from rich.console import Console
from stored import make_data, store

from saebench.cli.stored import known_facts
from saebench.records.ranking import rank
from saebench.report.tables.board_tables import MARKS, board_table, published_tables
from saebench.report.tables.rich_tables import rich_table
from saebench.store.environment import baselines_dir
from saebench.store.leaderboard import build, read_published


@pytest.fixture(scope="module")
def facts():
    return known_facts()


def _text(table, width=100):
    console = Console(width=width, color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(rich_table(table, width=width))
    return captured.get()


def _table(root, facts, metric="fidelity.kl", *, width=100, **more):
    (board,) = build(root, facts).boards
    return _text(board_table(board, rank(board, metric), rows=board.rows, **more), width)


@pytest.fixture
def root(tmp_path):
    for id, kl, l0 in (("middle", 0.1, 20), ("best", 0.05, 25), ("worst", 0.4, 30)):
        store(tmp_path, id, kl=kl, l0=l0)
    return tmp_path


def test_saes_are_shown_best_first_with_their_places(root, facts):
    lines = [line.split() for line in _table(root, facts).splitlines()]
    assert [line[:2] for line in lines if line[:1] and line[0] in "123"] == [
        ["1", "best"], ["2", "middle"], ["3", "worst"],
    ]  # fmt: skip


def test_the_pareto_front_is_marked_and_explained(root, facts):
    text = _table(root, facts)
    marked = {line.split()[1]: MARKS["fidelity.kl"] in line for line in _rows(text)}
    assert marked == {"best": True, "middle": True, "worst": False}
    assert f"{MARKS['fidelity.kl']} Pareto front of l0 × fidelity.kl" in text


def _rows(text):
    return [line for line in text.splitlines() if line.split()[:1] and line.split()[0] in "123–"]


def test_the_title_says_model_hook_tokens_and_seed(root, facts):
    assert "toy · blocks.1.hook_resid_pre  3 SAEs by fidelity.kl" in _table(root, facts)
    assert "texts, 48 sequences of 40 tokens 11111111, seed 0" in _table(root, facts)


def test_one_measured_by_an_older_definition_is_last_without_a_place(root, facts):
    store(root, "newer", kl=0.9, versions={"fidelity.kl": 2})
    (board,) = build(root, facts).boards
    last = board_table(board, rank(board, "fidelity.kl"), rows=board.rows).texts()[-1]
    assert last[0] == "–"
    assert "measured as version 1, the others as 2" in last


@pytest.mark.parametrize("width", [60, 72, 80, 100, 160])
def test_no_line_is_wider_than_the_terminal_and_every_name_is_whole(root, facts, width):
    text = _table(root, facts, "kl_gap.ratio[eps_random]", width=width)
    assert max(map(len, text.splitlines())) <= width
    assert {"best", "middle", "worst"} <= set(text.split())
    assert "[eps_random]" in text


def test_two_saes_of_one_name_are_told_apart_by_their_weights(root, facts, monkeypatch):
    import stored

    monkeypatch.setattr(stored, "make_subject", _same_name(stored.make_subject))
    store(root, "twin", kl=0.2)
    assert "best@" in _table(root, facts)


def _same_name(make):
    from dataclasses import replace

    return lambda id, **more: replace(make(id, **more), id="best")


def test_hostile_names_steer_nothing(tmp_path, facts):
    store(tmp_path, "[red]a\x1b[31m[/red]", data=make_data("[bold]d"))
    text = _table(tmp_path, facts, width=160)
    assert "[red]a?[31m[/red]" in text
    assert "[bold]d" in text
    assert "\x1b" not in text


def test_published_figures_are_marked_and_have_no_place():
    published = read_published(baselines_dir())
    for each, table in zip(published, published_tables(published), strict=True):
        text = _text(table)
        assert "published, not measured here, never ranked" in text
        assert each.source.authors in text
        assert "1st" not in text
