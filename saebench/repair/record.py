"""What is told of a repair: its recipe, its course, before and after, and why."""

from dataclasses import asdict, replace

import torch
from torch import Tensor

from saebench.fitting.loop import State
from saebench.judging.progress import ProgressBar
from saebench.repair.analysis import activity, analyse
from saebench.repair.baseline import BaselineTask
from saebench.repair.job import RepairJob
from saebench.repair.judgement import BEFORE, judge_both
from saebench.repair.preparation import Prepared
from saebench.repair.scaled import ScaledTask
from saebench.repairs import (
    REPAIR_SCHEMA_VERSION,
    CourseRow,
    FeatureAnalysis,
    RepairCourse,
    RepairRecipe,
    RepairRecord,
)
from saebench.store.environment import environment, harness
from saebench.subjects.sae import Subject

ANALYSED_TOKENS = 200_000


def recipe_of(job: RepairJob, task: "ScaledTask | BaselineTask") -> RepairRecipe:
    """Return what was asked for: all that shapes the result."""
    return RepairRecipe(
        method=job.method.value,
        fitted=tuple(n for n, p in task.module.named_parameters() if p.requires_grad),
        tokens=job.tokens,
        learning_rate=job.learning_rate,
        batch_tokens=job.batch_tokens,
        tolerance=job.plan.tolerance,
        patience=job.patience,
        seed=job.seed,
    )


def record_of(
    job: RepairJob,
    ready: Prepared,
    after: Subject,
    course: RepairCourse,
    *,
    recipe: RepairRecipe,
    notes: tuple[str, ...],
    progress: ProgressBar,
) -> RepairRecord:
    """Judge the two SAEs, look at the features, and put everything together.

    Args:
        job: what was asked for.
        ready: what the repair worked with.
        after: the repaired SAE, as it was saved.
        course: of the fit.
        recipe: of the repair.
        notes: what the user was told of it.
        progress: makes a progress bar.

    Raises:
        MeasurementError: where one of the two cannot be measured.
    """
    before = Subject(
        ready.subject.sae, id=BEFORE, source=ready.subject.source, metadata=ready.subject.metadata
    )
    bench = replace(ready.bench, subjects=(before, after), data={}, costs=[], parts={})
    judged = judge_both(bench, ready.bench.settings, progress=progress)
    described = [bench.describe(subject, path="") for subject in (before, after)]
    return RepairRecord(
        schema_version=REPAIR_SCHEMA_VERSION,
        harness=harness(),
        env=environment(),
        before=replace(described[0], id=ready.subject.id),
        after=replace(described[1], id=job.out.name),
        model=bench.model,
        recipe=recipe,
        course=course,
        judged_on=next(iter(bench.data.values())),
        rows=judged.rows,
        gates=judged.gates,
        analysis=_analysis(job, ready, after),
        notes=notes,
    )


def _analysis(job: RepairJob, ready: Prepared, after: Subject) -> FeatureAnalysis | None:
    """Return the seed's analysis; None where the features are no longer the same ones."""
    if not job.method.keeps_features:
        return None
    before = ready.subject.sae
    batches = ready.stream.once(min(ANALYSED_TOKENS, ready.supply.tokens))
    coefficient = job.coefficient or ready.penalty.coefficient
    return analyse(before, after.sae, activity(before, batches), l1_coefficient=coefficient)


def course_of(ready: Prepared, after: Subject, state: State, *, duration_s: float) -> RepairCourse:
    """Return how the fit went.

    Args:
        ready: what the repair worked with.
        after: the repaired SAE, as it was saved.
        state: where the fit ended.
        duration_s: how long it took.
    """
    flips, of = _flips(ready.subject, after, ready.held)
    return RepairCourse(
        tokens=state.tokens,
        converged=state.converged,
        duration_s=duration_s,
        texts=ready.texts,
        texts_fingerprint=ready.supply.fingerprint,
        texts_tokens=ready.supply.tokens,
        passes=state.tokens / ready.supply.tokens,
        flips=flips,
        flips_of=of,
        checks=tuple(CourseRow(**asdict(check)) for check in state.checks),
    )


@torch.no_grad()
def _flips(before: Subject, after: Subject, x: Tensor) -> tuple[int, int]:
    """Return how many features are on in one of the two alone, and of how many."""
    one, two = before.active(x), after.active(x)
    return int((one != two).sum()), one.numel()
