"""The interval over sequences: its parts against brute force and scipy, and odd data."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from saebench.statistics.bootstrap import (
    DRAWS,
    MANY_SEQUENCES,
    Wanted,
    estimate,
    sample,
    sample_all,
)


def _ratio(sums):
    return sums["kl"] / sums["n"]


def _table(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Skewed sums of sequences that count different numbers of tokens."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(20, 40, size=n).astype(float)
    return {"kl": rng.gamma(1.5, 0.4, size=n) * tokens, "n": tokens}


def _error_of_ratio(kl: np.ndarray, n: np.ndarray) -> float:
    """The textbook's standard error of a ratio of sums (Cochran 1977, 6.4)."""
    residual = kl - kl.sum() / n.sum() * n
    return float(np.sqrt(len(n) * residual.var(ddof=1)) / n.sum())


def _one_by_one(table: dict[str, np.ndarray], *, draws: int) -> np.ndarray:
    """The pivots of a bootstrap that takes its resamples one at a time."""
    rng, n = np.random.default_rng(5), len(table["n"])
    value, pivots = table["kl"].sum() / table["n"].sum(), []
    for _ in range(draws):
        rows = rng.integers(0, n, n)
        kl, counts = table["kl"][rows], table["n"][rows]
        pivots.append((kl.sum() / counts.sum() - value) / _error_of_ratio(kl, counts))
    return np.array(pivots)


@pytest.mark.parametrize("n", [16, 64, 300])
def test_the_pivots_are_those_of_resamples_taken_one_by_one(n: int):
    table = _table(n)
    mine, theirs = sample(_ratio, table).pivots, _one_by_one(table, draws=8000)
    # Two samples of one distribution: 8,000 against 10,000 draws.
    assert stats.ks_2samp(mine, theirs).pvalue > 1e-3
    assert len(mine) > 0.999 * DRAWS


@pytest.mark.parametrize("n", [64, 300])
def test_the_standard_error_is_that_of_scipys_bootstrap(n: int):
    table = _table(n)
    theirs = stats.bootstrap(
        (table["kl"], table["n"]),
        lambda kl, n, axis: kl.sum(axis=axis) / n.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).standard_error
    mine = sample(_ratio, table).error
    assert mine == pytest.approx(_error_of_ratio(table["kl"], table["n"]), rel=1e-5)
    # 20,000 draws give 0.5%; the bootstrap divides by n, the delta method here by n - 1.
    assert mine == pytest.approx(theirs, rel=0.02 + 0.5 / n)


def test_the_interval_is_no_narrower_than_students():
    table = _table(64)
    found, error = estimate(_ratio, table), _error_of_ratio(table["kl"], table["n"])
    reach = stats.t.ppf(0.975, 63) * error
    assert found.interval.low <= found.value - reach * (1 - 1e-6)
    assert found.interval.high >= found.value + reach * (1 - 1e-6)
    assert "studentised bootstrap" in found.interval.method


def test_a_skewed_metrics_interval_reaches_further_up_than_down():
    kl = np.random.default_rng(0).lognormal(0, 1, 64)
    found = estimate(_ratio, {"kl": kl, "n": np.ones(64)})
    assert found.interval.high - found.value > 1.1 * (found.value - found.interval.low)


def test_normal_data_give_students_interval():
    rng = np.random.default_rng(0)
    table = {"kl": rng.normal(5, 1, 400), "n": np.ones(400)}
    mine = estimate(_ratio, table).interval
    theirs = stats.ttest_1samp(table["kl"], 0).confidence_interval()
    width = theirs.high - theirs.low  # 10,000 draws give the quantiles to about 1%
    assert mine.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert mine.high == pytest.approx(theirs.high, abs=0.03 * width)


def test_many_formulas_together_give_what_each_gives_alone():
    table = _table(64)
    wanted = {
        "mean": Wanted(_ratio, ("kl", "n")),
        "upside down": Wanted(lambda s: s["n"] / s["kl"], ("n", "kl")),
        "alone": Wanted(lambda s: s["kl"], ("kl",)),
    }
    for name, together in sample_all(wanted, table).items():
        alone = sample(wanted[name].formula, {c: table[c] for c in wanted[name].channels})
        assert together.value == pytest.approx(alone.value, rel=1e-12)
        assert together.error == pytest.approx(alone.error, rel=1e-6)
        assert together.pivots == pytest.approx(alone.pivots, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("side", ["below", "above"])
def test_a_p_value_of_half_the_level_is_that_of_the_intervals_end(side: str):
    found = sample(_ratio, _table(64))
    ci = found.interval(0.9)
    p = found.p_below(ci.high) if side == "below" else found.p_above(ci.low)
    assert p == pytest.approx(0.05, abs=2e-4)


def test_p_values_are_small_where_the_limit_is_far_and_large_on_the_wrong_side():
    found = sample(_ratio, _table(64))
    assert found.p_below(10 * found.value) < 1e-3
    assert found.p_below(0.5 * found.value) > 0.99
    assert found.p_above(0.1 * found.value) < 1e-3


def test_two_sequences_give_students_interval_with_one_degree_of_freedom():
    found = estimate(_ratio, {"kl": np.array([1.0, 3.0]), "n": np.ones(2)})
    theirs = stats.ttest_1samp([1.0, 3.0], 0).confidence_interval()
    assert (found.interval.low, found.interval.high) == pytest.approx(theirs, rel=1e-5)
    assert "Student's t" in found.interval.method


@pytest.mark.parametrize("ones", [1, 2, 63, 64])
def test_resamples_without_spread_leave_students_interval(ones: int):
    kl = (np.arange(64) < ones).astype(float)
    found = estimate(_ratio, {"kl": kl, "n": np.ones(64)})
    assert np.isfinite([found.interval.low, found.interval.high]).all()
    assert "bootstrap" not in found.interval.method


def test_channels_of_several_lengths_are_refused():
    with pytest.raises(ValueError, match="several lengths"):
        sample(_ratio, {"kl": np.ones(4), "n": np.ones(5)})


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_a_sequence_that_is_no_number_gives_no_interval(odd: float):
    table = _table(20)
    table["kl"][3] = odd
    assert estimate(_ratio, table).interval is None


def test_large_means_do_not_drown_the_spread():
    table = _table(64)
    moved = {"kl": table["kl"] + 1e9, "n": np.full(64, 1.0)}
    error = sample(_ratio, moved).error
    assert error == pytest.approx(table["kl"].std(ddof=1) / 8, rel=1e-4)


def test_the_value_is_the_formula_of_the_totals():
    table = _table(50)
    assert estimate(_ratio, table).value == table["kl"].sum() / table["n"].sum()


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


def test_resamples_that_are_undefined_leave_the_interval_of_the_data():
    n = np.array([0.0] * 9 + [1.0])  # a third of the resamples count no token
    found = estimate(_ratio, {"kl": n * 2.0 + np.arange(10.0), "n": n}).interval
    assert "Student's t over 10 sequences" in found.method
    assert np.isfinite([found.low, found.high]).all()


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
