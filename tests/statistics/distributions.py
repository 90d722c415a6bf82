"""Per-sequence sums like those of KL, with formulas whose truth is known."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from saebench.statistics.bootstrap import Wanted

SPREADS = (0.5, 1.0)
"""Log-spreads: 0.3 to 1.0 is what per-sequence KL has at the SAEs of baselines/."""


@dataclass(frozen=True)
class Case:
    """A formula of the sums that :func:`sums` draws, and its true value."""

    wanted: Wanted
    truth: Callable[[float], float]


def sums(spread: float, n: int, *, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
    """Draw n sequences: how hard each is, is lognormal and common to all channels."""
    tokens = rng.integers(64, 128, n).astype(float)
    hardness = np.exp(rng.normal(0, spread, n)) * tokens

    def of_sae(scale: float) -> np.ndarray:
        return scale * hardness * np.exp(rng.normal(0, 0.3, n) - 0.045)

    return {"sae": of_sae(2), "other": of_sae(2), "noise": of_sae(1), "n": tokens}


CASES = {
    "mean": Case(Wanted(lambda s: s["sae"] / s["n"], ("sae", "n")), lambda s: 2 * np.exp(s**2 / 2)),
    "ratio": Case(Wanted(lambda s: s["sae"] / s["noise"], ("sae", "noise")), lambda _: 2.0),
    "difference of ratios": Case(
        Wanted(lambda s: (s["other"] - s["sae"]) / s["noise"], ("other", "sae", "noise")),
        lambda _: 0.0,
    ),
    "paired difference": Case(
        Wanted(lambda s: (s["other"] - s["sae"]) / s["n"], ("other", "sae", "n")), lambda _: 0.0
    ),
}
