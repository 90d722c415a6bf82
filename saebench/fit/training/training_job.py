"""One training from beginning to end: load, fit, save."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from saebench.data.documents import open_documents
from saebench.data.packed import RowSource, Supply
from saebench.errors import OptionError
from saebench.experiments.prepare import chosen_device
from saebench.experiments.texts import check_vocabulary
from saebench.fit.keeping import Checkpoint, check_out
from saebench.fit.loop import fit, optimiser_of, take_step
from saebench.fit.plan import notes_on_rates
from saebench.fit.stream import ActivationStream, RowStream, counted_of
from saebench.fit.training.course import (
    RECORD_FILE,
    check_board,
    course_of,
    logged,
    notes_on,
    save_trained,
    write_log,
)
from saebench.fit.training.objectives import Objective
from saebench.fit.training.request import IDENTITY, RANDOM, Judging, TrainJob, keep_apart, texts_of
from saebench.fit.training.sublayers import HalfLayers, ResumedPasses, half_layers
from saebench.fit.training.tasks import StandardTask, Weights, WholeModelTask
from saebench.fit.training.training_sae import begin_from, begin_near_identity, make_sae
from saebench.options import Overrides
from saebench.progress import ProgressBar
from saebench.records.training import (
    TRAINING_SCHEMA_VERSION,
    TrainedRecord,
    TrainingCourse,
    TrainingRecipe,
    TrainingRecord,
)
from saebench.store.atomic import new_directory
from saebench.store.environment import environment, harness
from saebench.store.json_files import write_training
from saebench.subjects.hooks import Site, find_site
from saebench.subjects.host import Host
from saebench.subjects.host_loading import load_host, patch_file, write_patch
from saebench.subjects.loading import load_subject
from saebench.subjects.modules import tensors_sha256
from saebench.subjects.references import find_subjects
from saebench.subjects.sae import Subject

HELD_ROWS = 32
DEAD_AFTER_TOKENS = 1_000_000  # or a tenth of the training
Task = StandardTask | WholeModelTask


@dataclass(frozen=True)
class _Prepared:
    """Everything that is at hand before the fit begins."""

    host: Host
    site: Site
    rows: RowSource
    supply: Supply
    task: Task
    stream: RowStream | ActivationStream
    begun_from: str
    halves: HalfLayers | None


def train(job: TrainJob, *, progress: ProgressBar, say: Callable[[str], object]) -> TrainingRecord:
    """Train an SAE and write it.

    Args:
        job: what to do.
        progress: makes a progress bar.
        say: is told what the user should know.

    Raises:
        UsageError: for anything that cannot be done as given; nothing was written.
        NonFiniteValue: where the loss became NaN or diverged; the checkpoint before is kept.
        StoreError: where the result cannot be written.
    """
    checkpoint_path = check_out(job.out, what="training", force=job.force, resume=job.resume)
    check_board(job.tensorboard)
    host = host_of(job)
    job = replace(job, context=min(job.context, host.context or job.context))
    if job.judged is not None:
        most = replace(job, tokens=max(job.tokens, job.init_tokens or 0))
        keep_apart(most, Judging(job.judged), host, open_documents(job.judged))
    job = _with_init(job, host, progress=progress, say=say)
    ready = _prepare(job, host)
    if ready.supply.passes > 1:
        say(
            f"{ready.rows.documents.name} gives {ready.supply.tokens:,} tokens: {job.tokens:,} are "
            f"{ready.supply.passes:.1f} passes over them"
        )
    checkpoint = Checkpoint(checkpoint_path, identity=_identity(job, ready))
    started = time.perf_counter()
    bar = progress(f"{job.objective} SAE at {job.hook}", job.tokens)
    with bar as advance, logged(job.tensorboard, job.out.name) as on_check:
        state = fit(
            ready.task, ready.stream, job.plan(diverges_from=_diverges_from(job, host)),
            checkpoint=checkpoint, resume=job.resume, progress=advance,
            size=_size(job, host), after_step=ready.task.stepped, on_check=on_check,
        )  # fmt: skip
    duration_s = time.perf_counter() - started
    course = course_of(
        state, ready.task.held_features(), rows=ready.rows, supply=ready.supply,
        duration_s=duration_s, host_moved=None if ready.halves is None else ready.halves.moved(),
    )  # fmt: skip
    notes = (
        *notes_on(course, features=job.expansion * ready.site.width),
        *notes_on_rates(state.rates),
    )
    for note in notes:
        say(note)
    return _written(job, ready, course, notes, checkpoint)


@dataclass(frozen=True)
class Stepping:
    """One step of a training, again and again on the same batch; nothing is written.

    Attributes:
        step: does it.
        tokens: that it takes.
        fill: makes what steps are given, a pool at once: by the model, for activations.
        filled_tokens: in that.
    """

    step: Callable[[], object]
    tokens: int
    fill: Callable[[], object]
    filled_tokens: int


def stepping(job: TrainJob) -> Stepping:
    """Return a training's step, to be timed.

    Args:
        job: the training; a place and an objective, begun at random.
    """
    host = host_of(job)
    job = replace(job, context=min(job.context, host.context or job.context))
    ready = _prepare(job, host)
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


def host_of(job: TrainJob) -> Host:
    """Load the model that a training is on.

    Raises:
        HostError: where it cannot be loaded.
    """
    from saebench.zoo import recipe
    from saebench.zoo import shelf as zoo

    source = str(zoo.model_path()) if job.is_demo else job.model
    name = recipe.MODEL_NAME if job.is_demo else None
    device = chosen_device(job.settings)
    return load_host(source, device=device, dtype=job.dtype, asked_by="--model", name=name)


def _with_init(
    job: TrainJob, host: Host, *, progress: ProgressBar, say: Callable[[str], object]
) -> TrainJob:
    """Train the standard SAE that another objective begins with, where none is given."""
    if job.objective.trains_halves:
        half_layers(host, job.hook, sides=job.half_layers)
    if not job.trains_first:
        return job
    out = job.out.with_name(f"{job.out.name}.init")
    if job.force or not out.exists():
        begun = out.with_name(f"{out.name}.checkpoint").exists()
        first = replace(
            job, objective=Objective.STANDARD, out=out, tokens=job.init_tokens or job.tokens,
            judged=None, resume=begun and not job.force,
        )  # fmt: skip
        say(f"no --init: a standard SAE is trained first, on {first.tokens:,} tokens ({out})")
        train(first, progress=progress, say=say)
    return replace(job, init=str(out))


def _prepare(job: TrainJob, host: Host) -> _Prepared:
    site = find_site(host, job.hook)
    context, bos = job.context, host.tokenizer.bos_token_id
    texts = RowSource(texts_of(job)[0], host.tokenizer, context, bos, host.special_ids)
    supply = texts.survey(job.tokens, passes=job.max_passes, held=HELD_ROWS * (context - 1))
    check_vocabulary(host, supply.largest, of=texts.documents.name)
    # What a check is made on is not trained on, where there is more than one row.
    rows = texts.between(supply.held, supply.rows)
    apart = texts.between(0, supply.held or None)
    sae, begun_from = _begun(job, host, site)
    sae = sae.to(host.device)
    weights = Weights(
        job.sparsity.coefficient(job.objective), int(job.warm_up * job.tokens), job.without_sae,
        dead_after_tokens=min(DEAD_AFTER_TOKENS, max(1, job.tokens // 10)),
    )  # fmt: skip
    if job.objective is Objective.STANDARD:
        fitted, held = (
            ActivationStream(
                host, site, some, batch_tokens=job.batch_rows * (context - 1), seed=job.seed
            )
            for some in (rows, apart)
        )
        task = StandardTask(sae, held.first(HELD_ROWS * context), weights=weights)
        return _Prepared(host, site, rows, supply, task, fitted, begun_from, None)
    stream = RowStream(rows, batch_rows=job.batch_rows, seed=job.seed)
    held = torch.tensor(list(islice(apart.once(), HELD_ROWS)))
    halves = None
    if job.objective.trains_halves:
        halves = HalfLayers(host, half_layers(host, job.hook, sides=job.half_layers))
    passes = ResumedPasses(host, site, halves=halves, checkpointing=job.checkpointing)
    task = WholeModelTask(
        sae, passes, objective=job.objective, loss=job.loss, held=held, weights=weights,
        halves=halves,
    )  # fmt: skip
    return _Prepared(host, site, rows, supply, task, stream, begun_from, halves)


def _begun(job: TrainJob, host: Host, site: Site) -> tuple[Any, str]:
    """Return the SAE to train, and what it was begun from."""
    metadata = {
        "model_name": host.name,
        "hook_name": job.hook,
        "context_size": job.context,
        "prepend_bos": host.tokenizer.bos_token_id is not None,
        "dataset_path": job.dataset or "demo stories",
    }
    sae = make_sae(
        d_in=site.width, d_sae=job.expansion * site.width, sparsity=job.sparsity,
        metadata=metadata, seed=job.seed,
    )  # fmt: skip
    if job.init in (None, RANDOM):
        return sae, RANDOM
    if job.init == IDENTITY:
        begin_near_identity(sae)
        return sae, IDENTITY
    other = _subject(job.init or "", job.hook)
    begin_from(sae, other.sae, where=job.init or "")
    return sae, other.weights_sha256


def _subject(spec: str, hook: str) -> Subject:
    found = find_subjects([spec])
    if len(found) != 1:
        raise OptionError(f"--init {spec}: names {len(found)} SAEs; give one")
    subject = load_subject(found[0], overrides=Overrides(), device="cpu")
    if subject.metadata.hook != hook:
        raise OptionError(f"--init {spec}: belongs to {subject.metadata.hook}, not to {hook}")
    if patch_file(found[0].directory) is not None:
        raise OptionError(f"--init {spec}: was trained with a patched model; give another SAE")
    return subject


def _identity(job: TrainJob, ready: _Prepared) -> dict[str, Any]:
    return job.identity() | {
        "init": ready.begun_from,
        "model": ready.host.record().weights_sha256,
        "texts": ready.supply.fingerprint,
    }


def _diverges_from(job: TrainJob, host: Host) -> float:
    """Return what a whole-model loss is not far above before it is worse than knowing nothing."""
    return math.log(host.vocab_size) if job.objective.is_whole_model else 0.0


def _size(job: TrainJob, host: Host) -> Callable[[Tensor], int]:
    if job.objective is Objective.STANDARD:
        return len
    return lambda ids: int(counted_of(ids, host.special_ids).sum())


def _written(
    job: TrainJob,
    ready: _Prepared,
    course: TrainingCourse,
    notes: tuple[str, ...],
    checkpoint: Checkpoint,
) -> TrainingRecord:
    recipe = TrainingRecipe(
        **{k: getattr(job, k) for k in ("tokens", "batch_rows", "learning_rate", "weight_decay",
                                        "without_sae", "tolerance", "patience", "seed")},
        objective=job.objective.value,
        loss=job.loss.value,
        sparsity=str(job.sparsity),
        init=ready.begun_from,
        half_layers={} if ready.halves is None else dict(ready.halves.paths),
        warm_up_tokens=int(job.warm_up * job.tokens),
        clip=job.plan(diverges_from=0.0).clip,
    )  # fmt: skip
    with new_directory(job.out) as staged:
        found = save_trained(ready.task.trained.sae, staged, recipe=asdict(recipe))
        if ready.halves is not None:
            write_patch(staged, ready.halves.tensors(), host=ready.host)
        write_log(course.checks, staged)
        record = TrainingRecord(
            schema_version=TRAINING_SCHEMA_VERSION,
            harness=harness(),
            env=environment(),
            sae=TrainedRecord(
                id=job.out.name,
                weights_sha256=tensors_sha256(found.state_dict()),
                architecture=found.cfg.architecture(),
                hook=job.hook,
                d_in=found.cfg.d_in,
                d_sae=found.cfg.d_sae,
                context=job.context,
            ),
            model=ready.host.record(),
            recipe=recipe,
            course=course,
            notes=notes,
        )
        write_training(record, staged / RECORD_FILE)
    checkpoint.remove()
    return record
