"""Which features a repair scaled: by strength, by frequency, against theory (seed 003)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from saebench.records.repair import Correlation, FeatureAnalysis, Ranged
from saebench.records.run import Interval
from saebench.statistics.levels import LEVEL

LEAST_TOKENS = 100  # a feature that fires on fewer has no strength worth the name
FLAT = 1e-12  # a column that spreads by less does not vary
FEWEST_FEATURES = 8  # below, a correlation over features says nothing
STRENGTH, FREQUENCY = "log strength", "log frequency"


@dataclass(frozen=True)
class Activity:
    """How often each feature is on, and how strong it then is.

    Attributes:
        tokens: how many were looked at.
        on: at how many of them each feature is not zero.
        total: the sum of each feature.
    """

    tokens: int
    on: np.ndarray
    total: np.ndarray


@torch.no_grad()
def activity(sae: Any, batches: Iterable[Float[Tensor, "tokens d"]]) -> Activity:
    """Return the activity of an SAE's features.

    Args:
        sae: a SAELens SAE.
        batches: activations.
    """
    on = torch.zeros(sae.cfg.d_sae, dtype=torch.float64)
    total, tokens = torch.zeros_like(on), 0
    for batch in batches:
        for rows in batch.split(4096):
            features = sae.encode(rows)
            features = features.to_dense() if features.is_sparse else features
            on += features.ne(0).sum(dim=0).cpu()
            total += features.double().sum(dim=0).cpu()
            tokens += len(rows)
    return Activity(tokens, on.numpy(), total.numpy())


def analyse(
    before: Any, after: Any, active: Activity, *, l1_coefficient: float | None
) -> FeatureAnalysis | None:
    """Return the seed's analysis; None where too few features fire often enough.

    Args:
        before: the SAE.
        after: the repaired SAE.
        active: of the SAE before.
        l1_coefficient: what the SAE was trained with; None where that is not known.

    Source:
        Wright & Sharkey 2024, figures 7, 8 and A4.
    """
    often = active.on >= LEAST_TOKENS
    if int(often.sum()) < FEWEST_FEATURES:
        return None
    rows = [_effective_decoder(sae)[often] for sae in (before, after)]
    norms = [np.linalg.norm(each, axis=1) for each in rows]
    strength = active.total[often] / active.on[often] * norms[0]
    scaling = norms[1] / norms[0]
    cosine = np.clip((rows[0] * rows[1]).sum(axis=1) / (norms[0] * norms[1]), -1, 1)
    additive = (scaling - 1) * strength
    logs = {STRENGTH: np.log(strength), FREQUENCY: np.log(active.on[often] / active.tokens)}
    return FeatureAnalysis(
        tokens=active.tokens,
        features=int(often.sum()),
        left_out=int((~often).sum()),
        least_tokens=LEAST_TOKENS,
        correlations=(
            *correlations(logs, "scaling", scaling),
            *correlations(logs, "additive change", additive),
        ),
        scaling_mean=float(scaling.mean()),
        additive_mean=float(additive.mean()),
        additive_median=float(np.median(additive)),
        additive_theory=None if l1_coefficient is None else taken_off(l1_coefficient),
        cosine_mean=float(cosine.mean()),
        cosine_lowest=float(cosine.min()),
        log_strength=tuple(logs[STRENGTH].tolist()),
        log_frequency=tuple(logs[FREQUENCY].tolist()),
        scaling=tuple(scaling.tolist()),
        additive=tuple(additive.tolist()),
        cosine=tuple(cosine.tolist()),
    )


def taken_off(l1_coefficient: float) -> float:
    """Return by how much the penalty lowers a feature that is alone: a = g - c·d/2.

    The seed's loss is ‖y - x‖²/d + c·|f|. SAELens' is d times that, ‖y - x‖² + c'·|f|·‖d_f‖ with
    c' = c·d, so that the same is c'/2 in units of |f|·‖d_f‖.

    Args:
        l1_coefficient: SAELens' c'.

    Source:
        Wright & Sharkey 2024, "An illustrative example of feature suppression".

    Example:
        >>> taken_off(1.5)
        0.75
    """
    return l1_coefficient / 2


def correlations(
    logs: Mapping[str, np.ndarray], name: str, y: np.ndarray
) -> tuple[Correlation, ...]:
    """Return the correlation of y with each of two columns, and each with the other held fixed.

    Args:
        logs: two columns by name, one value a feature.
        name: what y is called.
        y: one value a feature.
    """
    (one, two) = logs
    found = []
    for x, other in ((one, two), (two, one)):
        found.append(Correlation(x, name, None, _pearson(logs[x], y)))
        rest = [_without(column, logs[other]) for column in (logs[x], y)]
        found.append(Correlation(x, name, other, _pearson(*rest, held=1)))
    return tuple(found)


def _pearson(x: np.ndarray, y: np.ndarray, *, held: int = 0) -> Ranged:
    """Return Pearson's r with Fisher's interval; each column held fixed costs an observation."""
    if np.ptp(x) < FLAT or np.ptp(y) < FLAT:
        return Ranged(None)
    r = float(np.corrcoef(x, y)[0, 1])
    if abs(r) >= 1 or len(x) - held <= 3:
        return Ranged(r)
    half = stats.norm.ppf(0.5 + LEVEL / 2) / np.sqrt(len(x) - held - 3)
    low, high = np.tanh(np.arctanh(r) + np.array([-half, half]))
    return Ranged(r, Interval(float(low), float(high), LEVEL, "Fisher's z"))


def _without(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return what a straight line in x leaves of y; all but its mean where x does not vary."""
    if np.ptp(x) < FLAT:
        return y - y.mean()
    slope, intercept = stats.linregress(x, y)[:2]
    return y - (slope * x + intercept)


def _effective_decoder(sae: Any) -> np.ndarray:
    """Return what a feature of size one of the *unfolded* SAE adds to the output.

    A TopK SAE that ranks by decoder norm gives features that contain the norm already.
    """
    weight = sae.W_dec.detach().double().cpu().numpy()
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        return weight / np.linalg.norm(weight, axis=1, keepdims=True)
    return weight
