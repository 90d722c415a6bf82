"""A run's record: what was judged, on what, where and when, and what came of it."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from saebench.judging.secondary import corrected
from saebench.results import SCHEMA_VERSION, CaseResult, Run, RunRecord, overall
from saebench.settings import Settings
from saebench.store.environment import environment, harness, machine

if TYPE_CHECKING:
    from saebench.judging.bench import Bench


@dataclass(frozen=True)
class About:
    """What was asked for: the command line, when it began, and the settings."""

    argv: tuple[str, ...]
    started: datetime
    settings: Settings


def record_of(
    about: About,
    benches: "Sequence[Bench]",
    cases: Sequence[CaseResult],
    *,
    path: Callable[[str], str],
    complete: bool,
) -> Run:
    """Return a run's record as it stands, its secondary gates corrected for their number.

    Args:
        about: what was asked for.
        benches: what was judged together.
        cases: those that were decided.
        path: says how the model was run with an SAE.
        complete: every announced case was decided.
    """
    record = RunRecord(
        id=uuid.uuid4().hex,
        status=overall(case.verdict for case in cases).value,
        started=about.started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        argv=about.argv,
        profile=about.settings.profile.value,
        seed=about.settings.seed,
        complete=complete,
    )
    return Run(
        schema_version=SCHEMA_VERSION,
        run=record,
        harness=harness(),
        env=environment(),
        machine=machine(),
        models=tuple(dict.fromkeys(bench.model for bench in benches)),
        datasets=tuple(data for bench in benches for data in bench.data.values()),
        saes=tuple(b.describe(s, path=path(s.id)) for b in benches for s in b.subjects),
        cases=corrected(cases),
        cost=tuple(cost for bench in benches for cost in bench.costs),
    )
