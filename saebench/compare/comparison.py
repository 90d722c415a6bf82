"""Two SAEs compared: what got worse, with paired intervals where both have the sequences' sums."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from saebench.compare.differences import Difference, Outcome, SideCase, difference
from saebench.properties.base import MetricSpec
from saebench.records.document_order import GENERATED, IN_FILE, seed_of
from saebench.statistics.levels import LEVEL

HEADLINES = (
    "fidelity.kl",
    "fidelity.ce_increase",
    "fidelity.explained_variance",
    "kl_gap.ratio[eps_random]",
    "shrinkage.l2_ratio",
    "sparsity.l0",
    "context_length.degradation",
    "cloze.accuracy_drop[whole]",
)
"""The metrics that are compared by default: one or two of each property."""

NOTHING = SideCase(None, {})


@dataclass(frozen=True)
class Side:
    """One of the two SAEs, by case such as ``kl_gap[scope=all]``."""

    label: str
    cases: Mapping[str, SideCase]


@dataclass(frozen=True)
class Comparison:
    """The differences of two SAEs, the worst first, and what could not be compared, and why.

    Attributes:
        first: the reference SAE.
        second: the other.
        level: at which all intervals hold jointly; each one's own is higher.
        differences: one for each metric.
        incomparable: names of cases or metrics, and the reason.
    """

    first: str
    second: str
    level: float
    differences: tuple[Difference, ...]
    incomparable: tuple[tuple[str, str], ...]

    @property
    def is_worse(self) -> bool:
        """True where the second is shown to be worse in something."""
        return any(each.outcome is Outcome.WORSE for each in self.differences)


def compare(
    first: Side, second: Side, *, specs: Mapping[str, MetricSpec], metrics: Iterable[str] = ()
) -> Comparison:
    """Return how the second SAE differs from the first.

    The intervals hold jointly with 95%: each is wider the more metrics are compared
    (Bonferroni), so that comparing many does not show a worse one by chance.

    Args:
        first: the reference SAE.
        second: the other.
        specs: the definition of every metric, by name.
        metrics: the metrics to compare; the headlines by default.
    """
    chosen = tuple(metrics) or HEADLINES
    pairs, incomparable = _pairs(first, second, chosen)
    level = 1 - (1 - LEVEL) / max(1, len(pairs))
    differences = []
    for case, name in pairs:
        both = (first.cases[case], second.cases[case])
        result = difference(specs[name], both, case=case, level=level)
        if isinstance(result, str):
            incomparable.append((name, result))
        else:
            differences.append(result)
    differences.sort(key=_severity, reverse=True)
    return Comparison(first.label, second.label, LEVEL, tuple(differences), tuple(incomparable))


def _pairs(
    first: Side, second: Side, chosen: Sequence[str]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the cases and metrics to compare, and those that only one has or on other tokens."""
    pairs, incomparable = [], []
    for case in dict.fromkeys((*first.cases, *second.cases)):
        sides = [side.cases.get(case, NOTHING) for side in (first, second)]
        asked = [n for n in chosen if any(n in side.metrics for side in sides)]
        names = [n for n in asked if all(n in side.metrics for side in sides)]
        why = why_incomparable(sides[0], sides[1]) if names else None
        if why is None:
            pairs += [(case, name) for name in names]
        else:
            incomparable.append((case, why))
        for name in (n for n in asked if n not in names):
            has = first if name in sides[0].metrics else second
            incomparable.append((name, f"measured for {has.label} alone"))
    return pairs, incomparable


def why_incomparable(first: SideCase, second: SideCase) -> str | None:
    """Return the reason why metrics of two cases do not compare; None where they do.

    Args:
        first: the reference.
        second: the other.
    """
    one, two = first.basis, second.basis
    if one is None or two is None:
        return "an older file does not say which tokens it was measured on; measure it again"
    if one.dataset != two.dataset:
        orders = _about_orders(first.order, second.order)
        return f"measured on other tokens: {one.dataset[:8]} and {two.dataset[:8]}{orders}"
    if (one.model, one.dtype) != (two.model, two.dtype):
        return f"in other models: {one.model[:8]} as {one.dtype} and {two.model[:8]} as {two.dtype}"
    if one.seed != two.seed:
        return f"with other noise: seeds {one.seed} and {two.seed}"
    return None


def _about_orders(first: str | None, second: str | None) -> str:
    """Return how the documents' orders differ, and which option gives the first's."""
    # Files that do not say are older than the choice: their documents were in the file's order.
    first, second = first or IN_FILE, second or IN_FILE
    if first == second or GENERATED in (first, second):
        return ""
    seed = seed_of(first)
    options = "--sae-order file" if seed is None else f"--sae-order seeded --sae-seed {seed}"
    return (
        f"; documents {first}, and documents {second}: on the same texts, {options} takes them "
        "as the first did"
    )


def _severity(each: Difference) -> tuple[int, float]:
    """Return what sorts differences: by outcome, then by the share of the first's value."""
    order = (Outcome.BETTER, Outcome.UNKNOWN, Outcome.UNCLEAR, Outcome.WORSE)
    scale = abs(each.first)
    share = each.worse_by / scale if scale else math.copysign(math.inf, each.worse_by)
    return order.index(each.outcome), share
