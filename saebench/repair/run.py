"""One repair from beginning to end: load, fit, save, judge before and after."""

import time
from collections.abc import Callable
from typing import Any

from saebench.fitting.checkpoint import Checkpoint
from saebench.fitting.loop import fit
from saebench.fitting.output import check_out
from saebench.fitting.rates import notes_on_rates
from saebench.judging.progress import ProgressBar
from saebench.repair.baseline import BaselineTask
from saebench.repair.job import RepairJob
from saebench.repair.methods import Method
from saebench.repair.preparation import Prepared, one_sae, prepare
from saebench.repair.record import course_of, recipe_of, record_of
from saebench.repair.saving import RECORD_FILE, load_saved, save_repaired
from saebench.repair.scaled import ScaledTask
from saebench.repairs import RepairRecord
from saebench.store.atomic import new_directory
from saebench.store.repair_file import write_repair


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
