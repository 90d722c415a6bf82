"""The language of rules: ``metric<=x``, ``metric in [a,b]``, ``metric:+5%``, ``…<control.NAME*k``.

A rule that is not understood is shown with a caret under the place where it went wrong.
"""

import math
import re
import tomllib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from saebench.errors import ThresholdError, nearest
from saebench.gates.rules import Margin, Relative, Role, Rule, Scope

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
_CONTROL = re.compile(
    rf"\s*{_METRIC}\s*(?P<sign><=?|>=?)\s*control\.(?P<control>[a-z0-9_]+)"
    rf"\s*(?:\*\s*(?P<factor>{_UNSIGNED}))?\s*"
)


def parse_rule(text: str, *, why: str = "") -> Rule:
    """Return the rule that a text means.

    Raises:
        ThresholdError: with a caret under the place that is not understood.

    Example:
        >>> parse_rule("kl_gap.ratio[eps_random]<=2").high
        2.0
        >>> parse_rule("fidelity.kl<control.random_init*0.5").limit
        '≤ 0.5 × random_init'
    """
    for pattern, made in ((_BOUND, _bound), (_MARGIN, _margin), (_RANGE, _range)):
        found = pattern.fullmatch(text)
        if found:
            return made(found, text, why)
    found = _CONTROL.fullmatch(text)
    if found:
        return _relative(found, text, why)
    raise ThresholdError(_pointed_at(text))


def pointed(text: str, at: int, told: str) -> str:
    """Return a message about a rule with a caret under a place in it."""
    return f"{told}{'' if told.endswith('?') else ':'}\n  {text}\n  {' ' * at}^"


def _bound(found: re.Match[str], text: str, why: str) -> Rule:
    limit = _finite(found, "limit")
    low, high = (-math.inf, limit) if found["sign"] == "<=" else (limit, math.inf)
    return Rule(text, found["metric"], low, high, why)


def _range(found: re.Match[str], text: str, why: str) -> Rule:
    low, high = _finite(found, "low"), _finite(found, "high")
    if low > high:
        told = f"rule {text!r}: the range is empty, {low:g} is above {high:g}"
        raise ThresholdError(pointed(text, found.start("low"), told))
    return Rule(text, found["metric"], low, high, why)


def _margin(found: re.Match[str], text: str, why: str) -> Rule:
    by = _finite(found, "by") / (100 if found["percent"] else 1)
    if not by > 0:
        told = f"rule {text!r}: a margin of nothing would fail what is equal"
        raise ThresholdError(pointed(text, found.start("by"), told))
    margin = Margin(found["sign"], by, bool(found["percent"]))
    return Rule(text, found["metric"], -math.inf, math.inf, why, margin=margin)


def _relative(found: re.Match[str], text: str, why: str) -> Rule:
    factor = _finite(found, "factor") if found["factor"] else 1.0
    if not factor > 0:
        told = f"rule {text!r}: nothing is held against nothing of a control"
        raise ThresholdError(pointed(text, found.start("factor"), told))
    relative = Relative(found["control"], factor, found["sign"][0] + "=")
    return Rule(text, found["metric"], -math.inf, math.inf, why, relative=relative)


def _finite(found: re.Match[str], part: str) -> float:
    """Return a limit; an infinite one would be a gate that nothing can fail."""
    value = float(found[part])
    if math.isinf(value):
        told = f"rule {found.string!r}: the limit {found[part]} is infinite, nothing could fail it"
        raise ThresholdError(pointed(found.string, found.start(part), told))
    return value


def _pointed_at(text: str) -> str:
    """Say what was expected where, as far as the text can be read."""
    at, expected = _place(text)
    return pointed(text, at, f"rule not understood, expected {expected}")


def _place(text: str) -> tuple[int, str]:
    metric = re.match(rf"\s*{_METRIC}\s*", text)
    if metric is None:
        return 0, "a metric such as fidelity.kl"
    at = metric.end()
    sign = re.compile(r"(<=|>=|in\s+\[|:|[<>](?=\s*control\b))\s*").match(text, at)
    if sign is None:
        return at, "<=, >=, in [a,b] or :, then a number, or <control.NAME*0.5"
    at = sign.end()
    if sign[1] == ":":
        return at, "+ or -, then a number and perhaps %"
    if "in" in sign[1]:
        return at, "a number pair and ]"
    if text.startswith("control", at):
        return _place_in_control(text, at)
    number = re.compile(rf"{_NUMBER}\s*").match(text, at)
    if number:
        return number.end(), "the end of the rule"
    return at, "a number or control.NAME"


def _place_in_control(text: str, at: int) -> tuple[int, str]:
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
    tables with ``rule`` and, for people, ``why``. ``case = "parameter=value"`` limits a rule to
    some of the property's cases; ``model``, ``hook`` and ``profile`` are shell patterns of the
    runs that it is for, and a narrower rule takes a wider one's place
    (:func:`saebench.gates.rules.in_force`). ``role`` is ``primary``, which decides, or
    ``secondary``, which is corrected for multiplicity and reported; a rule without one decides.

    Args:
        path: the file.
        metrics: all metric names there are; a rule about another one is an error.

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
        # Of a known property no other's metric is meant, however like it is.
        own = [name for name in known if name.startswith(f"{rule.about}.")]
        told = f"{where}: unknown metric {rule.metric!r}{nearest(rule.metric, own or known)}"
        raise ThresholdError(pointed(rule.text, rule.text.index(rule.metric), told))


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
