"""Two SAEs side by side."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from stored import CASES, make_sums

from saebench.cli.stored import known_specs
from saebench.compare.comparison import Side, compare
from saebench.compare.differences import Outcome, SideCase
from saebench.records.boards import Score
from saebench.records.case_result import Basis
from saebench.records.metric import Interval
from saebench.statistics.bootstrap import estimate

SPECS = known_specs()
BASIS = Basis("model", "float32", "tokens", 0)
NAMES = tuple(name for names in CASES.values() for name in names)


def _side(label, table, *, basis=BASIS, sums=True, without=()):
    cases = {}
    for kind, names in CASES.items():
        found = {name: _score(SPECS[name], table) for name in names if name not in without}
        cases[kind] = SideCase(basis, found, table if sums else None)
    return Side(label, cases)


def _score(spec, table):
    found = estimate(spec.formula, {c: table[c] for c in (*spec.channels, spec.counts)})
    return Score(spec.version, found.value, found.interval)


def _interval(value, half):
    return Interval(value - half, value + half, 0.95, "made up")


def _compare(one, two, *metrics):
    return compare(one, two, specs=SPECS, metrics=metrics or NAMES)


def _only(comparison):
    (difference,) = comparison.differences
    return difference


def _value(side, metric):
    return next(c.metrics[metric].value for c in side.cases.values() if metric in c.metrics)


GOOD, BAD = make_sums(kl=0.05, norm=0.97), make_sums(kl=0.2, norm=0.8)


def test_the_second_is_worse_where_its_kl_is_higher():
    found = _only(_compare(_side("a", GOOD), _side("b", BAD), "fidelity.kl"))
    assert found.outcome is Outcome.WORSE
    assert found.worse_by == pytest.approx(found.second - found.first)
    back = _only(_compare(_side("b", BAD), _side("a", GOOD), "fidelity.kl"))
    assert (back.outcome, back.worse_by) == (Outcome.BETTER, -found.worse_by)


def test_distance_from_the_target_is_what_counts_where_there_is_one():
    sides = _side("a", make_sums(norm=0.9)), _side("b", make_sums(norm=1.02))
    found = _only(_compare(*sides, "shrinkage.l2_ratio"))
    one, two = (_value(side, "shrinkage.l2_ratio") for side in sides)
    assert found.outcome is Outcome.BETTER
    assert found.worse_by == pytest.approx(abs(two - 1) - abs(one - 1))


def test_an_sae_differs_from_itself_in_nothing():
    comparison = _compare(_side("a", GOOD), _side("a", GOOD))
    assert [d.outcome for d in comparison.differences] == [Outcome.UNCLEAR] * len(NAMES)
    assert {(d.ci.low, d.ci.high) for d in comparison.differences} == {(0.0, 0.0)}
    assert not comparison.is_worse


def test_the_paired_interval_is_about_scipys():
    found = _only(_compare(_side("a", GOOD), _side("b", BAD), "fidelity.kl"))

    def difference(i, axis=-1):
        counts = GOOD["n.scored"][i].sum(axis)
        return (BAD["sae.kl"][i].sum(axis) - GOOD["sae.kl"][i].sum(axis)) / counts

    every = np.arange(len(GOOD["n.scored"]))
    rng = np.random.default_rng(1)
    reference = stats.bootstrap((every,), difference, n_resamples=10_000, rng=rng, method="BCa")
    ends = (found.ci.low, found.ci.high)
    width = found.ci.high - found.ci.low
    assert found.paired
    # BCa and the studentised bootstrap are two ways: of 48 sequences they differ by a tenth.
    assert ends == pytest.approx(tuple(reference.confidence_interval), abs=0.1 * width)


def test_without_the_sums_the_interval_is_unpaired_and_wider():
    paired = _only(_compare(_side("a", GOOD), _side("b", BAD), "fidelity.kl"))
    sides = _side("a", GOOD, sums=False), _side("b", BAD, sums=False)
    unpaired = _only(_compare(*sides, "fidelity.kl"))
    assert (paired.paired, unpaired.paired) == (True, False)
    assert unpaired.worse_by == paired.worse_by
    widths = [each.ci.high - each.ci.low for each in (unpaired, paired)]
    assert widths[0] > 1.2 * widths[1]


def test_the_unpaired_interval_of_even_ones_is_the_root_of_the_halves_squares():
    sides = [_side(label, GOOD, sums=False) for label in "ab"]
    for side, (value, half) in zip(sides, ((1.0, 0.3), (2.0, 0.4)), strict=True):
        kept = replace(
            side.cases["fidelity"],
            metrics={"fidelity.kl": Score(1, value, _interval(value, half))},
        )
        side.cases["fidelity"] = kept
    found = _only(_compare(*sides, "fidelity.kl"))
    half = math.hypot(0.3, 0.4)
    assert (found.ci.low, found.ci.high) == pytest.approx((1.0 - half, 1.0 + half))


def test_the_more_is_compared_the_wider_each_interval():
    sides = _side("a", GOOD), _side("b", BAD)
    alone = _only(_compare(*sides, "fidelity.kl"))
    together = next(d for d in _compare(*sides).differences if d.metric == "fidelity.kl")
    assert together.ci.low < alone.ci.low < alone.ci.high < together.ci.high


def test_equal_saes_are_seldom_called_worse_however_many_metrics_are_compared():
    """In 5 runs of 100 at most, within three standard errors of 150 runs."""
    alarms = 0
    for i in range(150):
        rng = np.random.default_rng(i)
        one, two = (_noisy(rng) for _ in range(2))
        alarms += _compare(_side("a", one), _side("b", two)).is_worse
    assert alarms / 150 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 150)


def _noisy(rng):
    sums = make_sums(sequences=64)
    noise = {c: rng.gamma(9, 1 / 9, 64) for c in ("sae.kl", "norm_ratio", "l0")}
    return {c: values * noise.get(c, 1.0) for c, values in sums.items()}


def test_the_worst_comes_first_then_what_is_unclear_then_what_is_better():
    one, two = make_sums(kl=0.1, norm=0.9, l0=20), make_sums(kl=0.3, norm=0.99, l0=21)
    found = _compare(_side("a", one), _side("b", two)).differences
    assert found[-1].metric == "shrinkage.l2_ratio"
    shares = [d.worse_by / abs(d.first) for d in found if d.outcome is Outcome.WORSE]
    assert shares == sorted(shares, reverse=True)
    assert len(shares) >= 2


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"dataset": "others"}, "other tokens: tokens and others"),
        ({"model": "another"}, "in other models: model as float32 and another as float32"),
        ({"dtype": "bfloat16"}, "in other models: model as float32 and model as bfloat16"),
        ({"seed": 3}, "with other noise: seeds 0 and 3"),
    ],
)
def test_other_tokens_models_or_noise_are_incomparable_and_no_number_is_given(change, why):
    other = _side("b", BAD, basis=replace(BASIS, **change))
    comparison = _compare(_side("a", GOOD), other)
    assert comparison.differences == ()
    assert {case for case, _ in comparison.incomparable} == set(CASES)
    assert all(why in reason for _, reason in comparison.incomparable)


def test_a_file_that_does_not_say_its_tokens_is_incomparable():
    comparison = _compare(_side("a", GOOD, basis=None), _side("b", BAD), "fidelity.kl")
    assert "does not say which tokens" in comparison.incomparable[0][1]


def test_a_metric_that_only_one_has_is_said_never_passed_over():
    lacking = _side("b", BAD, without=("sparsity.l0",))
    comparison = _compare(_side("a", GOOD), lacking, "fidelity.kl", "sparsity.l0")
    assert [d.metric for d in comparison.differences] == ["fidelity.kl"]
    assert comparison.incomparable == (("sparsity.l0", "measured for a alone"),)


def test_another_version_of_a_metric_is_incomparable():
    older = _side("b", BAD)
    case = older.cases["fidelity"]
    older.cases["fidelity"] = replace(
        case, metrics={"fidelity.kl": replace(case.metrics["fidelity.kl"], version=2)}
    )
    comparison = _compare(_side("a", GOOD), older, "fidelity.kl")
    assert comparison.differences == ()
    assert "versions 1 and 2" in comparison.incomparable[0][1]


def test_an_undefined_value_is_incomparable_not_zero():
    undefined = _side("b", BAD)
    undefined.cases["fidelity"] = SideCase(BASIS, {"fidelity.kl": Score(1, None, None)})
    comparison = _compare(_side("a", GOOD), undefined, "fidelity.kl")
    assert comparison.incomparable == (("fidelity.kl", "undefined for one of the two"),)


def test_a_metric_without_an_interval_decides_nothing():
    sides = [_side(label, GOOD) for label in "ab"]
    for side, value in zip(sides, (0.1, 0.9), strict=True):
        side.cases["sparsity"] = SideCase(BASIS, {"sparsity.dead": Score(1, value, None)})
    comparison = _compare(*sides, "sparsity.dead")
    assert _only(comparison).outcome is Outcome.UNKNOWN
    assert not comparison.is_worse
