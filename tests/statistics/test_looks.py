"""Several looks at a run: together they err no more often than they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from saebench.statistics.bootstrap import sample_all
from saebench.statistics.levels import looks
from tests.statistics.distributions import CASES, sums


@given(st.integers(1, 100_000), st.integers(1, 64))
def test_the_looks_errors_add_up_to_the_runs(sequences, first):
    found = looks(sequences, first=first)
    # Intervals that miss 7% where they say 5% then miss 5% all together.
    spent = 0.05 * 5 / 7 if len(found) > 1 else 0.05
    assert sum(1 - look.level for look in found) == pytest.approx(spent)
    sizes = [look.sequences for look in found]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == sequences
    assert [look.number for look in found] == list(range(1, len(found) + 1))


def test_there_is_a_look_at_a_tenth_of_the_run_where_that_is_not_before_the_first():
    assert [look.sequences for look in looks(512)] == [32, 51, 64, 128, 256, 512]
    assert [look.sequences for look in looks(300)] == [32, 64, 128, 256, 300]
    assert 1638 in [look.sequences for look in looks(16_384)]


def test_next_to_nothing_of_the_error_is_spent_where_sequences_are_few():
    found = looks(512)
    shares = [(1 - look.level) / (0.05 * 5 / 7) for look in found]
    assert sum(shares) == pytest.approx(1)
    assert shares[0] == pytest.approx((32 / 512) ** 3)
    assert found[-1].level < 0.97  # a run that looks once has 0.95


@pytest.mark.parametrize(("sequences", "first"), [(16_384, 256), (10**7, 156_250), (64, 32)])
def test_no_look_has_less_of_the_error_than_an_interval_can_hold(sequences, first):
    found = looks(sequences)
    assert found[0].sequences == first
    assert all(0.96 < look.level < 1 - 1e-8 for look in found)
    assert len(found) <= 8


def test_a_run_of_few_sequences_looks_once():
    (look,) = looks(32)
    assert (look.sequences, look.level) == (32, 0.95)


def wrong_verdicts(spread: float, n: int, *, runs: int) -> dict[str, int]:
    """How many runs end with a claim, by formula, where the truth is at the limit itself.

    Both claims are then counted as wrong: either side of the limit is as good as the truth's.
    """
    rng, wrong = np.random.default_rng(11), dict.fromkeys(CASES, 0)
    for _ in range(runs):
        table, open_ = sums(spread, n, rng=rng), dict(CASES)
        for look in looks(n):
            part = {channel: values[: look.sequences] for channel, values in table.items()}
            found = sample_all({name: case.wanted for name, case in open_.items()}, part)
            for name, case in list(open_.items()):
                ci = found[name].interval(look.level)
                if not ci.low <= case.truth(spread) <= ci.high:
                    wrong[name] += 1
                    del open_[name]
            if not open_:
                break
    return wrong


def _holds(wrong: int, runs: int, *, rate: float) -> bool:
    return wrong <= stats.binom.ppf(0.999, runs, rate)


def test_repeated_looks_err_no_more_often_than_one():
    found = wrong_verdicts(0.5, 128, runs=100)
    assert all(_holds(wrong, 100, rate=0.05) for wrong in found.values()), found


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("n", [128, 512])
def test_the_error_rate_of_all_looks_together_is_held(spread: float, n: int):
    found = wrong_verdicts(spread, n, runs=1000)
    assert all(_holds(wrong, 1000, rate=0.05) for wrong in found.values()), found


def test_looking_several_times_at_95_percent_would_not_do():
    """Why the error is spent: each look at 95% errs anew."""
    rng, wrong, runs = np.random.default_rng(2), 0, 400
    for _ in range(runs):
        x = rng.normal(0, 1, 512)
        for n in (32, 64, 128, 256, 512):
            half = stats.t.ppf(0.975, n - 1) * x[:n].std(ddof=1) / n**0.5
            if abs(x[:n].mean()) > half:
                wrong += 1
                break
    assert wrong / runs > 0.10
