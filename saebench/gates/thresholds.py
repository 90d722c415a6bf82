"""thresholds.toml: which rules hold for which property."""

import tomllib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from saebench.errors import ThresholdError, nearest
from saebench.gates.grammar import parse_rule, pointed
from saebench.gates.rules import Role, Rule, Scope

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
