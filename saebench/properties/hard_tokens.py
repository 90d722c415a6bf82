"""When the SAE's error is worse than a random one, token by token (seed 002)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from saebench.errors import MeasurementError, NonFiniteValue
from saebench.properties.base import Findings, MetricSpec, Params, Property, estimated
from saebench.records.run import CLUSTER, Direction, Metric, SampleSize
from saebench.statistics.bootstrap import Estimate, estimate
from saebench.statistics.rank import (
    RankCorrelation,
    mean_correlation,
    over_sequences,
    rank_correlations,
)

if TYPE_CHECKING:
    from saebench.substitution.measurement import Measurement, TokenMeasurement, WithPeers

COVARIATES = ("position", "cosine", "norm", "l0", "frequency")
KEPT = ("sae.kl", "eps_random.kl", "cosine", "norm", "l0")
OTHERS = "other_layers"
SHOWN, LEAST_SEEN = 20, 5  # seed 002's table
PARTS = 10
TEXTS, TEXT_TOKENS = 3, 192  # shown in full, for people: their size in results is bounded


def _spec(what: str) -> MetricSpec:
    name = f"hard_tokens.correlation[{what}]"
    return MetricSpec(name, "ρ", Direction.TARGET, None, target=0.0)


CORRELATION = {what: _spec(what) for what in (*COVARIATES, OTHERS)}


@dataclass(frozen=True)
class _Tokens:
    """The counted tokens, as columns: the gap KL_sae - KL_eps, and what may have to do with it."""

    gap: np.ndarray
    sequence: np.ndarray
    id: np.ndarray
    covariates: dict[str, np.ndarray]

    @property
    def size(self) -> SampleSize:
        return SampleSize(len(np.unique(self.sequence)), len(self.gap))


def _interventions(_: Params) -> tuple[str, ...]:
    return ("sae", "eps_random")


def _findings(among: "WithPeers", _: Params) -> Findings:
    kept = _kept(among.own)
    tokens = _columns(kept, among.own.table().get(CLUSTER))
    found = rank_correlations(tokens.gap, tokens.covariates)
    metrics = [_metric(tokens, what, correlation) for what, correlation in found.items()]
    others, left_out = _with_others(tokens, among)
    metrics.append(_of_others(tokens, others))
    series = {
        "tokens": _hardest(tokens, kept),
        "other_layers": {name: _shown(tokens, c) for name, c in others.items()},
        "left_out": left_out,
        "texts": _texts(kept),
        "gap_by_part": {what: _by_part(tokens, x) for what, x in tokens.covariates.items()},
        "kept_sequences": len(kept.ids),
    }
    return Findings(tuple(metrics), series)


def _with_others(
    tokens: _Tokens, among: "WithPeers"
) -> tuple[dict[str, RankCorrelation], dict[str, str]]:
    """Return the correlation with each other SAE's gap, and why some have none."""
    gaps, left_out = {}, dict(among.left_out)
    for name, other in among.others.items():
        try:
            gaps[name] = _gap(_kept(other))
        except MeasurementError as error:
            left_out[name] = str(error)
    found = rank_correlations(tokens.gap, gaps)
    same = [name for name, correlation in found.items() if np.isnan(correlation.value)]
    left_out |= dict.fromkeys(same, "its gap, or this one, is the same at every token")
    return {name: c for name, c in found.items() if name not in same}, left_out


def _kept(measurement: "Measurement") -> "TokenMeasurement":
    measurement.need("sae", "eps_random")
    assert measurement.per_token is not None
    return measurement.per_token


def _gap(kept: "TokenMeasurement") -> np.ndarray:
    sae, random = (kept.values[f"{name}.kl"].astype(float) for name in ("sae", "eps_random"))
    return (sae - random)[kept.counted]


def _columns(kept: "TokenMeasurement", clusters: np.ndarray | None) -> _Tokens:
    """Return the counted tokens' columns; sequences that repeat each other count as one."""
    row, position = kept.counted.nonzero()
    sequence = row if clusters is None else clusters[row].astype(np.int64)
    id = kept.ids[kept.counted]
    kind, counts = np.unique(id, return_inverse=True, return_counts=True)[1:]
    covariates = {"position": position, "frequency": counts[kind]}
    covariates |= {name: kept.values[name][kept.counted] for name in ("cosine", "norm", "l0")}
    for name, column in covariates.items():
        if not np.isfinite(column).all():
            raise NonFiniteValue(f"hard_tokens: {name} is not finite at some tokens")
    return _Tokens(_gap(kept), sequence, id, {name: covariates[name] for name in COVARIATES})


def _metric(tokens: _Tokens, what: str, found: RankCorrelation) -> Metric:
    note = None
    if np.isnan(found.value):
        note = f"undefined: {what}, or the gap, is the same at every token"
    estimate = over_sequences(found, tokens.sequence)
    return estimated(CORRELATION[what], estimate, n=tokens.size, note=note)


def _of_others(tokens: _Tokens, others: dict[str, RankCorrelation]) -> Metric:
    """Return the mean correlation with the gaps of SAEs at other places."""
    if not others:
        note = "undefined: no SAE of another layer to compare with; --sae, repeated, gives several"
        none = Estimate(float("nan"), None)
        return estimated(CORRELATION[OTHERS], none, n=tokens.size, note=note)
    return _metric(tokens, OTHERS, mean_correlation(list(others.values())))


def _shown(tokens: _Tokens, found: RankCorrelation) -> dict[str, Any]:
    interval = over_sequences(found, tokens.sequence).interval
    return {"value": found.value, "ci": [interval.low, interval.high] if interval else None}


def _hardest(tokens: _Tokens, kept: "TokenMeasurement") -> list[dict[str, Any]]:
    """Return the tokens with the highest mean gap among those seen often enough."""
    ids, kind, counts = np.unique(tokens.id, return_inverse=True, return_counts=True)
    mean = np.bincount(kind, tokens.gap) / counts
    often = np.flatnonzero(counts >= LEAST_SEEN)
    chosen = often[np.argsort(-mean[often], kind="stable")][:SHOWN]
    return [_row(tokens, kind == k, int(ids[k]), kept.text(int(ids[k]))) for k in chosen]


def _row(tokens: _Tokens, here: np.ndarray, id: int, text: str) -> dict[str, Any]:
    """Return one token's row; its interval is over the sequences that hold it."""
    gap = tokens.gap[here]
    index = np.unique(tokens.sequence[here], return_inverse=True)[1]
    sequences = int(index.max()) + 1
    interval = None
    if sequences >= LEAST_SEEN:
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


def _texts(kept: "TokenMeasurement") -> list[dict[str, Any]]:
    """Return whole texts with each token's gap: of the largest mean gap, a middle and the least."""
    gap = kept.values["sae.kl"].astype(float) - kept.values["eps_random.kl"]
    counts = kept.counted.sum(axis=1)
    used = np.flatnonzero(counts)
    mean = np.where(kept.counted, gap, 0.0).sum(axis=1)[used] / counts[used]
    order = used[np.argsort(-mean, kind="stable")]
    places = np.linspace(0, len(order) - 1, min(TEXTS, len(order))).astype(int)
    return [_text(kept, gap, int(order[place])) for place in places]


def _text(kept: "TokenMeasurement", gap: np.ndarray, sequence: int) -> dict[str, Any]:
    upto = slice(0, TEXT_TOKENS)
    marked = zip(gap[sequence, upto], kept.counted[sequence, upto], strict=True)
    return {
        "sequence": sequence,
        "tokens": [kept.text(int(id)) for id in kept.ids[sequence, upto]],
        "gap": [float(value) if counts else None for value, counts in marked],
    }


def _by_part(tokens: _Tokens, column: np.ndarray) -> dict[str, list[float]]:
    """Return the mean gap in each tenth of the tokens, by a covariate, for plots."""
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
