"""Helpfulness: features on whose prompts the answer becomes likelier, or less likely, with the SAE.

Source: docs/metrics.md (helpfulness); Anders & Bloom 2024, "Examining language model performance
with reconstructed activations using sparse autoencoders".
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import binom, false_discovery_control

from saebench.errors import NonFiniteValue, NotApplicable
from saebench.experiments.base import ACTIVE, ClozePrompts
from saebench.properties.base import Findings, MetricSpec, Params, Property, estimated
from saebench.records.metric import Direction, Metric, SampleSize
from saebench.statistics.bootstrap import Estimate, estimate
from saebench.statistics.clusters import firsts

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from saebench.experiments.cloze_prompts import ClozeMeasurement

LOWER, HIGHER = Direction.LOWER, Direction.HIGHER
LEAST_PROMPTS = 20
FALSE_DISCOVERIES = 0.05
LISTED = 10
BINS = 40


def _spec(name: str, unit: str, direction: Direction) -> MetricSpec:
    return MetricSpec(f"helpfulness.{name}", unit, direction, None)


TESTED = _spec("tested", "features", HIGHER)
COUNTS = {
    "helpful": _spec("helpful", "features", HIGHER),
    "harmful": _spec("harmful", "features", LOWER),
    "share_helpful": _spec("share_helpful", "share", HIGHER),
    "share_harmful": _spec("share_harmful", "share", LOWER),
}
MEAN_DELTA = _spec("mean_delta", "nats", HIGHER)
MEAN_SCORE = _spec("mean_score", "share", HIGHER)


@dataclass(frozen=True)
class Features:
    """The tested features: those active on at least ``LEAST_PROMPTS`` prompts.

    Attributes:
        index: the features' indices in the SAE.
        prompts: the number of prompts that each is active on.
        mean_delta: mean Δln p over those prompts, in nats.
        score: #(Δ ≥ 0) - #(Δ < 0) over them.
        p: p-value of the two-sided sign test; prompts with Δ = 0 are left out.
        adjusted: p-value after Benjamini and Hochberg's correction.
    """

    index: np.ndarray
    prompts: np.ndarray
    mean_delta: np.ndarray
    score: np.ndarray
    p: np.ndarray
    adjusted: np.ndarray

    @property
    def helpful(self) -> np.ndarray:
        """True for features with which the answer becomes likelier more often than by chance."""
        return (self.adjusted <= FALSE_DISCOVERIES) & (self.score > 0)

    @property
    def harmful(self) -> np.ndarray:
        """True for features with which it becomes less likely more often than by chance."""
        return (self.adjusted <= FALSE_DISCOVERIES) & (self.score < 0)


def features_of(active: "csr_array", delta: np.ndarray) -> Features:
    """Return every tested feature's mean Δln p, score and p-value.

    Args:
        active: which features are active on each prompt, ``[prompts, features]``.
        delta: Δln p of each prompt's answer, in nats.

    Source:
        docs/metrics.md (helpfulness); Anders & Bloom 2024; Benjamini and Hochberg 1995.

    Example:
        >>> from scipy.sparse import csr_array
        >>> features_of(csr_array(np.ones((20, 1))), np.full(20, -0.5)).score.tolist()
        [-20.0]
    """
    prompts = active.sum(axis=0)
    index = np.flatnonzero(prompts >= LEAST_PROMPTS)
    on = active[:, index].T.astype(float)
    up, down = on @ (delta > 0).astype(float), on @ (delta < 0).astype(float)
    n = prompts[index].astype(float)
    p = np.minimum(1, 2 * binom.cdf(np.minimum(up, down), up + down, 0.5))
    adjusted = false_discovery_control(p) if len(p) else p
    return Features(index, n, (on @ delta) / n, n - 2 * down, p, adjusted)


def _interventions(_: Params) -> tuple[str, ...]:
    return ("sae",)


def _findings(measurement: "ClozeMeasurement", _: Params) -> Findings:
    delta = measurement.changed.log_probability - measurement.clean.log_probability
    if not np.isfinite(delta).all():
        raise NonFiniteValue("helpfulness: Δln p of some answers is NaN or infinite")
    assert measurement.active is not None
    distinct = firsts(measurement.table())  # one of the prompts that repeat each other
    active, delta = measurement.active[distinct], delta[distinct]
    features = features_of(active, delta)
    n = SampleSize(len(delta), len(delta))
    if not len(features.index):
        raise NotApplicable(
            f"helpfulness: no feature is active on {LEAST_PROMPTS} of the {len(delta)} prompts; "
            "give more of them: --sae-cloze FILE.jsonl"
        )
    on = active[:, features.index].astype(float)
    signs = np.where(delta >= 0, 1.0, -1.0)
    metrics = (
        *_counts(features, n),
        _mean(MEAN_DELTA, on, delta, n),
        _mean(MEAN_SCORE, on, signs, n),
    )
    return Findings(metrics, _series(features))


def _counts(features: Features, n: SampleSize) -> list[Metric]:
    """Return how many features are helpful and harmful; the test bounds the error, no interval."""
    tested = len(features.index)
    helpful, harmful = int(features.helpful.sum()), int(features.harmful.sum())
    values = {
        "helpful": helpful,
        "harmful": harmful,
        "share_helpful": helpful / tested,
        "share_harmful": harmful / tested,
    }
    metrics = [estimated(TESTED, Estimate(float(tested), None), n=n)]
    metrics += [
        estimated(spec, Estimate(float(values[name]), None), n=n) for name, spec in COUNTS.items()
    ]
    return metrics


def _mean(spec: MetricSpec, on: "csr_array", values: np.ndarray, n: SampleSize) -> Metric:
    """Return the mean over features of each feature's mean over its prompts.

    The interval is a bootstrap over prompts of the linearised mean: a prompt's influence on a
    feature's mean is its deviation from it, divided by the feature's number of prompts.
    """
    prompts = on.sum(axis=0)
    means = (on.T @ values) / prompts
    mean = float(means.mean())
    influence = (on @ (1 / prompts) * values - on @ (means / prompts)) / len(means)
    table = {"influence": influence * len(values), "n": np.ones(len(values))}
    return estimated(spec, estimate(lambda s: mean + s["influence"] / s["n"], table), n=n)


def _series(features: Features) -> dict[str, Any]:
    order = np.argsort(features.mean_delta, kind="stable")
    return {
        "mean_delta_histogram": _histogram(features.mean_delta),
        "score_histogram": _histogram(features.score),
        "most_helpful": [_row(features, k) for k in order[::-1][:LISTED]],
        "most_harmful": [_row(features, k) for k in order[:LISTED]],
    }


def _histogram(values: np.ndarray) -> dict[str, list[float]]:
    counts, edges = np.histogram(values, bins=BINS)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def _row(features: Features, k: int) -> dict[str, float]:
    return {
        "feature": int(features.index[k]),
        "prompts": int(features.prompts[k]),
        "mean_delta": float(features.mean_delta[k]),
        "score": int(features.score[k]),
        "p": float(features.p[k]),
        "p_adjusted": float(features.adjusted[k]),
    }


PROPERTY = Property(
    "helpfulness",
    "features on whose prompts the answer becomes likelier, or less likely, with the SAE",
    (TESTED, *COUNTS.values(), MEAN_DELTA, MEAN_SCORE),
    _interventions,
    _findings,
    ClozePrompts(),
    keeps=(ACTIVE,),
)
