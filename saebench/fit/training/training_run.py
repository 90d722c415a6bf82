"""One training from beginning to end: fit, save, write the record; and one step, to be timed."""

import csv
import io
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from saebench.data.documents import open_documents
from saebench.errors import OptionError
from saebench.fit import notes_on_rates
from saebench.fit.loop import Check, State, fit, optimiser_of, take_step
from saebench.fit.saving import Checkpoint, check_out, checkpoint_path, save_sae
from saebench.fit.stream import counted_of
from saebench.fit.training import Judging, Objective, TrainJob
from saebench.fit.training.sublayers import sublayer_paths
from saebench.fit.training.training_inputs import (
    Prepared,
    host_of,
    prepare_training,
    refuse_judging_on_training,
    with_context_of,
)
from saebench.formats.saelens import inference_sae
from saebench.options import AMOUNTS, Profile
from saebench.progress import ProgressBar
from saebench.records.training import (
    TRAINING_SCHEMA_VERSION,
    TrainedRecord,
    TrainingCheck,
    TrainingCourse,
    TrainingRecipe,
    TrainingRecord,
)
from saebench.store.atomic import new_directory, write_file
from saebench.store.environment import environment, harness
from saebench.store.json_files import write_record
from saebench.subjects.host import Host
from saebench.subjects.host_loading import write_patch
from saebench.subjects.modules import tensors_sha256

RECORD_FILE, LOG_FILE = "training.json", "log.csv"
EXTRA = "pip install 'pytest-saebench[tensorboard]'"
MOSTLY_DEAD = 0.5
Say = Callable[[str], object]


def train(job: TrainJob, *, progress: ProgressBar, say: Say) -> TrainingRecord:
    """Train an SAE and write it.

    Args:
        job: the training.
        progress: makes a progress bar.
        say: called with each note for the user.

    Raises:
        UsageError: for anything that cannot be done as given; nothing was written.
        NonFiniteValue: where the loss became NaN or diverged; the checkpoint is the last good
            state.
        StoreError: where the result cannot be written.
    """
    checkpoint_file = check_out(job.out, what="training", force=job.force, resume=job.resume)
    _check_board(job.tensorboard)
    host = host_of(job)
    job = with_context_of(job, host)
    _refuse_judged_texts(job, host)
    job = _with_init(job, host, progress=progress, say=say)
    ready = prepare_training(job, host)
    if ready.supply.passes > 1:
        say(
            f"{ready.rows.documents.name} gives {ready.supply.tokens:,} tokens: {job.tokens:,} are "
            f"{ready.supply.passes:.1f} passes over them"
        )
    checkpoint = Checkpoint(checkpoint_file, identity=_identity(job, ready))
    started = time.perf_counter()
    state = _fitted(job, ready, checkpoint, progress=progress)
    course = _course(ready, state, duration_s=time.perf_counter() - started)
    dead = _notes_on_dead(course, features=job.expansion * ready.site.width)
    notes = (*dead, *notes_on_rates(state.rates))
    for note in notes:
        say(note)
    record = _written(job, ready, course, notes)
    checkpoint.remove()
    return record


def _refuse_judged_texts(job: TrainJob, host: Host) -> None:
    """Refuse to train on the texts that the SAE is to be judged on, if any are named."""
    if job.judged is not None:
        longest = replace(job, tokens=max(job.tokens, job.init_tokens or 0))
        # Whatever number of them, and by whichever seed, a later run draws.
        how = Judging(job.judged, sequences=AMOUNTS[Profile.RELEASE].sequences)
        refuse_judging_on_training(longest, how, host, open_documents(job.judged))


def _with_init(job: TrainJob, host: Host, *, progress: ProgressBar, say: Say) -> TrainJob:
    """Train the standard SAE that another objective begins with, where none is given."""
    if job.objective.trains_sublayers:
        sublayer_paths(host, job.hook, sides=job.half_layers)
    if not job.trains_first:
        return job
    out = job.out.with_name(f"{job.out.name}.init")
    if job.force or not out.exists():
        begun = checkpoint_path(out).exists()
        first = replace(
            job, objective=Objective.STANDARD, out=out, tokens=job.init_tokens or job.tokens,
            judged=None, resume=begun and not job.force,
        )  # fmt: skip
        say(f"no --init: a standard SAE is trained first, on {first.tokens:,} tokens ({out})")
        train(first, progress=progress, say=say)
    return replace(job, init=str(out))


def _fitted(
    job: TrainJob, ready: Prepared, checkpoint: Checkpoint, *, progress: ProgressBar
) -> State:
    # A whole-model loss far above that of a uniform guess diverges.
    worst = math.log(ready.host.vocab_size) if job.objective.is_whole_model else 0.0
    bar = progress(f"{job.objective} SAE at {job.hook}", job.tokens)
    with bar as advance, _logged(job.tensorboard, job.out.name) as on_check:
        return fit(
            ready.task, ready.stream, job.plan(diverges_from=worst), checkpoint=checkpoint,
            resume=job.resume, progress=advance, size=_size(job, ready.host),
            after_step=ready.task.stepped, on_check=on_check,
        )  # fmt: skip


def _identity(job: TrainJob, ready: Prepared) -> dict[str, Any]:
    return job.identity() | {
        "init": ready.begun_from,
        "model": ready.host.record().weights_sha256,
        "texts": ready.supply.fingerprint,
    }


def _size(job: TrainJob, host: Host) -> Callable[[Tensor], int]:
    if job.objective is Objective.STANDARD:
        return len
    return lambda ids: int(counted_of(ids, host.special_ids).sum())


@dataclass(frozen=True)
class Stepping:
    """One step of a training, which can be repeated on the same batch; nothing is written.

    Attributes:
        step: takes it.
        tokens: in its batch.
        fill: fills a pool of the stream: of activations, by the model.
        filled_tokens: in the pool.
    """

    step: Callable[[], object]
    tokens: int
    fill: Callable[[], object]
    filled_tokens: int


def stepping(job: TrainJob) -> Stepping:
    """Return a training's step, to be timed.

    Args:
        job: the training, begun at random.
    """
    host = host_of(job)
    job = with_context_of(job, host)
    ready = prepare_training(job, host)
    plan = job.plan(diverges_from=math.inf)
    optimiser = optimiser_of(ready.task.module, plan)
    batch, _ = next(ready.stream.batches())

    def step() -> None:
        take_step(ready.task.loss(batch), optimiser, clip=plan.clip)
        ready.task.stepped()

    return Stepping(
        step, _size(job, host)(batch), lambda: next(ready.stream.batches()),
        ready.stream.pool_rows * (job.context - 1),
    )  # fmt: skip


def _check_board(directory: Path | None) -> None:
    """Refuse, before anything is loaded, to log where that cannot be done."""
    if directory is None:
        return
    if find_spec("tensorboard") is None:
        raise OptionError(f"--tensorboard {directory}: tensorboard is not installed: {EXTRA}")
    if directory.exists() and not directory.is_dir():
        raise OptionError(f"--tensorboard {directory}: is a file; give a directory")


@contextmanager
def _logged(directory: Path | None, name: str) -> Iterator[Callable[[Check], object]]:
    """Give the function that logs a check to TensorBoard; it does nothing without a directory."""
    if directory is None:
        yield lambda _: None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(directory / name)) as writer:

        def write(check: Check) -> None:
            if check.loss is not None:
                writer.add_scalar("loss", check.loss, check.tokens)
            writer.add_scalar("check", check.check, check.tokens)
            writer.flush()

        yield write


def _course(ready: Prepared, state: State, *, duration_s: float) -> TrainingCourse:
    dead, l0, tokens = _activity(ready.task.validation_features())
    return TrainingCourse(
        tokens=state.tokens,
        converged=state.converged,
        duration_s=duration_s,
        texts=ready.rows.documents.name,
        texts_fingerprint=ready.supply.fingerprint,
        texts_tokens=ready.supply.tokens,
        passes=state.tokens / ready.supply.tokens,
        dead=dead,
        dead_of=tokens,
        l0=l0,
        host_moved=None if ready.sublayers is None else ready.sublayers.moved(),
        checks=tuple(TrainingCheck(**asdict(check)) for check in state.checks),
    )


def _activity(batches: Iterable[Tensor]) -> tuple[int, float, int]:
    """Return how many features never fire, how many fire at a token, and of how many tokens."""
    fired, tokens = None, 0
    for features in batches:
        here = features.ne(0).sum(dim=0)
        fired = here if fired is None else fired + here
        tokens += len(features)
    assert fired is not None
    return int((fired == 0).sum()), float(fired.sum()) / tokens, tokens


def _notes_on_dead(course: TrainingCourse, *, features: int) -> tuple[str, ...]:
    if course.dead <= MOSTLY_DEAD * features:
        return ()
    return (
        f"{course.dead:,} of {features:,} features ({course.dead / features:.0%}) are dead on "
        f"{course.dead_of:,} tokens; a weaker --sparsity or more --tokens would leave more alive",
    )


def _written(
    job: TrainJob, ready: Prepared, course: TrainingCourse, notes: tuple[str, ...]
) -> TrainingRecord:
    """Write the SAE, the half-layers, the log and the record."""
    recipe = _recipe(job, ready)
    with new_directory(job.out) as staged:
        sae = inference_sae(ready.task.trained.sae.to("cpu"))
        save_sae(sae, staged, metadata={"training": asdict(recipe)})
        if ready.sublayers is not None:
            write_patch(staged, ready.sublayers.tensors(), host=ready.host)
        _write_log(course.checks, staged / LOG_FILE)
        record = TrainingRecord(
            schema_version=TRAINING_SCHEMA_VERSION,
            harness=harness(),
            env=environment(),
            sae=TrainedRecord(
                id=job.out.name,
                weights_sha256=tensors_sha256(sae.state_dict()),
                architecture=sae.cfg.architecture(),
                hook=job.hook,
                d_in=sae.cfg.d_in,
                d_sae=sae.cfg.d_sae,
                context=job.context,
            ),
            model=ready.host.record(),
            recipe=recipe,
            course=course,
            notes=notes,
        )
        write_record(record, staged / RECORD_FILE)
    return record


def _recipe(job: TrainJob, ready: Prepared) -> TrainingRecipe:
    same = ("tokens", "batch_rows", "learning_rate", "weight_decay", "without_sae", "tolerance",
            "patience", "seed", "warm_up_tokens")  # fmt: skip
    return TrainingRecipe(
        **{name: getattr(job, name) for name in same},
        objective=job.objective.value,
        loss=job.loss.value,
        sparsity=str(job.sparsity),
        init=ready.begun_from,
        half_layers={} if ready.sublayers is None else dict(ready.sublayers.paths),
        clip=job.clip_norm,
    )


def _write_log(checks: tuple[TrainingCheck, ...], file: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("tokens", "loss", "check"))
    writer.writerows((c.tokens, "" if c.loss is None else c.loss, c.check) for c in checks)
    write_file(file, text.getvalue().encode())
