"""The drift check: silent where texts are exchangeable, and not where they change."""

import numpy as np
import pytest
from scipy import stats

from saebench.records.metric import CLUSTER
from saebench.statistics.drift import drift_of

N = 200


def _ratio(sums):
    return sums["kl"] / sums["n"]


def _table(rng: np.random.Generator, *, slope: float = 0.0) -> dict[str, np.ndarray]:
    """Return skewed sums of sequences of different lengths, in the file's order."""
    n = rng.integers(20, 200, N).astype(float)
    means = rng.gamma(0.5, 0.6, N) * (1 + slope * np.linspace(-1, 1, N))
    return {"kl": n * means, "n": n}


def test_exchangeable_texts_are_said_to_drift_no_more_often_than_the_level():
    rng = np.random.default_rng(0)
    found = [drift_of(_ratio, _table(rng), rng.permutation(N)) for _ in range(2000)]
    share = np.mean([drift.p < 0.01 for drift in found if drift is not None])
    assert share <= 0.02
    assert stats.kstest([drift.p for drift in found if drift is not None], "uniform").pvalue > 0.01


def test_a_drift_is_seen_whatever_the_order_in_which_documents_were_drawn():
    table = _table(np.random.default_rng(1), slope=0.8)
    order = np.random.default_rng(2).permutation(N)
    in_order = drift_of(_ratio, table, np.arange(N))
    drawn = drift_of(_ratio, {c: v[order] for c, v in table.items()}, order)
    assert in_order is not None
    assert drawn is not None
    assert in_order.p < 1e-4
    assert (drawn.p, drawn.early, drawn.late) == pytest.approx(
        (in_order.p, in_order.early, in_order.late)
    )


def test_the_halves_are_the_metric_on_each():
    table = _table(np.random.default_rng(3), slope=0.5)
    drift = drift_of(_ratio, table, np.arange(N))
    assert drift is not None
    halves = [table["kl"][h].sum() / table["n"][h].sum() for h in (slice(100), slice(100, None))]
    assert [drift.early, drift.late] == pytest.approx(halves)


def test_repeated_texts_count_once():
    table, times = _table(np.random.default_rng(4), slope=0.2), 5
    often = {c: np.tile(v, times) for c, v in table.items()}
    often[CLUSTER] = np.tile(np.arange(float(N)), times)
    once, many = (drift_of(_ratio, t, np.arange(len(t["n"]))) for t in (table, often))
    assert once is not None
    assert many is not None
    assert many.p == pytest.approx(once.p)


@pytest.mark.parametrize("table", [
    {"kl": np.ones(N), "n": np.ones(N)},
    {"kl": np.arange(8.0), "n": np.ones(8)},
    {"kl": np.full(N, np.nan), "n": np.ones(N)},
])  # fmt: skip
def test_what_cannot_be_tested_has_no_drift(table):
    assert drift_of(_ratio, table, np.arange(len(table["n"]))) is None
