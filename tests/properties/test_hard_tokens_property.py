"""Correlations of the gap against scipy, the table of tokens against pandas."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from saebench.errors import NonFiniteValue, UndefinedDirection
from saebench.measures.state import WithPeers
from saebench.measures.sums import TokenSums
from saebench.properties import find_property
from saebench.records.metric import Metric
from saebench.substitution.measurement import Measurement, TokenMeasurement

N, T, KINDS = 30, 12, 25
COVARIATES = ("position", "cosine", "norm", "l0", "frequency")


def _kept(seed: int = 0, *, shared: float = 0.0) -> TokenMeasurement:
    """Made-up tokens; some of the gap belongs to the token's kind, some to all SAEs."""
    tokens = np.random.default_rng(99)
    ids = tokens.zipf(1.4, (N, T)) % KINDS
    counted = tokens.random((N, T)) < 0.85
    common = tokens.normal(size=(N, T))
    rng = np.random.default_rng(seed)
    cosine = rng.random((N, T))
    random = rng.gamma(1, 0.1, (N, T))
    gap = 0.02 * ids + 0.2 * (1 - cosine) + shared * common + rng.normal(0, 0.05, (N, T))
    values = {
        "eps_random.kl": random, "sae.kl": random + gap, "cosine": cosine,
        "norm": rng.gamma(5, 1, (N, T)), "l0": rng.integers(1, 6, (N, T)),
    }  # fmt: skip
    values = {name: np.where(counted, v, 0).astype(np.float32) for name, v in values.items()}
    return TokenMeasurement(values, ids, counted, lambda i: f" w{i}")


def _measurement(kept: TokenMeasurement) -> Measurement:
    sums = TokenSums(N, T)
    for name in ("sae", "eps_random"):
        sums.by_sequence |= {
            f"{name}.{c}": kept.values[f"{name}.kl"].sum(axis=1) for c in ("kl", "ce")
        }
    names = ("sae", "eps_random")
    return Measurement(sums, names, np.zeros(3, dtype=np.int64), "resumed", {}, kept)


def _findings(kept: TokenMeasurement, **others: TokenMeasurement) -> Any:
    among = WithPeers(_measurement(kept), {name: _measurement(k) for name, k in others.items()})
    return find_property("hard_tokens").findings(among, {})


def _found(kept: TokenMeasurement, **others: TokenMeasurement) -> dict[str, Metric]:
    metrics = _findings(kept, **others).metrics
    return {m.name.removeprefix("hard_tokens.correlation").strip("[]"): m for m in metrics}


def _frame(kept: TokenMeasurement) -> pd.DataFrame:
    """One row a token, by loops."""
    rows = [
        {"sequence": s, "position": t, "id": kept.ids[s, t]}
        | {name: float(values[s, t]) for name, values in kept.values.items()}
        for s in range(N) for t in range(T) if kept.counted[s, t]
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    frame["gap"] = frame["sae.kl"] - frame["eps_random.kl"]
    frame["frequency"] = frame.groupby("id")["id"].transform("size")
    return frame


@pytest.mark.parametrize("what", COVARIATES)
def test_correlations_are_scipys_over_all_counted_tokens(what):
    kept = _kept()
    frame, metric = _frame(kept), _found(kept)[what]
    expected = spearmanr(frame["gap"], frame[what]).statistic
    assert metric.value == pytest.approx(expected, abs=1e-12)
    assert metric.ci.low < metric.value < metric.ci.high
    assert (metric.n.sequences, metric.n.tokens) == (frame["sequence"].nunique(), len(frame))


def test_a_covariate_that_makes_the_gap_is_found_and_one_that_does_not_is_not():
    found = _found(_kept())
    assert found["cosine"].ci.high < -0.2
    assert found["norm"].ci.low < 0 < found["norm"].ci.high


def test_the_correlation_with_other_layers_is_the_mean_of_scipys():
    kept, others = _kept(shared=0.3), {f"o{i}": _kept(i, shared=0.3) for i in (1, 2)}
    findings = _findings(kept, **others)
    gaps = {name: _frame(k)["gap"] for name, k in {"own": kept, **others}.items()}
    each = {name: spearmanr(gaps["own"], gaps[name]).statistic for name in others}
    (metric,) = [m for m in findings.metrics if "other_layers" in m.name]
    assert metric.value == pytest.approx(np.mean(list(each.values())), abs=1e-12)
    assert metric.ci.low > 0.3
    for name, value in each.items():
        shown = findings.series["other_layers"][name]
        assert shown["value"] == pytest.approx(value, abs=1e-12)
        assert shown["ci"][0] < value < shown["ci"][1]


def test_without_another_layer_its_correlation_is_undefined_and_says_what_gives_one():
    metric = _found(_kept())["other_layers"]
    assert metric.value is None
    assert "--sae, repeated" in metric.note


def test_the_table_is_pandas_groups_of_five_or_more_by_mean_gap():
    kept = _kept()
    groups = _frame(kept).groupby("id")["gap"].agg(["mean", "size", "std"])
    expected = groups[groups["size"] >= 5].sort_values("mean", ascending=False).head(20)
    assert (groups["size"] < 5).any()
    table = _findings(kept).series["tokens"]
    assert [row["id"] for row in table] == expected.index.tolist()
    for row, (id, group) in zip(table, expected.iterrows(), strict=True):
        assert (row["token"], row["count"]) == (f" w{id}", group["size"])
        assert row["mean_gap"] == pytest.approx(group["mean"])
        assert row["sd"] == pytest.approx(group["std"])
    assert len(table) <= 20


def test_a_tokens_interval_is_over_the_sequences_that_hold_it():
    """Against a plain bootstrap: resample its sequences, divide sums."""
    kept = _kept()
    frame = _frame(kept)
    row = max(_findings(kept).series["tokens"], key=lambda row: row["sequences"])
    sums = (
        frame[frame["id"] == row["id"]].groupby("sequence")["gap"].agg(["sum", "size"]).to_numpy()
    )
    drawn = np.random.default_rng(0).integers(0, len(sums), (4000, len(sums)))
    means = sums[drawn, 0].sum(axis=1) / sums[drawn, 1].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    assert row["sequences"] == len(sums)
    # BCa moves the ends of a skewed distribution by some of its width.
    assert row["ci"] == pytest.approx([low, high], abs=0.2 * (high - low))


def test_a_token_of_fewer_than_five_sequences_has_no_interval():
    kept = _kept()
    ids = kept.ids.copy()
    ids[:2], kept.counted[:2] = 77, True
    table = _findings(TokenMeasurement(kept.values, ids, kept.counted, str)).series["tokens"]
    (row,) = [row for row in table if row["id"] == 77]
    assert (row["count"], row["sequences"], row["ci"]) == (2 * T, 2, None)


def test_a_covariate_that_is_the_same_everywhere_is_undefined():
    kept = _kept()
    kept.values["l0"][:] = 16
    metric = _found(kept)["l0"]
    assert metric.value is None
    assert "l0, or the gap, is the same at every token" in metric.note


@pytest.mark.parametrize("channel", ["sae.kl", "cosine"])
def test_nan_is_an_error_and_never_a_value(channel):
    kept = _kept()
    kept.values[channel][kept.counted] = np.nan
    with pytest.raises(NonFiniteValue):
        _found(kept)


def test_a_failed_substitution_is_the_cases_error():
    measurement = _measurement(_kept())
    measurement.failures["eps_random"] = UndefinedDirection("no direction")
    with pytest.raises(UndefinedDirection):
        find_property("hard_tokens").findings(WithPeers(measurement, {}), {})


def test_another_sae_that_cannot_be_compared_is_left_out_and_named():
    failed, same = _measurement(_kept(1)), _kept(2)
    failed.failures["eps_random"] = UndefinedDirection("no direction")
    same.values["sae.kl"][:] = same.values["eps_random.kl"]
    others = {"failed": failed, "same": _measurement(same), "fine": _measurement(_kept(3))}
    among = WithPeers(_measurement(_kept()), others, {"broken": "NaN"})
    findings = find_property("hard_tokens").findings(among, {})
    assert set(findings.series["other_layers"]) == {"fine"}
    assert findings.series["left_out"] == {
        "broken": "NaN", "failed": "no direction",
        "same": "its gap, or this one, is the same at every token",
    }  # fmt: skip


def test_series_are_strict_json_and_parts_follow_the_covariate():
    kept = _kept()
    series = _findings(kept, other=_kept(1)).series
    json.dumps(series, allow_nan=False)
    for what in COVARIATES:
        part = series["gap_by_part"][what]
        assert part["mean"] == sorted(part["mean"])
    whole = np.average(series["gap_by_part"]["norm"]["gap"])
    assert whole == pytest.approx(_frame(kept)["gap"].mean(), rel=0.02)  # tenths differ by a token


def test_whole_texts_are_shown_from_the_largest_mean_gap_to_the_smallest():
    kept = _kept()
    texts = _findings(kept).series["texts"]
    frame = _frame(kept)
    means = frame.groupby("sequence")["gap"].mean()
    shown = [means[text["sequence"]] for text in texts]
    assert shown == sorted(shown, reverse=True)
    assert (shown[0], shown[-1]) == (means.max(), means.min())
    for text in texts:
        row = text["sequence"]
        assert text["tokens"] == [f" w{i}" for i in kept.ids[row]]
        assert [gap is not None for gap in text["gap"]] == kept.counted[row].tolist()
        gap = kept.values["sae.kl"][row].astype(float) - kept.values["eps_random.kl"][row]
        defined = [value for value in text["gap"] if value is not None]
        assert defined == pytest.approx(gap[kept.counted[row]])
