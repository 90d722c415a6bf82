"""The worst of several strata, and how often its interval covers."""

import numpy as np
import pytest

from saebench.records.metric import CLUSTER
from saebench.statistics.bootstrap import estimate
from saebench.statistics.levels import at_level
from saebench.statistics.linear import influences
from saebench.statistics.worst import _by_delta, worst_stratum

N, K = 60, 6
NAMES = [f"s{i}" for i in range(K)]


def _made(seed: int, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(4, (N, K)).astype(float)
    by_text = rng.gamma(2, 0.5, (N, 1))
    sums = by_text * scale * rng.gamma(np.maximum(counts, 1e-9), 1.0)
    return sums, counts, {"sum": sums.sum(axis=1), "count": counts.sum(axis=1)}


@pytest.mark.parametrize("floor", [0.01, 50.0])
def test_ratios_and_errors_are_those_of_the_delta_method_one_by_one(floor):
    sums, counts, overall = _made(0, np.linspace(1, 3, K))
    ratios, errors = _by_delta(sums, counts, overall, floor=floor)
    for j in range(K):
        table = {"k": sums[:, j], "c": counts[:, j], **overall}
        moved = influences(
            lambda s: s["k"] / s["c"] / np.maximum(s["sum"] / s["count"], floor), table
        )
        mean = overall["sum"].sum() / overall["count"].sum()
        assert ratios[j] == pytest.approx(sums[:, j].sum() / counts[:, j].sum() / max(mean, floor))
        assert errors[j] == pytest.approx(np.sqrt((moved**2).sum() * N / (N - 1)), rel=1e-3)


def test_the_worst_has_the_bootstrap_interval_of_its_ratio_at_bonferronis_level():
    sums, counts, overall = _made(1, np.array([1, 1, 1, 4, 1, 1]))
    found = worst_stratum(NAMES, sums, counts, overall, floor=0.01)
    table = {"k": sums[:, 3], "c": counts[:, 3], **overall}
    alone = estimate(
        lambda s: s["k"] / s["c"] / np.maximum(s["sum"] / s["count"], 0.01),
        table, level=1 - 0.05 / K,
    )  # fmt: skip
    assert found.stratum.name == "s3"
    assert found.estimate.value == pytest.approx(alone.value)
    assert found.estimate.interval.low == pytest.approx(alone.interval.low)
    assert found.estimate.interval.high == pytest.approx(alone.interval.high)
    assert found.estimate.interval.level == 0.95
    with at_level(0.99):
        wider = worst_stratum(NAMES, sums, counts, overall, floor=0.01).estimate.interval
    assert wider.low < found.estimate.interval.low


def test_where_the_mean_is_negligible_the_ratio_is_to_the_floor():
    sums, counts, overall = _made(2, np.ones(K))
    found = worst_stratum(NAMES, 1e-4 * sums, counts, {"sum": 1e-4 * overall["sum"],
                          "count": overall["count"]}, floor=0.02)  # fmt: skip
    assert found.estimate.value == pytest.approx(found.stratum.mean / 0.02)
    assert found.estimate.interval.high < 0.1


def test_strata_without_a_token_are_left_out():
    sums, counts, overall = _made(3, np.ones(K))
    counts[:, 2] = sums[:, 2] = 0
    found = worst_stratum(NAMES, sums, counts, overall, floor=0.01)
    assert [s.name for s in found.strata] == ["s0", "s1", "s3", "s4", "s5"]
    with pytest.raises(ValueError, match="no stratum"):
        worst_stratum(NAMES, 0 * sums, 0 * counts, overall, floor=0.01)


def test_texts_given_twice_give_the_interval_of_the_texts():
    sums, counts, overall = _made(4, np.linspace(1, 2, K))
    once = worst_stratum(NAMES, sums, counts, overall, floor=0.01)
    twice = {name: np.tile(values, 2) for name, values in overall.items()}
    twice[CLUSTER] = np.tile(np.arange(N, dtype=float), 2)
    again = worst_stratum(NAMES, np.tile(sums, (2, 1)), np.tile(counts, (2, 1)), twice, floor=0.01)
    assert again.stratum.name == once.stratum.name
    assert again.estimate.interval.low == pytest.approx(once.estimate.interval.low)


def test_the_interval_covers_the_true_ratio_of_the_stratum_that_looks_worst():
    """All strata are alike: without Bonferroni the worst of six would miss far more often."""
    missed = 0
    for seed in range(200):
        sums, counts, overall = _made(100 + seed, np.ones(K))
        interval = worst_stratum(NAMES, sums, counts, overall, floor=0.01).estimate.interval
        missed += not interval.low <= 1 <= interval.high
    assert missed <= 0.09 * 200
