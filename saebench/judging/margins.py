"""A run held against baselines: pair by pair, on equal tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from saebench.errors import OptionError, StoreError
from saebench.gates.margins import Against, NotHeld, decide_margin
from saebench.gates.rules import Rule
from saebench.judging.comparison import Side, why_incomparable
from saebench.judging.differences import SideCase, how_much_worse
from saebench.judging.sides import side_of_baseline
from saebench.properties import find_property
from saebench.results import GateResult, Metric, ModelRecord, SubjectRecord, Verdict
from saebench.store.baseline_source import BaselineSource
from saebench.store.boards import Score
from saebench.store.checked import read_checked_baseline


@dataclass
class Baselines:
    """The baselines that a run's SAEs are held against, by SAE."""

    sides: dict[str, Side] = field(default_factory=dict)

    def read(self, source: BaselineSource, sae: SubjectRecord, model: ModelRecord) -> None:
        """Read an SAE's baseline.

        Raises:
            OptionError: where there is none, or it is damaged.
        """
        path = source.of(sae, model)
        try:
            self.sides[sae.id] = side_of_baseline(read_checked_baseline(path), path)
        except StoreError as error:
            raise OptionError(f"--sae-baseline {source.shown}: {error}") from error

    def decide(
        self, rules: Sequence[Rule], sae: str, kind: str, now: SideCase, metrics: Sequence[Metric]
    ) -> tuple[GateResult, ...]:
        """Return the verdict of each margin about one case.

        Args:
            rules: margins.
            sae: the SAE's id.
            kind: the case's name without it.
            now: what this run found.
            metrics: the same, as reported.
        """
        by_name = {metric.name: metric for metric in metrics}
        return tuple(
            decide_margin(rule, by_name.get(rule.metric), against(rule, kind, now, self.sides[sae]))
            for rule in rules
        )


def against(rule: Rule, kind: str, now: SideCase, side: Side) -> Against | NotHeld:
    """Return how a case's metric stands against a stored one.

    Args:
        rule: a margin.
        kind: the case's name without its SAE.
        now: what this run found.
        side: the baseline.
    """
    assert rule.margin is not None
    before = side.cases.get(kind)
    if before is None or rule.metric not in before.metrics:
        return NotHeld(Verdict.NEW, f"the baseline {side.label} has none of {kind} to compare with")
    reason = why_incomparable(before.basis, now.basis)
    if reason is None and rule.metric in now.metrics:
        (spec,) = [s for s in find_property(rule.about).metrics if s.name == rule.metric]
        found = how_much_worse(spec, (before, now), relative=rule.margin.relative)
        if not isinstance(found, str):
            value, ci, paired = found
            stored = before.metrics[rule.metric].value
            assert stored is not None
            return Against(side.label, stored, value, ci, paired)
        reason = found
    return NotHeld(
        Verdict.INCOMPARABLE,
        f"the baseline {side.label} does not compare with this run: {reason}; measure as the "
        "baseline was, or store it anew with --sae-update-baselines",
    )


def scores(metrics: Sequence[Metric]) -> Mapping[str, Score]:
    """Return a run's metrics as a stored side has them."""
    return {
        m.name: Score(m.version, m.value, (m.ci.low, m.ci.high) if m.ci else None) for m in metrics
    }
