"""The language of rules: ``metric<=x``, ``metric>=x``, ``metric in [a,b]``, ``metric:+5%``."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from saebench.errors import ThresholdError

_METRIC = r"(?P<metric>[a-z0-9_]+\.[A-Za-z0-9_.]+(?:\[[^\]\s]+\])?)"
_UNSIGNED = r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_NUMBER = rf"[-+]?{_UNSIGNED}"
_BOUND = re.compile(rf"\s*{_METRIC}\s*(?P<sign><=|>=)\s*(?P<limit>{_NUMBER})\s*")
_RANGE = re.compile(
    rf"\s*{_METRIC}\s+in\s+\[\s*(?P<low>{_NUMBER})\s*,\s*(?P<high>{_NUMBER})\s*\]\s*"
)
_MARGIN = re.compile(
    rf"\s*{_METRIC}\s*:\s*(?P<sign>[-+])\s*(?P<by>{_UNSIGNED})\s*(?P<percent>%?)\s*"
)


@dataclass(frozen=True)
class Margin:
    """By how much a metric may be worse than its baseline.

    Attributes:
        sign: of the change that is for the worse, ``+`` or ``-``.
        by: how much of it is allowed, in the metric's unit or as a share of the baseline.
        relative: it is a share.
    """

    sign: str
    by: float
    relative: bool

    @property
    def shown(self) -> str:
        """The amount, for people."""
        return f"{100 * self.by:g}%" if self.relative else f"{self.by:g}"


@dataclass(frozen=True)
class Rule:
    """A metric and the range that it must lie in, or how far it may fall behind its baseline.

    Attributes:
        text: the rule as it was written.
        metric: the metric's name.
        low: lower limit, -inf for none.
        high: upper limit, inf for none.
        why: where the limit comes from, for people.
        case: ``parameter=value`` of the cases that the rule is for; all where empty.
        margin: against the baseline; the limits are then infinite.
    """

    text: str
    metric: str
    low: float
    high: float
    why: str = ""
    case: str = ""
    margin: Margin | None = None

    def holds_for(self, params: Mapping[str, Any]) -> bool:
        """True where the rule is for a case with these parameters."""
        name, _, value = self.case.partition("=")
        return not self.case or (name in params and str(params[name]) == value)

    @property
    def about(self) -> str:
        """The property that the metric belongs to."""
        return self.metric.partition(".")[0]

    @property
    def limit(self) -> str:
        """The limit alone, for tables."""
        if self.margin is not None:
            return f"baseline {self.margin.sign}{self.margin.shown}"
        if math.isinf(self.low):
            return f"≤ {self.high:g}"
        if math.isinf(self.high):
            return f"≥ {self.low:g}"
        return f"{self.low:g} … {self.high:g}"


def parse_rule(text: str, *, why: str = "") -> Rule:
    """Return the rule that a text means.

    Raises:
        ThresholdError: with a caret under the place that is not understood.

    Example:
        >>> parse_rule("kl_gap.ratio[eps_random]<=2").high
        2.0
    """
    bound = _BOUND.fullmatch(text)
    if bound:
        limit = _finite(bound["limit"], text)
        low, high = (-math.inf, limit) if bound["sign"] == "<=" else (limit, math.inf)
        return Rule(text, bound["metric"], low, high, why)
    margin = _MARGIN.fullmatch(text)
    if margin:
        return Rule(text, margin["metric"], -math.inf, math.inf, why, margin=_margin(margin, text))
    span = _RANGE.fullmatch(text)
    if span is None:
        raise ThresholdError(_pointed_at(text))
    low, high = _finite(span["low"], text), _finite(span["high"], text)
    if low > high:
        raise ThresholdError(f"rule {text!r}: the range is empty, {low:g} is above {high:g}")
    return Rule(text, span["metric"], low, high, why)


def _margin(found: re.Match[str], text: str) -> Margin:
    by = _finite(found["by"], text) / (100 if found["percent"] else 1)
    if not by > 0:
        raise ThresholdError(f"rule {text!r}: a margin of nothing would fail what is equal")
    return Margin(found["sign"], by, bool(found["percent"]))


def _finite(number: str, text: str) -> float:
    """Return a limit; an infinite one would be a gate that nothing can fail."""
    value = float(number)
    if math.isinf(value):
        raise ThresholdError(
            f"rule {text!r}: the limit {number} is infinite, nothing could fail it"
        )
    return value


def _pointed_at(text: str) -> str:
    metric = re.match(rf"\s*{_METRIC}\s*", text)
    at = metric.end() if metric else 0
    expected = "<=, >=, in [a,b] or :, then a number" if metric else "a metric such as fidelity.kl"
    sign = re.compile(r"(<=|>=|in\s+\[|:)\s*").match(text, at)
    if sign and sign[1] == ":":
        at, expected = sign.end(), "+ or -, then a number and perhaps %"
    elif sign:
        at, expected = sign.end(), "a number" + (" pair and ]" if "in" in sign[1] else "")
        number = re.compile(rf"{_NUMBER}\s*").match(text, at)
        if number and "in" not in sign[1]:
            at, expected = number.end(), "the end of the rule"
    return f"rule not understood, expected {expected}:\n  {text}\n  {' ' * at}^"
