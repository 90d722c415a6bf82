"""Result files' SAEs, joined with the sums that their baselines keep."""

from dataclasses import replace

import pytest
from stored import store

from saebench.compare.sides import sides_of_file, with_stored_sums
from saebench.store.leaderboard import baseline_paths


@pytest.fixture
def stored(tmp_path):
    """The baselines directory, and the side as a result file would have it: without sums."""
    store(tmp_path, "good", kl=0.05)
    (path,) = baseline_paths(tmp_path)
    (side,) = sides_of_file(path).values()
    bare = {name: replace(case, table=None) for name, case in side.cases.items()}
    return tmp_path, side, replace(side, cases=bare)


def test_the_sums_of_the_same_measurement_are_found(stored):
    root, side, bare = stored
    joined = with_stored_sums(bare, root)
    for name, case in joined.cases.items():
        assert case.table is not None
        assert set(case.table) == set(side.cases[name].table)


def test_sums_of_other_values_or_another_basis_are_left_alone(stored):
    root, _, bare = stored
    name, case = next(iter(bare.cases.items()))
    metric, score = next(iter(case.metrics.items()))
    other = replace(case, metrics={**case.metrics, metric: replace(score, value=score.value + 1)})
    moved = replace(case, basis=replace(case.basis, seed=case.basis.seed + 1))
    for changed in (other, moved):
        joined = with_stored_sums(replace(bare, cases={name: changed}), root)
        assert joined.cases[name].table is None


def test_an_sae_without_a_baseline_stays_as_it_is(stored, tmp_path):
    _, _, bare = stored
    assert with_stored_sums(replace(bare, label="other@00000000"), tmp_path) is not None
    assert with_stored_sums(replace(bare, label="other@00000000"), tmp_path).cases is bare.cases
