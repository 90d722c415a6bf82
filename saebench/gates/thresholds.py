"""The grammar of rules, and the threshold files that hold them.

A rule is ``metric<=x``, ``metric<x``, ``metric in [a,b]``, ``metric:+5%`` or
``metric<control.NAME*k``; ``<`` and ``>`` fail what is equal. The error about a malformed one has a
caret under the place that is wrong.
"""

import math
import re
import tomllib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from saebench.errors import ThresholdError, nearest
from saebench.gates.rules import RERUN_NOISE, TIMES, Margin, Relative, Role, Rule, Scope
from saebench.records.metric import Direction

_METRIC = r"(?P<metric>[a-z0-9_]+\.[A-Za-z0-9_.]+(?:\[[^\]\s]+\])?)"
_UNSIGNED = r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_NUMBER = rf"[-+]?{_UNSIGNED}"
_BOUND = re.compile(rf"\s*{_METRIC}\s*(?P<sign><=?|>=?)\s*(?P<limit>{_NUMBER})\s*")
_RANGE = re.compile(
    rf"\s*{_METRIC}\s+in\s+\[\s*(?P<low>{_NUMBER})\s*,\s*(?P<high>{_NUMBER})\s*\]\s*"
)
_MARGIN = re.compile(
    rf"\s*{_METRIC}\s*:\s*(?P<sign>[-+])\s*(?P<by>{_UNSIGNED})\s*(?P<percent>%?)\s*"
)
_CONTROL = re.compile(
    rf"\s*{_METRIC}\s*(?P<sign><=?|>=?)\s*control\.(?P<control>[a-z0-9_]+)"
    rf"\s*(?:\*\s*(?P<factor>{_UNSIGNED}))?\s*"
)


def parse_rule(text: str, *, why: str = "") -> Rule:
    """Return the rule of a text.

    Raises:
        ThresholdError: with a caret under the place that is not understood.

    Example:
        >>> parse_rule("kl_gap.ratio[eps_random]<=2").high
        2.0
        >>> parse_rule("fidelity.kl<control.random_init*0.5").limit
        '< 0.5 × random_init'
    """
    for pattern, rule_of in _KINDS:
        match = pattern.fullmatch(text)
        if match:
            return rule_of(match, text, why)
    at, expected = _expected(text)
    raise ThresholdError(pointed(text, at, f"rule not understood, expected {expected}"))


def pointed(text: str, at: int, message: str) -> str:
    """Return a message about a rule with a caret under a place in it."""
    return f"{message}{'' if message.endswith('?') else ':'}\n  {text}\n  {' ' * at}^"


def _bound(match: re.Match[str], text: str, why: str) -> Rule:
    limit = _finite(match, "limit")
    low, high = (-math.inf, limit) if match["sign"][0] == "<" else (limit, math.inf)
    return Rule(text, match["metric"], low, high, why, strict=_is_strict(match))


def _range(match: re.Match[str], text: str, why: str) -> Rule:
    low, high = _finite(match, "low"), _finite(match, "high")
    if low > high:
        message = f"rule {text!r}: the range is empty, {low:g} is above {high:g}"
        raise ThresholdError(pointed(text, match.start("low"), message))
    return Rule(text, match["metric"], low, high, why)


def _margin(match: re.Match[str], text: str, why: str) -> Rule:
    by = _finite(match, "by") / (100 if match["percent"] else 1)
    if not by > 0:
        message = f"rule {text!r}: a margin of nothing would fail what is equal"
        raise ThresholdError(pointed(text, match.start("by"), message))
    margin = Margin(match["sign"], by, bool(match["percent"]))
    return Rule(text, match["metric"], -math.inf, math.inf, why, margin=margin)


def _relative(match: re.Match[str], text: str, why: str) -> Rule:
    factor = _finite(match, "factor") if match["factor"] else 1.0
    if not factor > 0:
        message = f"rule {text!r}: the factor must be above 0"
        raise ThresholdError(pointed(text, match.start("factor"), message))
    relative = Relative(match["control"], factor, match["sign"])
    strict = _is_strict(match)
    return Rule(text, match["metric"], -math.inf, math.inf, why, relative=relative, strict=strict)


def _is_strict(match: re.Match[str]) -> bool:
    return match["sign"] in ("<", ">")


_KINDS = ((_BOUND, _bound), (_MARGIN, _margin), (_RANGE, _range), (_CONTROL, _relative))


def _finite(match: re.Match[str], part: str) -> float:
    """Return a limit; an infinite one would be a gate that nothing can fail."""
    value = float(match[part])
    if math.isinf(value):
        reason = f"the limit {match[part]} is infinite, nothing could fail it"
        message = f"rule {match.string!r}: {reason}"
        raise ThresholdError(pointed(match.string, match.start(part), message))
    return value


def _expected(text: str) -> tuple[int, str]:
    """Return the place up to which a malformed rule can be read, and what is expected there."""
    metric = re.match(rf"\s*{_METRIC}\s*", text)
    if metric is None:
        return 0, "a metric such as fidelity.kl"
    at = metric.end()
    sign = re.compile(r"(<=?|>=?|in\s+\[|:)\s*").match(text, at)
    if sign is None:
        return at, "<=, <, >=, >, in [a,b] or :, then a number, or <control.NAME*0.5"
    at = sign.end()
    if sign[1] == ":":
        return at, "+ or -, then a number and perhaps %"
    if "in" in sign[1]:
        return at, "a number pair and ]"
    if text.startswith("control", at):
        return _expected_of_control(text, at)
    number = re.compile(rf"{_NUMBER}\s*").match(text, at)
    if number:
        return number.end(), "the end of the rule"
    return at, "a number or control.NAME"


def _expected_of_control(text: str, at: int) -> tuple[int, str]:
    control = re.compile(r"control\.([a-z0-9_]+)\s*").match(text, at)
    if control is None:
        return at, "control.NAME, such as control.random_init*0.5"
    times = re.compile(r"\*\s*").match(text, control.end())
    if times is None:
        return control.end(), "* and a number, or the end of the rule"
    factor = re.compile(rf"{_UNSIGNED}\s*").match(text, times.end())
    return (factor.end(), "the end of the rule") if factor else (times.end(), "a number")


SCHEMA_VERSION = 1
_SCOPE = ("model", "hook", "profile")
_TEXTS = ("why", "case", "role", *_SCOPE)
_KEYS = {"rule", *_TEXTS}


def read_thresholds(path: Path, *, metrics: Iterable[str]) -> tuple[Rule, ...]:
    """Return the rules of a threshold file.

    The file has ``schema_version = 1`` and, under each property's name, ``gates``: a list of
    tables with ``rule`` and ``why``, the reason that people read where the gate does not pass.
    ``case = "parameter=value"`` limits a rule to some of the property's cases; ``model``, ``hook``
    and ``profile`` are shell patterns of the runs that it is for, and a narrower rule takes a
    wider one's place (:func:`saebench.gates.rules.in_force`). ``role`` is ``primary``, which
    decides, or ``secondary``, which is corrected for multiplicity and reported; a rule without a
    role decides.

    Args:
        path: the file.
        metrics: the names of all metrics; a rule about another one is an error.

    Raises:
        ThresholdError: naming the file, the property and the rule.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ThresholdError(f"--sae-thresholds {path}: {error.strerror}") from error
    except ValueError as error:
        raise ThresholdError(f"--sae-thresholds {path}: not valid TOML: {error}") from error
    version = content.pop("schema_version", None)
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise ThresholdError(
            f"{path}: schema_version is {version}, this saebench reads {SCHEMA_VERSION}"
        )
    known = frozenset(metrics)
    rules: list[Rule] = []
    for name, section in content.items():
        for entry in _entries(section, where=f"{path}, [{name}]"):
            rule = _parsed(entry, where=f"{path}, [{name}]")
            if rule.about != name:
                raise ThresholdError(f"{path}, [{name}]: {rule.text!r} is not about {name}")
            check_metric(rule, known, where=str(path))
            rules.append(rule)
    return tuple(rules)


def check_metric(rule: Rule, known: frozenset[str], *, where: str) -> None:
    """Refuse a rule about a metric that no property reports.

    Raises:
        ThresholdError: with a caret under the name, and the nearest known metric.
    """
    if rule.metric not in known:
        # Within a known property only its own metrics are suggested.
        own = [name for name in known if name.startswith(f"{rule.about}.")]
        message = f"{where}: unknown metric {rule.metric!r}{nearest(rule.metric, own or known)}"
        raise ThresholdError(pointed(rule.text, rule.text.index(rule.metric), message))


def check_margin(rule: Rule, direction: Direction, *, where: str) -> None:
    """Refuse a margin towards the better side, or one within what running again changes.

    Raises:
        ThresholdError: naming the rule.
    """
    margin = rule.margin
    if margin is None:
        return
    sign = {Direction.LOWER: "+", Direction.HIGHER: "-"}.get(direction)
    if sign is not None and margin.sign != sign:
        better = "lower" if sign == "+" else "higher"
        raise ThresholdError(
            f"{where}: {rule.text!r}: {better} is better for {rule.metric}, so that worse is "
            f"{sign}: write {rule.metric}:{sign}{margin.amount}"
        )
    least = TIMES * RERUN_NOISE
    if margin.relative and margin.by < least:
        raise ThresholdError(
            f"{where}: {rule.text!r}: a margin below {least:.1g} of the value is within what "
            f"running again changes ({RERUN_NOISE:g}); allow more"
        )


def _parsed(entry: dict[str, str], *, where: str) -> Rule:
    try:
        rule = parse_rule(entry["rule"], why=entry.get("why", ""))
    except ThresholdError as error:
        raise ThresholdError(f"{where}: {error}") from error
    role = entry.get("role", Role.PRIMARY.value)
    roles = [each.value for each in Role]
    if role not in roles:
        raise ThresholdError(f"{where}: unknown role {role!r}{nearest(role, roles)}")
    scope = Scope(**{name: entry.get(name, "") for name in _SCOPE})
    return replace(rule, case=entry.get("case", ""), role=Role(role), scope=scope)


def _entries(section: Any, *, where: str) -> list[dict[str, str]]:
    entries = section.get("gates") if isinstance(section, dict) else None
    if not isinstance(entries, list):
        raise ThresholdError(f'{where}: expected gates = [ {{ rule = "…" }}, … ]')
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("rule"), str):
            raise ThresholdError(f"{where}: each gate needs a rule, found {entry!r}")
        unknown = set(entry) - _KEYS
        for key in _TEXTS:
            if not isinstance(entry.get(key, ""), str):
                raise ThresholdError(f"{where}: {key} must be a text, found {entry[key]!r}")
        if unknown:
            raise ThresholdError(f"{where}: unknown key {sorted(unknown)[0]!r} in {entry!r}")
    return entries
