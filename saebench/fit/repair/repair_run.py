"""What is told of a repair: its recipe, its course, before and after, and why."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from saebench.fit.keeping import Checkpoint, check_out
from saebench.fit.loop import State, fit
from saebench.fit.plan import notes_on_rates
from saebench.fit.repair.analysis import activity, analyse
from saebench.fit.repair.at_hand import Prepared, one_sae, prepare
from saebench.fit.repair.before_after import BEFORE, judge_both
from saebench.fit.repair.continued import BaselineTask
from saebench.fit.repair.repair_job import Method, RepairJob
from saebench.fit.repair.scaled import RECORD_FILE, ScaledTask, load_saved, save_repaired
from saebench.progress import ProgressBar
from saebench.records.repair import (
    REPAIR_SCHEMA_VERSION,
    CourseRow,
    FeatureAnalysis,
    RepairCourse,
    RepairRecipe,
    RepairRecord,
)
from saebench.store.atomic import new_directory
from saebench.store.environment import environment, harness
from saebench.store.json_files import write_repair
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


def repair(job: RepairJob, *, progress: ProgressBar, say: Callable[[str], object]) -> RepairRecord:
    """Repair an SAE, write it, and judge it before and after.

    Args:
        job: what to do.
        progress: makes a progress bar.
        say: is told what the user should know before the fit begins.

    Raises:
        UsageError: for anything that cannot be done as given; nothing was written.
        NonFiniteValue: where the loss became NaN; the checkpoint before that is kept.
        StoreError: where the result cannot be written.
    """
    reference = one_sae(job.sae)
    checkpoint_path = check_out(
        job.out, what="repair", source=reference.directory, force=job.force, resume=job.resume
    )
    ready = prepare(job, reference)
    for line in ready.notes:
        say(line)
    task = _task(job, ready)
    checkpoint = Checkpoint(checkpoint_path, identity=_identity(job, ready))
    started = time.perf_counter()
    with progress(f"{job.method} of {ready.subject.id}", job.tokens) as advance:
        state = fit(
            task, ready.stream, job.plan, checkpoint=checkpoint, resume=job.resume,
            progress=advance,
        )  # fmt: skip
    duration_s = time.perf_counter() - started
    with new_directory(job.out) as staged:
        recipe = recipe_of(job, task)
        save_repaired(task.finished(), staged, metadata=ready.subject.metadata, recipe=recipe)
        after = load_saved(staged, ready.subject, shown=str(job.out), device=ready.host.device)
        course = course_of(ready, after, state, duration_s=duration_s)
        notes = (*ready.notes, *notes_on_rates(state.rates))
        record = record_of(job, ready, after, course, recipe=recipe, notes=notes, progress=progress)
        write_repair(record, staged / RECORD_FILE)
    checkpoint.remove()
    return record


def _task(job: RepairJob, ready: Prepared) -> "ScaledTask | BaselineTask":
    if job.method is Method.BASELINE:
        coefficient = job.coefficient or ready.penalty.coefficient
        return BaselineTask(ready.subject.sae, ready.held, coefficient=coefficient)
    return ScaledTask(ready.subject.sae, job.method, ready.held)


def _identity(job: RepairJob, ready: Prepared) -> dict[str, Any]:
    """Return what a checkpoint must have been begun with; the learning rate may be lowered."""
    shaping = ("method", "tokens", "batch_tokens", "tolerance", "patience", "seed", "coefficient")
    options = {name: getattr(job, name) for name in shaping} | {"method": job.method.value}
    return options | {
        "SAE": ready.subject.weights_sha256,
        "model": ready.host.record().weights_sha256,
        "texts": ready.supply.fingerprint,
        "context": ready.context,
    }
