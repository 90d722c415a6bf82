"""The rules of a run, from the threshold file and the command line, and which are for a case."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from saebench.errors import OptionError, ThresholdError, nearest
from saebench.experiments.base import SEQUENCES, Experiment
from saebench.gates.rules import Role, Rule, Scope, in_force
from saebench.gates.thresholds import (
    check_margin,
    check_metric,
    parse_rule,
    pointed,
    read_thresholds,
)
from saebench.options import Settings
from saebench.properties import Property, find_property, metric_names
from saebench.properties.base import MetricSpec
from saebench.properties.controls import IDENTITY, NEGATIVE
from saebench.records.case import CaseRequest
from saebench.store.environment import thresholds_path

if TYPE_CHECKING:
    from saebench.experiments.bench import Bench

BUILT_CONTROLS = (IDENTITY, *NEGATIVE)
CONTROL = "control."  # before its name in a rule


class RunRules:
    """The rules of the threshold file and of ``--sae-fail-on``.

    Args:
        settings: the run's.
        params: returns a case's parameters.
        experiment: returns the experiment that a case reads.

    Raises:
        ThresholdError: for rules that cannot be understood.
        OptionError: for a margin without a baseline, or a baseline without a margin.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        params: Callable[[CaseRequest], Mapping[str, Any]],
        experiment: Callable[[CaseRequest], Experiment],
    ) -> None:
        self._settings = settings
        self._params = params
        self._experiment = experiment
        self.all = _rules(settings)

    def check_asked(self, requests: Iterable[CaseRequest]) -> None:
        """Refuse a rule of --sae-fail-on that no announced case can decide.

        Raises:
            OptionError: naming the rule and the property that would decide it.
        """
        requests = tuple(requests)
        for rule in (rule for rule in self.all if rule.given and requests):
            if not any(self._is_about(rule, request) for request in requests):
                raise OptionError(
                    f"--sae-fail-on {rule.text!r}: no case of {rule.about} that reports it is "
                    "selected, so nothing would decide it; select it too, or leave the rule out"
                )

    def of(self, request: CaseRequest, bench: "Bench") -> tuple[Rule, ...]:
        """Return the rules that are in force for a case."""
        about = [rule for rule in self.all if self._is_about(rule, request)]
        return in_force(tuple(about), self._run(request, bench))

    def decides(self, request: CaseRequest, bench: "Bench | None") -> bool:
        """True where some rule makes a case decide about its SAE.

        Args:
            request: the case.
            bench: its SAE's; None where that was not loaded, so that its model's name is unknown:
                then a rule for one model or hook counts too.
        """
        if not self._experiment(request).is_asked_for(self._settings):
            return False
        if bench is not None:
            rules = self.of(request, bench)
        else:
            rules = tuple(rule for rule in self.all if self._may_hold(rule, request))
        compared = self._settings.baseline is not None
        return any(
            rule.role is Role.PRIMARY and (rule.margin is None or compared) for rule in rules
        )

    def needs_controls(self, request: CaseRequest) -> bool:
        """True where some rule of a case is about the SAE's controls."""
        return any(rule.relative and self._is_about(rule, request) for rule in self.all)

    def _run(self, request: CaseRequest, bench: "Bench") -> Scope:
        hooks = {s.id: s.metadata.hook for s in bench.subjects}
        return Scope(bench.model.name, hooks[request.subjects[-1]], self._settings.profile.value)

    def _may_hold(self, rule: Rule, request: CaseRequest) -> bool:
        profile = replace(rule.scope, model="", hook="")
        this_run = Scope(profile=self._settings.profile.value)
        return self._is_about(rule, request) and profile.holds_for(this_run)

    def _is_about(self, rule: Rule, request: CaseRequest) -> bool:
        """True where the rule is for the case, and the case reports its metric."""
        declared, params = find_property(request.property_name), self._params(request)
        fits = rule.about == declared.name and rule.holds_for(params)
        # Controls are only measured on whole sequences.
        has_controls = rule.relative is None or self._experiment(request) == SEQUENCES
        return fits and has_controls and declared.reports(rule.metric, params)


def spec_of(metric: str) -> MetricSpec:
    """Return a metric's definition by its name."""
    declared = find_property(metric.partition(".")[0])
    return next(spec for spec in declared.metrics if spec.name == metric)


def _rules(settings: Settings) -> tuple[Rule, ...]:
    known = metric_names()
    path = thresholds_path(settings.thresholds)
    rules = read_thresholds(path, metrics=known)
    for rule in rules:
        _check_cases(rule, where=str(path))
        _check(rule, settings, where=str(path))
    rules += tuple(_given(text, known, settings) for text in settings.fail_on)
    if settings.baseline is not None and not any(rule.margin for rule in rules):
        raise OptionError(
            f"--sae-baseline {settings.baseline}: {path} has no margin such as 'fidelity.kl:+5%', "
            "so nothing would be compared with it; add one, or --sae-fail-on 'fidelity.kl:+5%'"
        )
    return rules


def _given(text: str, known: frozenset[str], settings: Settings) -> Rule:
    """Return a rule of the command line."""
    where = "--sae-fail-on"
    try:
        rule = parse_rule(text, why=f"asked for by {where}")
    except ThresholdError as error:
        raise ThresholdError(f"{where}: {error}") from error
    check_metric(rule, known, where=where)
    _check(rule, settings, where=where)
    if rule.margin is not None and settings.baseline is None:
        raise OptionError(
            f"{where} {text!r} is a margin: name its baseline with --sae-baseline PATH|GITREF"
        )
    return replace(rule, given=True)


def _check(rule: Rule, settings: Settings, *, where: str) -> None:
    check_margin(rule, spec_of(rule.metric).direction, where=where)
    if rule.relative is not None:
        _check_control(rule, find_property(rule.about), settings, where=where)


def _check_cases(rule: Rule, *, where: str) -> None:
    cases = [dict(case) for case in find_property(rule.about).cases]
    if not any(rule.holds_for(case) for case in cases):
        raise ThresholdError(
            f"{where}: {rule.text!r} is for cases with {rule.case!r}, which {rule.about} does not "
            f"have; its cases are {cases}"
        )


def _check_control(rule: Rule, declared: Property, settings: Settings, *, where: str) -> None:
    """Refuse a rule about an unknown control, or a metric that controls are not measured in."""
    assert rule.relative is not None
    name = rule.relative.control
    if name not in BUILT_CONTROLS:
        message = f"{where}: unknown control {name!r}{nearest(name, BUILT_CONTROLS)}"
        at = rule.text.rindex(CONTROL) + len(CONTROL)
        raise ThresholdError(pointed(rule.text, at, message))
    sources = [declared.experiment_of(case, settings) for case in declared.cases]
    if SEQUENCES not in sources or spec_of(rule.metric).formula is None:
        raise ThresholdError(
            f"{where}: {rule.text!r}: {rule.metric} is not measured of controls; they have the "
            "metrics of whole sequences that are ratios of sums, such as fidelity.kl"
        )
