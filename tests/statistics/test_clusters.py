"""Repeated sequences add nothing: intervals are those of the sequences that differ."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from saebench.records.metric import CLUSTER
from saebench.statistics.bootstrap import sample
from saebench.statistics.clusters import firsts, independent, of_clusters
from saebench.statistics.paired import difference, pair, sample_pair

DISTINCT, TIMES = 40, 3


def _ratio(sums):
    return sums["kl"] / sums["n"]


def _table(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    n = rng.integers(20, 60, DISTINCT).astype(float)
    return {"kl": n * rng.gamma(1.5, 0.2, DISTINCT), "n": n}


def _repeated(table, times=TIMES):
    """Return the table's sequences several times over, and which of them are the same."""
    together = {channel: np.tile(values, times) for channel, values in table.items()}
    return together | {CLUSTER: np.tile(np.arange(DISTINCT, dtype=float), times)}


def _ends(found):
    interval = found.interval()
    return interval.low, interval.high


def test_the_interval_of_repeats_is_that_of_the_sequences_that_differ():
    once, often = sample(_ratio, _table()), sample(_ratio, _repeated(_table()))
    assert _ends(often) == pytest.approx(_ends(once), rel=1e-9)
    assert often.sequences == DISTINCT
    assert "over the 40 that differ of 120 sequences" in often.interval().method


def test_without_clusters_it_would_be_narrower_by_the_root_of_the_repeats():
    often = _repeated(_table())
    blind = sample(_ratio, {c: v for c, v in often.items() if c != CLUSTER})
    assert blind.error * TIMES**0.5 == pytest.approx(sample(_ratio, often).error, rel=0.02)


def test_it_is_as_wide_as_scipys_bootstrap_over_clusters():
    """Each resample of scipy's takes clusters whole: an independent reading of the definition."""
    often = _repeated(_table())
    members = [np.flatnonzero(often[CLUSTER] == c) for c in range(DISTINCT)]

    def ratio_of(clusters):
        rows = np.concatenate([members[int(c)] for c in clusters])
        return often["kl"][rows].sum() / often["n"][rows].sum()

    theirs = stats.bootstrap((np.arange(DISTINCT),), ratio_of, vectorized=False, n_resamples=2000,
                             rng=np.random.default_rng(1))  # fmt: skip
    assert sample(_ratio, often).error == pytest.approx(theirs.standard_error, rel=0.08)


@given(st.lists(st.integers(0, 5), min_size=9, max_size=30), st.permutations(range(9)))
def test_neither_order_nor_names_of_clusters_change_the_numbers(names, order):
    rng = np.random.default_rng(len(names))
    table = {"kl": rng.random(9), "n": np.ones(9), CLUSTER: np.array(names[:9], dtype=float)}
    moved = {channel: values[list(order)] for channel, values in table.items()}
    renamed = table | {CLUSTER: 7 - 2 * table[CLUSTER]}
    found = [sample(_ratio, each).error for each in (table, moved, renamed)]
    assert found == pytest.approx([found[0]] * 3, rel=1e-9, nan_ok=True)


def test_clusters_of_one_each_change_no_bit():
    table = _table()
    found = sample(_ratio, table | {CLUSTER: np.arange(DISTINCT)[::-1].astype(float)})
    assert (found.value, found.error, *_ends(found)) == (
        (plain := sample(_ratio, table)).value, plain.error, *_ends(plain)
    )  # fmt: skip


def test_one_cluster_alone_has_no_interval():
    table = {"kl": np.ones(9), "n": np.ones(9), CLUSTER: np.zeros(9)}
    assert sample(_ratio, table).interval() is None
    assert independent(table) == 1


@pytest.mark.parametrize("combine", [difference, lambda one, two: two / one - 1])
@pytest.mark.parametrize("lacks", [(), (0,), (1,)])
def test_pairs_are_resampled_by_cluster_if_either_side_says_so(combine, lacks):
    """Sums that were stored before there were clusters have none."""
    sides = [_table(0), _table(1)]
    sides[1]["n"] = sides[0]["n"]
    often = [_repeated(side) for side in sides]
    for side in lacks:
        often[side].pop(CLUSTER)
    together, apart = (_ends(sample_pair(_ratio, *s, combine=combine)) for s in (often, sides))
    assert together == pytest.approx(apart, rel=1e-6)


def test_sums_are_added_up_by_cluster_and_what_counts_once_is_the_first():
    table = {"kl": np.array([1.0, 2.0, 4.0]), CLUSTER: np.array([5.0, 3.0, 5.0])}
    assert sorted(of_clusters(table)["kl"]) == [2.0, 5.0]
    assert firsts(table).tolist() == [0, 1]


def test_tables_of_different_lengths_are_no_pair():
    with pytest.raises(ValueError, match="lengths .2, 3."):
        pair({"n": np.ones(2)}, {"n": np.ones(3)})
