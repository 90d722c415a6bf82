"""Features against loops over prompts, scipy's binomial test and statsmodels' correction."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.stats import binomtest

from saebench.errors import NonFiniteValue, NotApplicable
from saebench.experiments.cloze_prompts import Answers, ClozeMeasurement
from saebench.properties import find_property
from saebench.properties.helpfulness import features_of
from saebench.records.metric import Metric

PROMPTS, FEATURES = 150, 40
HELPFUL, HARMFUL = [12, 36], [10, 34]


def _world(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Some features go with answers that become likelier, some with the contrary."""
    rng = np.random.default_rng(seed)
    active = rng.random((PROMPTS, FEATURES)) < np.linspace(0.02, 0.6, FEATURES)
    effect = np.zeros(FEATURES)
    effect[HELPFUL], effect[HARMFUL] = 1, -1
    delta = active @ effect + rng.normal(0, 0.2, PROMPTS)
    delta[rng.random(PROMPTS) < 0.1] = 0  # no sign
    return active, delta


def _measurement(active: np.ndarray, delta: np.ndarray) -> ClozeMeasurement:
    n = len(delta)
    right = np.ones(n, dtype=bool)
    clean = Answers(np.full(n, -3.0), right, right)
    changed = Answers(-3.0 + delta, right, right)
    return ClozeMeasurement(clean, changed, np.ones(n), np.ones(n), 0, active=csr_array(active))


def _findings(active: np.ndarray, delta: np.ndarray) -> Any:
    return find_property("helpfulness").findings(_measurement(active, delta), {})


def _found(active: np.ndarray, delta: np.ndarray) -> dict[str, Metric]:
    metrics = _findings(active, delta).metrics
    return {metric.name.removeprefix("helpfulness."): metric for metric in metrics}


def _by_hand(active: np.ndarray, delta: np.ndarray) -> list[dict[str, float]]:
    """Loop over features and prompts; correct the p-values with statsmodels."""
    multipletests = pytest.importorskip("statsmodels.stats.multitest").multipletests
    rows = []
    for f in range(active.shape[1]):
        deltas = [d for d, on in zip(delta, active[:, f], strict=True) if on]
        if len(deltas) < 20:
            continue
        up, down = sum(d > 0 for d in deltas), sum(d < 0 for d in deltas)
        p = binomtest(up, up + down).pvalue if up + down else 1.0
        score = sum(1 if d >= 0 else -1 for d in deltas)
        rows.append({"f": f, "n": len(deltas), "mean": np.mean(deltas), "score": score, "p": p})
    adjusted = multipletests([row["p"] for row in rows], method="fdr_bh")[1]
    return [row | {"adjusted": q} for row, q in zip(rows, adjusted, strict=True)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_tested_feature_is_that_of_the_loops(seed):
    active, delta = _world(seed)
    found, expected = features_of(csr_array(active), delta), _by_hand(active, delta)
    assert found.index.tolist() == [row["f"] for row in expected]
    assert found.prompts.tolist() == [row["n"] for row in expected]
    assert found.score.tolist() == [row["score"] for row in expected]
    for name, column in (("mean", found.mean_delta), ("p", found.p), ("adjusted", found.adjusted)):
        np.testing.assert_allclose(column, [row[name] for row in expected], rtol=1e-9)


def test_helpful_and_harmful_are_those_that_stand_after_correction():
    active, delta = _world()
    found, rows = _found(active, delta), _by_hand(active, delta)
    stand = [row for row in rows if row["adjusted"] <= 0.05]
    assert found["tested"].value == len(rows)
    assert found["helpful"].value == sum(row["score"] > 0 for row in stand) > 0
    assert found["harmful"].value == sum(row["score"] < 0 for row in stand) > 0
    for name in ("helpful", "harmful"):
        assert found[f"share_{name}"].value == pytest.approx(found[name].value / len(rows))


def test_planted_features_are_found():
    found = features_of(*(csr_array(_world()[0]), _world()[1]))
    helpful, harmful = set(found.index[found.helpful]), set(found.index[found.harmful])
    assert set(HELPFUL) <= helpful
    assert set(HARMFUL) <= harmful


def test_means_over_features_are_means_of_means():
    active, delta = _world()
    found, rows = _found(active, delta), _by_hand(active, delta)
    assert found["mean_delta"].value == pytest.approx(np.mean([row["mean"] for row in rows]))
    shares = [row["score"] / row["n"] for row in rows]
    assert found["mean_score"].value == pytest.approx(np.mean(shares))


def test_their_interval_is_that_of_resampling_whole_prompts():
    active, delta = _world()
    tested = active[:, active.sum(axis=0) >= 20].astype(float)
    drawn = []
    for rows in np.random.default_rng(1).integers(0, PROMPTS, (3000, PROMPTS)):
        on = tested[rows]
        drawn.append(((on.T @ delta[rows]) / on.sum(axis=0)).mean())
    low, high = np.quantile(drawn, [0.025, 0.975])
    ci = _found(active, delta)["mean_delta"].ci
    # The means' denominators are linearised, and 3000 draws give the ends to some percent.
    assert [ci.low, ci.high] == pytest.approx([low, high], abs=0.1 * (high - low))


def test_an_sae_that_changes_nothing_has_no_helpful_feature():
    """A difference of exactly zero has no sign: 150 of them are no evidence of help."""
    found = _found(_world()[0], np.zeros(PROMPTS))
    assert (found["helpful"].value, found["harmful"].value) == (0, 0)
    assert found["mean_score"].value == 1  # as docs/metrics.md scores Δ ≥ 0


@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=25)
def test_without_any_effect_false_discoveries_are_rare(seed):
    rng = np.random.default_rng(seed)
    active = rng.random((100, 30)) < 0.4
    found = features_of(csr_array(active), rng.choice([-1.0, 1.0], 100))
    # Features share prompts, so that one unlucky sample may give several at once.
    assert (found.helpful | found.harmful).mean() < 0.5


def test_features_on_fewer_than_twenty_prompts_are_not_tested():
    active, delta = _world()
    active[:, 39] = np.arange(PROMPTS) < 19
    active[:, 38] = np.arange(PROMPTS) < 20
    index = features_of(csr_array(active), delta).index.tolist()
    assert 38 in index
    assert 39 not in index


def test_where_no_feature_is_on_enough_prompts_it_is_skipped_with_what_would_help():
    with pytest.raises(NotApplicable, match="on 20 of the 10 prompts.*--sae-cloze"):
        _findings(np.ones((10, 3), dtype=bool), np.ones(10))


def test_nan_is_an_error_and_never_a_value():
    active, delta = _world()
    delta[3] = np.nan
    with pytest.raises(NonFiniteValue):
        _findings(active, delta)


def test_series_show_the_tops_of_both_ends_and_count_every_feature_once():
    active, delta = _world()
    series, rows = _findings(active, delta).series, _by_hand(active, delta)
    json.dumps(series, allow_nan=False)
    order = sorted(rows, key=lambda row: row["mean"])
    assert [row["feature"] for row in series["most_harmful"]] == [r["f"] for r in order[:10]]
    assert [row["feature"] for row in series["most_helpful"]] == [r["f"] for r in order[::-1][:10]]
    for name in ("mean_delta", "score"):
        assert sum(series[f"{name}_histogram"]["counts"]) == len(rows)


def test_counts_have_no_interval_but_say_how_many_prompts_they_rest_on():
    found = _found(*_world())
    assert found["harmful"].ci is None
    assert found["harmful"].n.sequences == PROMPTS
    declared = {spec.name for spec in find_property("helpfulness").metrics}
    assert {m.name for m in found.values()} == declared
