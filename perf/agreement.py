"""Do the peers get our numbers? Where not, what differs and why."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from scipy import stats

from perf.figures import Figures

KL_TOLERANCE = 1e-4
CE_TOLERANCE = 1e-5
# Two-sided, of the paired t statistic over sequences: a false alarm once in 10,000.
SMALLEST_P = 1e-4
DIFFERENT_BY_DESIGN = {
    "zero_everywhere": "ablates position 0 too, ours one mask for all substitutions",
}


class Agreement(Enum):
    """How a peer's number compares with ours."""

    EQUAL = "equal"
    LIKE_NOISE = "equal up to noise"
    BY_DESIGN = "differs by design"
    DIFFERS = "DIFFERS"


@dataclass(frozen=True)
class Compared:
    """One quantity, ours and a peer's.

    Attributes:
        ours: None where we have no such quantity.
        note: why it may differ, or how it was compared.
    """

    peer: str
    quantity: str
    ours: float | None
    theirs: float
    verdict: Agreement
    note: str = ""


def compare_figures(
    ours: Figures,
    theirs: Figures,
    *,
    peer: str,
    noisy: frozenset[str] = frozenset(),
    aligned: Figures | None = None,
) -> tuple[Compared, ...]:
    """Compare every quantity that a peer gives with ours.

    Args:
        ours: our figures.
        theirs: the peer's.
        peer: its name.
        noisy: interventions whose noise the two draw differently.
        aligned: a plain pass with the peer's masks, for what the peer defines otherwise.
    """
    return tuple(
        _compared(quantity, ours, theirs, peer, noisy, aligned) for quantity in theirs.pooled
    )


def _compared(
    quantity: str,
    ours: Figures,
    theirs: Figures,
    peer: str,
    noisy: frozenset[str],
    aligned: Figures | None,
) -> Compared:
    value = theirs.pooled[quantity]
    kind, _, intervention = quantity.rpartition("/")[2].partition(".")
    tolerance = KL_TOLERANCE if kind == "kl" else CE_TOLERANCE
    why = DIFFERENT_BY_DESIGN.get(intervention, "")
    if aligned is not None and quantity in aligned.pooled:
        base, note = aligned.pooled[quantity], f"{why}; held against a plain pass that does so too"
        return Compared(peer, quantity, base, value, _verdict(base, value, tolerance), note)
    if quantity not in ours.pooled:
        verdict = Agreement.BY_DESIGN if why else Agreement.DIFFERS
        return Compared(peer, quantity, None, value, verdict, why or "we have no such figure")
    base = ours.pooled[quantity]
    if intervention in noisy:
        verdict = _like_noise(ours.by_sequence, theirs.by_sequence, quantity)
        return Compared(peer, quantity, base, value, verdict, "other draws of the same noise")
    return Compared(peer, quantity, base, value, _verdict(base, value, tolerance))


def _verdict(ours: float, theirs: float, tolerance: float) -> Agreement:
    equal = math.isclose(ours, theirs, rel_tol=tolerance, abs_tol=0.0)
    return Agreement.EQUAL if equal else Agreement.DIFFERS


def _like_noise(
    ours: Mapping[str, tuple[float, ...]], theirs: Mapping[str, tuple[float, ...]], quantity: str
) -> Agreement:
    """Test the paired differences over sequences; NaN is no agreement."""
    p = float(stats.ttest_rel(ours[quantity], theirs[quantity]).pvalue)
    return Agreement.LIKE_NOISE if p > SMALLEST_P else Agreement.DIFFERS
