"""A run held against baselines: pair by pair, on equal tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from saebench.errors import OptionError, StoreError
from saebench.gates.margins import Against, NotHeld
from saebench.gates.rules import Rule
from saebench.judging.comparison import Side, why_incomparable
from saebench.judging.differences import SideCase, how_much_worse
from saebench.judging.rules import spec_of
from saebench.judging.sides import side_of_baseline
from saebench.results import Metric, ModelRecord, SubjectRecord, Verdict
from saebench.statistics.bootstrap import Sampled
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

    def held(
        self, rule: Rule, sae: str, kind: str, now: SideCase
    ) -> tuple[Against | NotHeld, Sampled | None]:
        """Return how a case stands against its baseline in a margin's metric.

        Args:
            rule: a margin.
            sae: the SAE's id.
            kind: the case's name without it.
            now: what this run found.

        Returns:
            that, and the difference's distribution where it is paired.
        """
        return against(rule, kind, now, self.sides[sae])


def against(
    rule: Rule, kind: str, now: SideCase, side: Side
) -> tuple[Against | NotHeld, Sampled | None]:
    """Return how a case's metric stands against a stored one, and the difference's distribution.

    Args:
        rule: a margin.
        kind: the case's name without its SAE.
        now: what this run found.
        side: the baseline.
    """
    assert rule.margin is not None
    before = side.cases.get(kind)
    if before is None or rule.metric not in before.metrics:
        why = f"the baseline {side.label} has none of {kind} to compare with"
        return NotHeld(Verdict.NEW, why), None
    reason = why_incomparable(before.basis, now.basis)
    if reason is None and rule.metric in now.metrics:
        found = how_much_worse(spec_of(rule.metric), (before, now), relative=rule.margin.relative)
        if not isinstance(found, str):
            stored = before.metrics[rule.metric].value
            assert stored is not None
            noise = before.noise.get(rule.metric)
            if noise is not None and rule.margin.relative:
                noise /= abs(stored)
            told = Against(side.label, stored, found.value, found.ci, found.paired, noise)
            return told, found.sampled
        reason = found
    why = (
        f"the baseline {side.label} does not compare with this run: {reason}; measure as the "
        "baseline was, or store it anew with --sae-update-baselines"
    )
    return NotHeld(Verdict.INCOMPARABLE, why), None


def scores(metrics: Sequence[Metric]) -> Mapping[str, Score]:
    """Return a run's metrics as a stored side has them."""
    return {
        m.name: Score(m.version, m.value, (m.ci.low, m.ci.high) if m.ci else None) for m in metrics
    }
