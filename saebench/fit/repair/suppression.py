"""Feature suppression: the L1 penalty that an SAE was trained with, and what a repair changed.

Source:
    Wright & Sharkey 2024, "Addressing feature suppression in SAEs".
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from saebench.fit.training.training_sae import dense
from saebench.records.metric import Interval
from saebench.records.repair import Correlation, FeatureAnalysis, Ranged
from saebench.statistics.levels import LEVEL

NEAR = 1.25  # a penalty within this factor of the one that the SAE rests at explains it
LEAST_TOKENS = 100  # a feature that fires on fewer has no mean activation worth the name
FLAT = 1e-12  # a column that spreads by less does not vary
FEWEST_FEATURES = 8  # below, a correlation over features says nothing
STRENGTH, FREQUENCY = "log strength", "log frequency"


@dataclass(frozen=True)
class Penalty:
    """An L1 penalty in SAELens' units: its loss is ‖y - x‖² + c·Σ f‖d_f‖.

    Attributes:
        coefficient: c; None where another penalty or none was used, or none is known.
        note: for the user, where the coefficient is not simply the metadata's.
    """

    coefficient: float | None
    note: str | None = None


def penalty_of(sae: Any, x: Float[Tensor, "tokens d"]) -> Penalty:
    """Return the L1 penalty that the SAE was trained with.

    The metadata's coefficient is that of the activations in training. Where training scaled them
    to the norm √d, SAELens folds the factor s = √d/E‖x‖ into the saved weights and does not record
    it: on plain activations the same penalty is c/s. Which of the two holds shows in the SAE
    itself, which a converged training leaves where its penalty balances its error.

    Args:
        sae: a SAELens SAE.
        x: activations at its hook.
    """
    stated = _stated_coefficient(sae)
    if stated is None:
        return Penalty(None)
    balanced = balance(sae, x)
    folded = stated * float(x.norm(dim=-1).mean()) / math.sqrt(x.shape[1])
    if not balanced > 0:
        return Penalty(stated, "the SAE does not rest at any L1 penalty on these activations")
    nearest = min((stated, folded), key=lambda c: abs(math.log(c / balanced)))
    if abs(math.log(nearest / balanced)) > math.log(NEAR):
        return Penalty(
            stated,
            f"the SAE rests at an L1 penalty of {balanced:.3g} on these activations, its metadata "
            f"says {stated:g}: other texts, other activations, or training that had not converged",
        )
    if nearest == stated:
        return Penalty(stated)
    return Penalty(
        folded,
        f"the metadata's L1 coefficient {stated:g} is that of activations of norm √d, a factor "
        f"folded into the weights: on these it is {folded:.3g} (the SAE rests at {balanced:.3g})",
    )


@torch.no_grad()
def balance(sae: Any, x: Float[Tensor, "tokens d"]) -> float:
    """Return the L1 coefficient at which scaling all features together does not lower the loss.

    The derivative of ‖x - b - α·Σ f d‖² + c·α·Σ f‖d‖ in α is zero at α = 1 for
    c = 2·Σ (x - x̂)·(x̂ - b) / Σ f‖d‖: for a converged SAE, c is its penalty.

    Args:
        sae: a SAELens SAE.
        x: activations at its hook.

    Example:
        >>> from sae_lens import StandardSAE, StandardSAEConfig
        >>> sae = StandardSAE(StandardSAEConfig(d_in=1, d_sae=1, apply_b_dec_to_input=False))
        >>> with torch.no_grad():
        ...     _ = [p.fill_(v) for p, v in ((sae.W_enc, 0.75), (sae.W_dec, 1.0))]
        >>> round(balance(sae, torch.full((4, 1), 2.0)), 6)  # 2 becomes 1.5: c/2 is taken off
        1.0
    """
    features = dense(sae.encode(x))
    reconstruction = sae.decode(features)
    slope = 2 * ((x - reconstruction) * (reconstruction - sae.b_dec)).double().sum()
    size = (features * sae.W_dec.norm(dim=1)).double().sum()
    return float(slope / size)


def _stated_coefficient(sae: Any) -> float | None:
    details = sae.cfg.metadata.training_architecture_details or {}
    plain = sae.cfg.architecture() == "standard" and details.get("lp_norm", 1.0) == 1.0
    value = details.get("l1_coefficient") if plain else None
    return float(value) if isinstance(value, int | float) and value > 0 else None


@dataclass(frozen=True)
class Activity:
    """How often each feature is on, and the sum of its activations.

    Attributes:
        tokens: how many tokens were run.
        on: at how many of them each feature is not zero.
        total: the sum of each feature's activations.
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
            features = dense(sae.encode(rows))
            on += features.ne(0).sum(dim=0).cpu()
            total += features.double().sum(dim=0).cpu()
            tokens += len(rows)
    return Activity(tokens, on.numpy(), total.numpy())


def analyse(
    before: Any, after: Any, active: Activity, *, l1_coefficient: float | None
) -> FeatureAnalysis | None:
    """Compare each feature's decoder row before and after a repair; None for too few features.

    Args:
        before: the SAE.
        after: the repaired SAE.
        active: the activity of the SAE before.
        l1_coefficient: of the SAE's training; None where that is not known.

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

    The loss of Wright & Sharkey is ‖y - x‖²/d + c·|f|. SAELens' is d times that,
    ‖y - x‖² + c'·|f|·‖d_f‖ with c' = c·d, so that the same is c'/2 in units of |f|·‖d_f‖.

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
    """Return the correlation of y with each of two columns, plain and partial.

    Args:
        logs: two columns by name, one value a feature; the partial correlation with one of them
            holds the other fixed.
        name: what y is called.
        y: one value a feature.
    """
    (one, two) = logs
    rows = []
    for x, other in ((one, two), (two, one)):
        rows.append(Correlation(x, name, None, _pearson(logs[x], y)))
        residuals = [_residuals(column, logs[other]) for column in (logs[x], y)]
        rows.append(Correlation(x, name, other, _pearson(*residuals, fixed=1)))
    return tuple(rows)


def _pearson(x: np.ndarray, y: np.ndarray, *, fixed: int = 0) -> Ranged:
    """Return Pearson's r with Fisher's interval; each column held fixed costs an observation."""
    if np.ptp(x) < FLAT or np.ptp(y) < FLAT:
        return Ranged(None)
    r = float(np.corrcoef(x, y)[0, 1])
    if abs(r) >= 1 or len(x) - fixed <= 3:
        return Ranged(r)
    half = stats.norm.ppf(0.5 + LEVEL / 2) / np.sqrt(len(x) - fixed - 3)
    low, high = np.tanh(np.arctanh(r) + np.array([-half, half]))
    return Ranged(r, Interval(float(low), float(high), LEVEL, "Fisher's z"))


def _residuals(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the residuals of a linear fit of y in x; of its mean where x does not vary."""
    if np.ptp(x) < FLAT:
        return y - y.mean()
    slope, intercept = stats.linregress(x, y)[:2]
    return y - (slope * x + intercept)


def _effective_decoder(sae: Any) -> np.ndarray:
    """Return what each feature adds to the output at size one.

    The features of a TopK SAE that ranks by decoder norm contain the norm already.
    """
    weight = sae.W_dec.detach().double().cpu().numpy()
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        return weight / np.linalg.norm(weight, axis=1, keepdims=True)
    return weight
