"""Hard tokens: at which tokens the SAE's error is worse than a random one of the same size.

Source: docs/metrics.md (hard_tokens); Gurnee 2024, "SAE reconstruction errors are (empirically)
pathological".
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from saebench.errors import MeasurementError, NonFiniteValue
from saebench.properties.base import Findings, MetricSpec, Params, Property, estimated
from saebench.records.metric import CLUSTER, Direction, Metric, SampleSize
from saebench.statistics.bootstrap import Estimate, estimate
from saebench.statistics.rank import (
    RankCorrelation,
    mean_correlation,
    over_sequences,
    rank_correlations,
)

if TYPE_CHECKING:
    from saebench.measures.state import WithPeers
    from saebench.substitution.measurement import Measurement, TokenMeasurement

COVARIATES = ("position", "cosine", "norm", "l0", "frequency")
KEPT = ("sae.kl", "eps_random.kl", "cosine", "norm", "l0")
OTHERS = "other_layers"
LISTED, LEAST_COUNT = 20, 5  # as in Gurnee's table of tokens
PARTS = 10
TEXTS, TEXT_TOKENS = 3, 192  # stored for the report; bounds the size of the result file


def _spec(what: str) -> MetricSpec:
    name = f"hard_tokens.correlation[{what}]"
    return MetricSpec(name, "ρ", Direction.TARGET, None, target=0.0, version=2)


CORRELATION = {what: _spec(what) for what in (*COVARIATES, OTHERS)}


@dataclass(frozen=True)
class _Tokens:
    """The counted tokens as columns: the gap KL_sae - KL_eps and its covariates."""

    gap: np.ndarray
    sequence: np.ndarray
    id: np.ndarray
    covariates: dict[str, np.ndarray]

    @property
    def size(self) -> SampleSize:
        return SampleSize(len(np.unique(self.sequence)), len(self.gap))


def _interventions(_: Params) -> tuple[str, ...]:
    return ("sae", "eps_random")


def _findings(measured: "WithPeers", _: Params) -> Findings:
    values = _per_token(measured.own)
    tokens = _columns(values, measured.own.table().get(CLUSTER))
    correlations = rank_correlations(tokens.gap, tokens.covariates)
    metrics = [_metric(tokens, what, correlation) for what, correlation in correlations.items()]
    others, left_out = _with_others(tokens, measured)
    metrics.append(_of_others(tokens, others))
    series = {
        "tokens": _hardest(tokens, values),
        "other_layers": {name: _as_series(tokens, c) for name, c in others.items()},
        "left_out": left_out,
        "texts": _texts(values),
        "gap_by_part": {what: _by_part(tokens, x) for what, x in tokens.covariates.items()},
        "kept_sequences": len(values.ids),
    }
    return Findings(tuple(metrics), series)


def _with_others(
    tokens: _Tokens, measured: "WithPeers"
) -> tuple[dict[str, RankCorrelation], dict[str, str]]:
    """Return the correlation with each other SAE's gap, and for those without one the reason."""
    gaps, left_out = {}, dict(measured.left_out)
    for name, other in measured.others.items():
        try:
            gaps[name] = _gap(_per_token(other))
        except MeasurementError as error:
            left_out[name] = str(error)
    correlations = rank_correlations(tokens.gap, gaps)
    same = [name for name, correlation in correlations.items() if np.isnan(correlation.value)]
    left_out |= dict.fromkeys(same, "its gap, or this one, is the same at every token")
    return {name: c for name, c in correlations.items() if name not in same}, left_out


def _per_token(measurement: "Measurement") -> "TokenMeasurement":
    measurement.need("sae", "eps_random")
    assert measurement.per_token is not None
    return measurement.per_token


def _gap(values: "TokenMeasurement") -> np.ndarray:
    sae, random = (values.values[f"{name}.kl"].astype(float) for name in ("sae", "eps_random"))
    return (sae - random)[values.counted]


def _columns(values: "TokenMeasurement", clusters: np.ndarray | None) -> _Tokens:
    """Return the counted tokens' columns; sequences that repeat each other have one index."""
    row, position = values.counted.nonzero()
    sequence = row if clusters is None else clusters[row].astype(np.int64)
    id = values.ids[values.counted]
    kind, counts = np.unique(id, return_inverse=True, return_counts=True)[1:]
    covariates = {"position": position, "frequency": counts[kind]}
    covariates |= {name: values.values[name][values.counted] for name in ("cosine", "norm", "l0")}
    for name, column in covariates.items():
        if not np.isfinite(column).all():
            raise NonFiniteValue(f"hard_tokens: {name} is not finite at some tokens")
    return _Tokens(_gap(values), sequence, id, {name: covariates[name] for name in COVARIATES})


def _metric(tokens: _Tokens, what: str, correlation: RankCorrelation) -> Metric:
    note = None
    if np.isnan(correlation.value):
        note = f"undefined: {what}, or the gap, is the same at every token"
    estimate = over_sequences(correlation, tokens.sequence)
    return estimated(CORRELATION[what], estimate, n=tokens.size, note=note)


def _of_others(tokens: _Tokens, others: dict[str, RankCorrelation]) -> Metric:
    """Return the mean correlation with the gaps of SAEs at other hooks."""
    if not others:
        note = "undefined: no SAE of another layer to compare with; --sae, repeated, gives several"
        none = Estimate(float("nan"), None)
        return estimated(CORRELATION[OTHERS], none, n=tokens.size, note=note)
    return _metric(tokens, OTHERS, mean_correlation(list(others.values())))


def _as_series(tokens: _Tokens, correlation: RankCorrelation) -> dict[str, Any]:
    interval = over_sequences(correlation, tokens.sequence).interval
    return {"value": correlation.value, "ci": [interval.low, interval.high] if interval else None}


def _hardest(tokens: _Tokens, values: "TokenMeasurement") -> list[dict[str, Any]]:
    """Return the token ids with the highest mean gap, among those that occur often enough."""
    ids, kind, counts = np.unique(tokens.id, return_inverse=True, return_counts=True)
    mean = np.bincount(kind, tokens.gap) / counts
    often = np.flatnonzero(counts >= LEAST_COUNT)
    chosen = often[np.argsort(-mean[often], kind="stable")][:LISTED]
    return [_row(tokens, kind == k, int(ids[k]), values.text(int(ids[k]))) for k in chosen]


def _row(tokens: _Tokens, selected: np.ndarray, id: int, text: str) -> dict[str, Any]:
    """Return one token id's row; its interval is over the sequences that contain it."""
    gap = tokens.gap[selected]
    index = np.unique(tokens.sequence[selected], return_inverse=True)[1]
    sequences = int(index.max()) + 1
    interval = None
    if sequences >= LEAST_COUNT:
        table = {"gap": np.bincount(index, gap), "n": np.bincount(index).astype(float)}
        interval = estimate(lambda sums: sums["gap"] / sums["n"], table).interval
    return {
        "token": text,
        "id": id,
        "count": len(gap),
        "sequences": sequences,
        "mean_gap": float(gap.mean()),
        "sd": float(gap.std(ddof=1)),
        "ci": [interval.low, interval.high] if interval else None,
    }


def _texts(values: "TokenMeasurement") -> list[dict[str, Any]]:
    """Return the texts of the largest, median and smallest mean gap, with each token's gap."""
    gap = values.values["sae.kl"].astype(float) - values.values["eps_random.kl"]
    counts = values.counted.sum(axis=1)
    used = np.flatnonzero(counts)
    mean = np.where(values.counted, gap, 0.0).sum(axis=1)[used] / counts[used]
    order = used[np.argsort(-mean, kind="stable")]
    places = np.linspace(0, len(order) - 1, min(TEXTS, len(order))).astype(int)
    return [_text(values, gap, int(order[place])) for place in places]


def _text(values: "TokenMeasurement", gap: np.ndarray, sequence: int) -> dict[str, Any]:
    first = slice(0, TEXT_TOKENS)
    marked = zip(gap[sequence, first], values.counted[sequence, first], strict=True)
    return {
        "sequence": sequence,
        "tokens": [values.text(int(id)) for id in values.ids[sequence, first]],
        "gap": [float(value) if counts else None for value, counts in marked],
    }


def _by_part(tokens: _Tokens, column: np.ndarray) -> dict[str, list[float]]:
    """Return the mean gap in each tenth of the tokens, ordered by a covariate, for plots."""
    parts = np.array_split(np.argsort(column, kind="stable"), min(PARTS, len(column)))
    return {
        "mean": [float(column[part].mean()) for part in parts],
        "gap": [float(tokens.gap[part].mean()) for part in parts],
    }


PROPERTY = Property(
    "hard_tokens",
    "at which tokens the SAE's error is worse than a random one of the same size",
    tuple(CORRELATION.values()),
    _interventions,
    _findings,
    keeps=KEPT,
    peers=True,
)
