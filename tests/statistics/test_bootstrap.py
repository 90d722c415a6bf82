"""The interval over sequences, held against scipy's BCa bootstrap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from saebench.statistics.bootstrap import estimate
from saebench.statistics.resampling import DRAWS, MANY_SEQUENCES


def _table(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(20, 127, size=n).astype(float)
    return {"kl": rng.gamma(1.5, 0.4, size=n) * tokens, "n": tokens}


def _ratio(sums):
    return sums["kl"] / sums["n"]


def _scipy(table: dict[str, np.ndarray], *, seed: int, level: float = 0.95):
    def statistic(kl, n, axis=-1):
        return kl.sum(axis=axis) / n.sum(axis=axis)

    return stats.bootstrap(
        (table["kl"], table["n"]), statistic, paired=True, vectorized=True, method="BCa",
        n_resamples=DRAWS, confidence_level=level, rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip


@pytest.mark.parametrize("n", [8, 64, 300])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_interval_is_scipys_within_monte_carlo_error(n: int, level: float):
    table = _table(n)
    found = estimate(_ratio, table, level=level).interval
    runs = np.array([_scipy(table, seed=s, level=level) for s in range(6)])
    # Scipy's own spread over seeds is the error of each; six runs estimate it within a half.
    for mine, theirs in zip((found.low, found.high), runs.T, strict=True):
        assert abs(mine - theirs.mean()) < 6 * theirs.std(ddof=1)
    assert found.level == level


def test_the_value_is_the_formula_of_the_totals():
    table = _table(50)
    assert estimate(_ratio, table).value == table["kl"].sum() / table["n"].sum()


def test_the_interval_covers_the_truth_as_often_as_it_says():
    truth, covered = 1.5 * 0.4, 0
    for seed in range(200):
        interval = estimate(_ratio, _table(60, seed)).interval
        covered += interval.low <= truth <= interval.high
    # 95% of 200, ± three standard errors of 1.5%; BCa at 60 skewed values runs 2% short.
    assert 0.95 - 0.02 - 0.046 < covered / 200 <= 1


@given(st.floats(0.01, 100), st.integers(2, 30))
def test_equal_sequences_give_an_interval_of_no_width(value, n):
    table = {"kl": np.full(n, value), "n": np.ones(n)}
    found = estimate(_ratio, table)
    # Sums of n equal numbers over n: float64 rounding.
    assert found.interval.low == pytest.approx(value, rel=1e-12)
    assert found.interval.high == pytest.approx(value, rel=1e-12)


def test_one_sequence_gives_no_interval():
    found = estimate(_ratio, {"kl": np.array([3.0]), "n": np.array([2.0])})
    assert (found.value, found.interval) == (1.5, None)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_an_undefined_value_gives_no_interval():
    found = estimate(_ratio, {"kl": np.zeros(5), "n": np.zeros(5)})
    assert np.isnan(found.value)
    assert found.interval is None


def test_a_resample_that_is_undefined_does_not_break_the_interval():
    n = np.array([0.0, 0.0, 0.0, 1.0])
    found = estimate(_ratio, {"kl": n * 2.0, "n": n}).interval
    assert (found.low, found.high) == (2.0, 2.0)


def test_the_same_data_always_give_the_same_interval():
    table = _table(40)
    assert estimate(_ratio, table) == estimate(_ratio, table)


@given(order=st.randoms())
def test_the_order_of_channels_is_immaterial(order):
    table = _table(20)
    names = list(table)
    order.shuffle(names)
    assert estimate(_ratio, {name: table[name] for name in names}) == estimate(_ratio, table)


@given(st.floats(1e-6, 1e6))
def test_scaling_the_data_scales_the_interval(scale):
    table = _table(20)
    one = estimate(_ratio, table)
    scaled = estimate(_ratio, {"kl": table["kl"] * scale, "n": table["n"]})
    assert scaled.interval.low == pytest.approx(one.interval.low * scale, rel=1e-9)
    assert scaled.interval.high == pytest.approx(one.interval.high * scale, rel=1e-9)


def test_many_sequences_take_fewer_draws_and_agree_with_the_normal_interval():
    table = _table(MANY_SEQUENCES + 904)
    found = estimate(_ratio, table)
    residual = table["kl"] - found.value * table["n"]
    error = residual.std() / len(residual) ** 0.5 / table["n"].mean()
    # 2,000 draws leave an end uncertain by some 4% of its distance.
    assert found.interval.low == pytest.approx(found.value - 1.96 * error, abs=0.2 * error)
    assert found.interval.high == pytest.approx(found.value + 1.96 * error, abs=0.2 * error)
