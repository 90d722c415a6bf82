"""Rules: a metric, its limit, margin or control, and the runs that the rule is for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

# What is left between two runs on the same tokens with the same seed: other batch sizes take
# other matrix kernels, and fp32 sums differ in their last bits (tests/substitution/test_engine.py).
RERUN_NOISE = 1e-6
TIMES = 3  # a margin must be so many times the noise
SIGNS = {"<": "<", "<=": "≤", ">": ">", ">=": "≥"}


class Role(StrEnum):
    """Whether a rule decides, or is reported."""

    PRIMARY = "primary"
    SECONDARY = "secondary"


@dataclass(frozen=True)
class Margin:
    """By how much a metric may be worse than its baseline.

    Attributes:
        sign: ``+`` where a higher value is worse, ``-`` where a lower one is.
        by: the allowed change, in the metric's unit or as a share of the baseline.
        relative: ``by`` is a share.
    """

    sign: str
    by: float
    relative: bool

    @property
    def amount(self) -> str:
        """The allowed change, for people."""
        return f"{100 * self.by:g}%" if self.relative else f"{self.by:g}"


@dataclass(frozen=True)
class Relative:
    """A limit that is a control's value of the same metric, times a factor.

    Attributes:
        control: the control's name.
        factor: of its value.
        sign: ``<``, ``<=``, ``>`` or ``>=``.
    """

    control: str
    factor: float
    sign: str

    @property
    def limit(self) -> str:
        """The limit, for people."""
        times = "" if self.factor == 1 else f"{self.factor:g} × "
        return f"{SIGNS[self.sign]} {times}{self.control}"


@dataclass(frozen=True)
class Scope:
    """The runs that a rule is for: shell patterns, of which an empty one fits everything.

    Attributes:
        model: of the model's name.
        hook: of the SAE's hook.
        profile: of the run's profile.

    Example:
        >>> scope = Scope(model="gpt2*")
        >>> scope.holds_for(Scope("gpt2-small", "blocks.8.hook_resid_pre", "standard"))
        True
    """

    model: str = ""
    hook: str = ""
    profile: str = ""

    def holds_for(self, run: "Scope") -> bool:
        """True where a run's model, hook and profile fit the patterns."""
        pairs = zip(vars(self).values(), vars(run).values(), strict=True)
        return all(not pattern or fnmatchcase(value, pattern) for pattern, value in pairs)

    @property
    def narrowness(self) -> int:
        """The number of patterns that are not empty."""
        return sum(bool(pattern) for pattern in vars(self).values())


@dataclass(frozen=True)
class Rule:
    """A metric and its limits, its margin to a baseline, or its limit set by a control.

    Attributes:
        text: the rule as it was written.
        metric: the metric's name.
        low: lower limit, -inf for none.
        high: upper limit, inf for none.
        why: the reason for the limit, for people.
        case: ``parameter=value`` of the cases that the rule is for; all where empty.
        margin: to the baseline; the limits are then infinite.
        relative: to a control; the limits are then infinite.
        role: whether it decides, or is corrected for multiplicity and reported.
        scope: the runs that it is for.
        given: it comes from the command line: no other rule takes its place.
        strict: a value at a limit is outside: ``<`` and ``>``.
    """

    text: str
    metric: str
    low: float
    high: float
    why: str = ""
    case: str = ""
    margin: Margin | None = None
    relative: Relative | None = None
    role: Role = Role.PRIMARY
    scope: Scope = field(default_factory=Scope)
    given: bool = False
    strict: bool = False

    def holds_for(self, params: Mapping[str, Any]) -> bool:
        """True where the rule is for a case with these parameters."""
        name, _, value = self.case.partition("=")
        return not self.case or (name in params and str(params[name]) == value)

    @property
    def about(self) -> str:
        """The property that the metric belongs to."""
        return self.metric.partition(".")[0]

    @property
    def kind(self) -> tuple[str, ...]:
        """Metric, case and sort: of rules that are equal in these the narrowest is in force."""
        if self.margin is not None:
            return (self.metric, self.case, "margin")
        if self.relative is not None:
            return (self.metric, self.case, self.relative.control)
        return (self.metric, self.case, "limit")

    @property
    def limit(self) -> str:
        """The limit alone, for tables."""
        if self.margin is not None:
            return f"baseline {self.margin.sign}{self.margin.amount}"
        if self.relative is not None:
            return self.relative.limit
        if math.isinf(self.low):
            return f"{'<' if self.strict else '≤'} {self.high:g}"
        if math.isinf(self.high):
            return f"{'>' if self.strict else '≥'} {self.low:g}"
        return f"{self.low:g} … {self.high:g}"


def in_force(rules: tuple[Rule, ...], run: Scope) -> tuple[Rule, ...]:
    """Return the rules that are in force in a run: a narrower one takes a wider one's place.

    Of the rules about one metric and of one sort those are in force whose scope has the most
    patterns of model, hook and profile. Rules of the command line always are.

    Args:
        rules: all of them.
        run: its model, hook and profile.
    """
    fitting = [rule for rule in rules if rule.scope.holds_for(run)]
    narrowest: dict[tuple[str, ...], int] = {}
    for rule in fitting:
        if not rule.given:
            narrowest[rule.kind] = max(narrowest.get(rule.kind, 0), rule.scope.narrowness)
    return tuple(
        rule for rule in fitting if rule.given or rule.scope.narrowness == narrowest[rule.kind]
    )
