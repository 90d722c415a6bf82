"""One repair from beginning to end: fit, save, judge before and after, write the record."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saebench.fit import notes_on_rates
from saebench.fit.loop import State, fit
from saebench.fit.repair import Method, RepairJob
from saebench.fit.repair.before_after import AFTER, BEFORE, judge_both
from saebench.fit.repair.repair_inputs import Prepared, prepare, sae_to_repair
from saebench.fit.repair.repair_tasks import BaselineTask, ScaledTask
from saebench.fit.repair.suppression import activity, analyse
from saebench.fit.saving import Checkpoint, check_out, load_saved, save_sae
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
from saebench.store.json_files import write_record
from saebench.subjects.sae import Subject

RECORD_FILE = "repair.json"
ANALYSED_TOKENS = 200_000
Task = ScaledTask | BaselineTask


def repair(job: RepairJob, *, progress: ProgressBar, say: Callable[[str], object]) -> RepairRecord:
    """Repair an SAE, write it, and judge it before and after.

    Args:
        job: the repair.
        progress: makes a progress bar.
        say: called with each note for the user, before the fit begins.

    Raises:
        UsageError: for anything that cannot be done as given; nothing was written.
        NonFiniteValue: where the loss became NaN; the checkpoint is the last good state.
        StoreError: where the result cannot be written.
    """
    reference = sae_to_repair(job.sae)
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
        recipe = _recipe(job, task)
        after = _saved(job, ready, task.finished(), recipe, staged)
        course = _course(ready, after, state, duration_s=duration_s)
        notes = (*ready.notes, *notes_on_rates(state.rates))
        record = _record(job, ready, after, course, recipe=recipe, notes=notes, progress=progress)
        write_record(record, staged / RECORD_FILE)
    checkpoint.remove()
    return record


def _saved(
    job: RepairJob, ready: Prepared, sae: Any, recipe: RepairRecipe, directory: Path
) -> Subject:
    """Write the repaired SAE, and return it loaded as any other SAE is."""
    known = ready.subject.metadata
    metadata = {
        "hook_name": known.hook,
        "model_name": known.model_name,
        "context_size": known.training_context,
        "prepend_bos": known.prepend_bos,
        "repair": asdict(recipe) | {"fitted": list(recipe.fitted)},
    }
    save_sae(sae, directory, metadata=metadata)
    after = load_saved(directory, device=ready.host.device)
    after.id, after.source, after.metadata = AFTER, str(job.out), known
    return after


def _task(job: RepairJob, ready: Prepared) -> Task:
    if job.method is Method.BASELINE:
        coefficient = job.coefficient or ready.penalty.coefficient
        return BaselineTask(ready.subject.sae, ready.validation, coefficient=coefficient)
    return ScaledTask(ready.subject.sae, job.method, ready.validation)


def _identity(job: RepairJob, ready: Prepared) -> dict[str, Any]:
    """Return what a checkpoint must agree with; the learning rate may be lowered by hand."""
    shaping = ("method", "tokens", "batch_tokens", "tolerance", "patience", "seed", "coefficient")
    options = {name: getattr(job, name) for name in shaping} | {"method": job.method.value}
    return options | {
        "SAE": ready.subject.weights_sha256,
        "model": ready.host.record().weights_sha256,
        "texts": ready.supply.fingerprint,
        "context": ready.context,
    }


def _recipe(job: RepairJob, task: Task) -> RepairRecipe:
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


def _record(
    job: RepairJob,
    ready: Prepared,
    after: Subject,
    course: RepairCourse,
    *,
    recipe: RepairRecipe,
    notes: tuple[str, ...],
    progress: ProgressBar,
) -> RepairRecord:
    """Judge the two SAEs, compare their features, and return the record."""
    before = Subject(
        ready.subject.sae, id=BEFORE, source=ready.subject.source, metadata=ready.subject.metadata
    )
    bench = replace(ready.bench, subjects=(before, after), data={}, costs=[], parts={})
    rows, gates = judge_both(bench, progress=progress)
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
        rows=rows,
        gates=gates,
        analysis=_analysis(job, ready, after),
        notes=notes,
    )


def _analysis(job: RepairJob, ready: Prepared, after: Subject) -> FeatureAnalysis | None:
    """Return the analysis of the features; None where the repair changed the encoder's."""
    if not job.method.keeps_features:
        return None
    before = ready.subject.sae
    batches = ready.stream.once(min(ANALYSED_TOKENS, ready.supply.tokens))
    coefficient = job.coefficient or ready.penalty.coefficient
    return analyse(before, after.sae, activity(before, batches), l1_coefficient=coefficient)


def _course(ready: Prepared, after: Subject, state: State, *, duration_s: float) -> RepairCourse:
    flips, of = _flips(ready.subject, after, ready.validation)
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
    """Return how many activations are zero in just one of the two SAEs, and of how many."""
    one, two = before.active(x), after.active(x)
    return int((one != two).sum()), one.numel()
