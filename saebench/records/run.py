"""A run: its cases, the SAEs, models and data that they are of, how it started and ended."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from saebench.records.case_result import CaseResult
from saebench.records.inputs import DatasetRecord, ModelRecord, SubjectRecord
from saebench.records.schema import Schema, unchanged
from saebench.records.verdict import SEVERITY, Verdict, overall


@dataclass(frozen=True)
class Cost:
    """Time and memory of one measurement, of all the SAEs that shared it.

    Attributes:
        measured_on: sequences, long sequences, cloze prompts, controls, pairs, or which tokens
            alone.
        model: the model's name.
        saes: the SAEs' ids.
        tokens: tokens of the data.
        seconds: by stage: clean, encode, decode, noise, resume, readout, fold, overhead.
        peak_memory_bytes: the process's peak by then.
    """

    measured_on: str
    model: str
    saes: tuple[str, ...]
    tokens: int
    seconds: dict[str, float]
    peak_memory_bytes: int


@dataclass(frozen=True)
class Unjudged:
    """A case that decides about an SAE by the run's rules, and was not judged.

    Attributes:
        id: the case's.
        sae: the SAE's, or the pair's joined name.
        property: the property.
    """

    id: str
    sae: str
    property: str


@dataclass(frozen=True)
class RunRecord:
    """When and how a run was started, and how it ended.

    Attributes:
        status: the verdict on all cases together.
        complete: every selected case was judged, and no deciding one was left out.
        unjudged: the deciding cases that were left out; None in results of schema version 6 and
            older, which did not record it.
        allows_partial: ``--sae-allow-partial``: cases that were left out fail no exit code.
        least_documents: the number of independent documents that decides a gate, where the user
            gave one; None where it is saebench's own, and in older files, where one sufficed.
    """

    id: str
    status: str
    started: str
    finished: str | None
    argv: tuple[str, ...]
    profile: str
    seed: int
    complete: bool
    unjudged: tuple["Unjudged", ...] | None = ()
    allows_partial: bool = False
    least_documents: int | None = None

    @property
    def is_whole(self) -> bool:
        """True where no deciding case was left out; False also where that was not recorded."""
        return self.unjudged == ()

    @property
    def was_interrupted(self) -> bool:
        """True where all that is missing are cases that decide nothing."""
        return self.is_whole and not self.complete


@dataclass(frozen=True)
class Run:
    """Everything about one run: the content of the result file.

    Models and datasets are lists because SAEs of several models or training contexts may be
    judged in one run; ``saes`` and ``cases`` refer to each other by SAE id.
    """

    schema_version: int
    run: RunRecord
    harness: dict[str, str]
    env: dict[str, str]
    machine: dict[str, str]
    models: tuple[ModelRecord, ...]
    datasets: tuple[DatasetRecord, ...]
    saes: tuple[SubjectRecord, ...]
    cases: tuple[CaseResult, ...]
    cost: tuple[Cost, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The verdict on all cases together; INCOMPLETE where deciding ones are missing."""
        return self._with_unjudged(self.cases, is_whole=self.run.is_whole)

    def cases_of(self, sae: str) -> tuple[CaseResult, ...]:
        """Return the cases of one SAE, by its id."""
        return tuple(case for case in self.cases if case.sae == sae)

    @property
    def passed(self) -> bool:
        """True where every deciding case was judged, at least one gate decided, and all passed."""
        decided = [case for case in self.cases if case.deciding or case.error]
        is_whole = self.run.is_whole or self.run.allows_partial
        return self._with_unjudged(decided, is_whole=is_whole) is Verdict.PASS

    @property
    def judged(self) -> tuple[SubjectRecord, ...]:
        """The SAEs that have cases, in the run's order."""
        judged = {case.sae for case in self.cases}
        return tuple(sae for sae in self.saes if sae.id in judged)

    def verdict_of(self, sae: str) -> Verdict:
        """Return what the cases of an SAE come to; INCOMPLETE where deciding ones are missing."""
        return self._with_unjudged(self.cases_of(sae), is_whole=self.unjudged_of(sae) == ())

    def unjudged_of(self, sae: str) -> tuple[Unjudged, ...] | None:
        """Return the deciding cases of an SAE that were not judged; None if not recorded."""
        left_out = self.run.unjudged
        return None if left_out is None else tuple(each for each in left_out if each.sae == sae)

    @staticmethod
    def _with_unjudged(cases: Iterable[CaseResult], *, is_whole: bool) -> Verdict:
        verdicts = [case.verdict for case in cases]
        return overall(verdicts if is_whole else [*verdicts, Verdict.INCOMPLETE])

    def by_depth(self) -> list[str]:
        """Return the SAEs' ids in the order of their places in the model, then by name."""
        return [sae.id for sae in sorted(self.saes, key=lambda s: (s.layer, s.hook, s.id))]

    def cases_about(self, property_name: str, **params: Any) -> list[CaseResult]:
        """Return a property's cases with these parameters, by the depth of their SAE."""
        order = {id: i for i, id in enumerate(self.by_depth())}
        cases = [
            case
            for case in self.cases
            if case.property == property_name and params.items() <= case.params.items()
        ]
        return sorted(cases, key=lambda case: order.get(case.sae, len(order)))

    def worst_first(self) -> list[CaseResult]:
        """Return the cases, the most severe verdict first."""
        return sorted(self.cases, key=lambda case: -SEVERITY[case.verdict])

    def to_dict(self) -> dict[str, Any]:
        """Return the run as plain dictionaries and lists, as in the result file."""
        return asdict(self)


def _check(run: Run) -> None:
    """Refuse two SAEs of one id, cases of SAEs that the run does not list, and a malformed date.

    Raises:
        ValueError: naming the first.
    """
    known = {sae.id for sae in run.saes}
    if len(known) < len(run.saes):
        raise ValueError("two SAEs of one id")
    for case in run.cases:
        pair = (case.params.get("first"), case.params.get("second"))
        own = pair if "second" in case.params else (case.sae,)
        if not all(isinstance(sae, str) and sae in known for sae in own):
            raise ValueError(f"{case.id!r} is of no SAE in it")
    datetime.fromisoformat(run.run.started)


def _with_fallbacks(content: dict[str, Any]) -> dict[str, Any]:
    """Rename ``stand`` of version 4, which named the metric that a gate falls back to."""
    cases = content.get("cases")
    if not isinstance(cases, list):
        return content
    return content | {"cases": [_renamed(case) for case in cases]}


def _renamed(case: Any) -> Any:
    metrics = case.get("metrics") if isinstance(case, dict) else None
    if not isinstance(metrics, list):
        return case
    renamed = [
        {"fallback" if key == "stand" else key: value for key, value in metric.items()}
        if isinstance(metric, dict)
        else metric
        for metric in metrics
    ]
    return case | {"metrics": renamed}


def _without_unjudged(content: dict[str, Any]) -> dict[str, Any]:
    """Say that which deciding cases were left out is not known: version 6 did not record it."""
    run = content.get("run")
    return content | {"run": run | {"unjudged": None}} if isinstance(run, dict) else content


SCHEMA_VERSION = 7
RESULT = Schema(
    Run,
    SCHEMA_VERSION,
    "saebench result file",
    upgrades={
        1: unchanged,  # 2 added each case's basis, which stays unknown, and the run's cost
        2: unchanged,  # 3 added by how much a gated metric is worse than its baseline
        3: unchanged,  # 4 added secondary gates
        4: _with_fallbacks,  # 5 added why a gate's rule exists
        5: unchanged,  # 6 added what decides a metric that is undefined, or negligible
        6: _without_unjudged,  # 7 added which deciding cases were not judged
    },
    check=_check,
)
