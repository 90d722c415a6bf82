"""One repair from beginning to end: load, fit, save, judge before and after."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saebench.data.documents import Documents, open_documents
from saebench.data.packed import RowSource, Supply, refuse_overlap, split_documents
from saebench.errors import DataError, OptionError, SubjectError
from saebench.fitting.checkpoint import Checkpoint
from saebench.fitting.loop import Plan, State, fit
from saebench.fitting.stream import ActivationStream
from saebench.judging.bench import Bench, Texts
from saebench.judging.preparation import (
    benches_of,
    chosen_device,
    context_of,
    demo_documents,
    model_of,
)
from saebench.judging.progress import ProgressBar
from saebench.repair.analysis import activity, analyse
from saebench.repair.baseline import BaselineTask
from saebench.repair.eligible import check_repairable
from saebench.repair.judgement import BEFORE, judge_both, settings_for
from saebench.repair.methods import Method
from saebench.repair.penalty import Penalty, penalty_of
from saebench.repair.saving import RECORD_FILE, check_out, load_saved, save_repaired
from saebench.repair.scaled import ScaledTask
from saebench.repairs import (
    REPAIR_SCHEMA_VERSION,
    CourseRow,
    RepairCourse,
    RepairRecipe,
    RepairRecord,
)
from saebench.settings import Settings
from saebench.store.atomic import new_directory
from saebench.store.environment import environment, harness
from saebench.store.repair_file import write_repair
from saebench.subjects.host import Host, load_host
from saebench.subjects.host_patch import host_for
from saebench.subjects.metadata import Overrides
from saebench.subjects.references import SubjectReference, find_subjects
from saebench.subjects.sae import Subject, load_subject
from saebench.substitution.engine import site_of

HELD_TOKENS = 1 << 14  # activations that checks are made on
ANALYSED_TOKENS = 200_000
KEPT_APART = 10  # one document in so many is judged on, where no judged texts are named


@dataclass(frozen=True)
class RepairJob:
    """What a repair was asked to do.

    Attributes:
        sae: a SPEC that names one SAE.
        out: the directory to write.
        method: which parameters are fitted.
        model: the host model; None takes the SAE's metadata, or the demo's own.
        dataset: the texts to fit on; None takes the demo's own.
        judged: the texts to judge on; None keeps one document in ten of the others apart.
        tokens: activations to fit on, at most.
        max_passes: how often the texts are gone through for them, at most.
        sequences: how many sequences are judged.
        batch_tokens: activations in a step.
        learning_rate: of Adam.
        tolerance: a gain below this share, over ``patience`` checks, ends the fit.
        patience: see there.
        seed: of the shuffling, and of the gate's noise.
        coefficient: of the penalty that the SAE was trained with; None finds it.
        device: ``auto``, or a torch device.
        dtype: of the model.
        overrides: what the SAE's metadata lacks.
        force: replace ``out``, and begin anew where a checkpoint is.
        resume: go on from the checkpoint.
    """

    sae: str
    out: Path
    method: Method
    model: str | None = None
    dataset: str | None = None
    judged: str | None = None
    tokens: int = 2_000_000
    max_passes: int = 10
    sequences: int = 512
    batch_tokens: int = 2048
    learning_rate: float = 1e-3
    tolerance: float = 1e-3
    patience: int = 5
    seed: int = 0
    coefficient: float | None = None
    device: str = "auto"
    dtype: str = "float32"
    overrides: Overrides = field(default_factory=Overrides)
    force: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        """Refuse values that no repair can have.

        Raises:
            OptionError: naming the option.
        """
        for name in ("tokens", "max_passes", "sequences", "batch_tokens", "patience"):
            if getattr(self, name) < 1:
                option = "--" + name.replace("_", "-")
                raise OptionError(f"{option} must be 1 or more, found {getattr(self, name)}")
        if not 0 < self.learning_rate < float("inf"):
            raise OptionError(f"--learning-rate must be above 0, found {self.learning_rate}")
        if not 0 <= self.tolerance < 1:
            raise OptionError(f"--tolerance must be a share, 0 to 1, found {self.tolerance}")
        if not 0 <= self.seed < 1 << 31:
            raise OptionError(f"--seed must be 0 to {(1 << 31) - 1}, found {self.seed}")
        if self.resume and self.force:
            raise OptionError("--resume goes on, --force starts anew: give one of the two")

    @property
    def settings(self) -> Settings:
        """What of it the gate knows too."""
        return Settings(
            model=self.model, dataset=self.dataset, sequences=self.sequences, seed=self.seed,
            device=self.device, dtype=self.dtype, overrides=self.overrides,
        )  # fmt: skip

    @property
    def plan(self) -> Plan:
        """How it is fitted: twenty checks, or more where the tokens are many."""
        check = min(1_000_000, max(self.batch_tokens, self.tokens // 20))
        return Plan(
            self.tokens, self.learning_rate, check, patience=self.patience,
            tolerance=self.tolerance,
        )  # fmt: skip


@dataclass(frozen=True)
class _Prepared:
    """Everything that is at hand before the fit begins."""

    subject: Subject
    host: Host
    rows: RowSource
    supply: Supply
    bench: Bench
    stream: ActivationStream
    held: Tensor
    penalty: Penalty
    notes: tuple[str, ...]


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
    reference = _one_sae(job.sae)
    checkpoint_path = check_out(
        job.out, source=reference.directory, force=job.force, resume=job.resume
    )
    ready = _prepare(job, reference)
    for line in _beforehand(job, ready):
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
        save_repaired(task.finished(), staged, metadata=ready.subject.metadata, recipe=recipe)
        after = load_saved(staged, ready.subject, shown=str(job.out), device=ready.host.device)
        record = _record(job, ready, after, state, recipe=recipe, duration_s=duration_s,
                         progress=progress)  # fmt: skip
        write_repair(record, staged / RECORD_FILE)
    checkpoint.remove()
    return record


def _one_sae(spec: str) -> SubjectReference:
    found = find_subjects([spec])
    if len(found) != 1:
        raise OptionError(f"{spec}: names {len(found)} SAEs; repair takes one at a time")
    if found[0].control is not None:
        raise SubjectError(f"{spec}: a control, made at run time; there is nothing to repair")
    return found[0]


def _prepare(job: RepairJob, reference: SubjectReference) -> _Prepared:
    settings, device = job.settings, chosen_device(job.settings)
    subject = load_subject(reference, overrides=job.overrides, device=device)
    if subject.metadata.input_hook is not None:
        raise SubjectError(f"{job.sae}: a transcoder; only SAEs, which reconstruct, are repaired")
    said = check_repairable(subject.sae, where=job.sae, method=job.method)
    source, asked_by = model_of(settings, reference, subject)
    name = subject.metadata.model_name if reference.model == source else None
    host = load_host(source, device=device, dtype=job.dtype, asked_by=asked_by, name=name)
    host = host_for(host, reference.directory)
    fitted, judged = _texts(job, demo=reference.is_demo)
    context = context_of(settings, subject, host)
    settings = settings_for(settings, sequences=job.sequences, context=context)
    (bench,) = benches_of(settings, [(subject, host)], Texts(judged))
    bos = host.tokenizer.bos_token_id if subject.metadata.prepend_bos else None
    rows = RowSource(fitted, host.tokenizer, context, bos, host.special_ids)
    supply = rows.survey(job.tokens, passes=job.max_passes)
    judged_ids = bench.tokens.ids.tolist()
    refuse_overlap(rows, judged_ids, judged=judged.name, limit=job.tokens)
    stream = ActivationStream(
        host, site_of(host, subject), rows, batch_tokens=job.batch_tokens, seed=job.seed
    )
    held = stream.first(min(HELD_TOKENS, supply.tokens))
    penalty = penalty_of(subject.sae, held)
    return _Prepared(subject, host, rows, supply, bench, stream, held, penalty, said)


def _texts(job: RepairJob, *, demo: bool) -> tuple[Documents, Documents]:
    """Return the texts to fit on and those to judge on."""
    if job.dataset is None and not demo:
        raise DataError("no texts to fit on; give a file or a data set: --sae-dataset PATH|NAME")
    fitted = demo_documents("sae") if job.dataset is None else open_documents(job.dataset)
    if job.judged is not None:
        return fitted, open_documents(job.judged)
    if job.dataset is None:
        return fitted, demo_documents("heldout")
    return split_documents(fitted, every=KEPT_APART)


def _beforehand(job: RepairJob, ready: _Prepared) -> list[str]:
    supply, tokens = ready.supply, ready.bench.tokens
    lines = [*ready.notes, *([ready.penalty.note] if ready.penalty.note else [])]
    if supply.passes > 1:
        lines.append(
            f"{ready.rows.documents.name} gives {supply.tokens:,} tokens: {job.tokens:,} are "
            f"{supply.passes:.1f} passes over them"
        )
    if len(tokens.ids) < job.sequences:
        lines.append(
            f"judged on {len(tokens.ids)} sequences of the {job.sequences} asked for: "
            f"{ready.bench.texts.documents.name} has no more documents of {tokens.ids.shape[1]} "
            "tokens"
        )
    return lines


def _task(job: RepairJob, ready: _Prepared) -> "ScaledTask | BaselineTask":
    if job.method is Method.BASELINE:
        coefficient = job.coefficient or ready.penalty.coefficient
        return BaselineTask(ready.subject.sae, ready.held, coefficient=coefficient)
    return ScaledTask(ready.subject.sae, job.method, ready.held)


def _identity(job: RepairJob, ready: _Prepared) -> dict[str, Any]:
    shaping = ("method", "tokens", "batch_tokens", "learning_rate", "tolerance", "patience",
               "seed", "coefficient")  # fmt: skip
    options = {name: getattr(job, name) for name in shaping} | {"method": job.method.value}
    return options | {
        "SAE": ready.subject.weights_sha256,
        "model": ready.host.record().weights_sha256,
        "texts": ready.supply.fingerprint,
        "context": ready.rows.context,
    }


def _recipe(job: RepairJob, task: "ScaledTask | BaselineTask") -> RepairRecipe:
    return RepairRecipe(
        method=job.method.value,
        fitted=tuple(n for n, p in task.module.named_parameters() if p.requires_grad),
        tokens=job.tokens,
        learning_rate=job.learning_rate,
        batch_tokens=job.batch_tokens,
        tolerance=job.tolerance,
        patience=job.patience,
        seed=job.seed,
    )


def _record(
    job: RepairJob,
    ready: _Prepared,
    after: Subject,
    state: State,
    *,
    recipe: RepairRecipe,
    duration_s: float,
    progress: ProgressBar,
) -> RepairRecord:
    """Judge the two, look at the features, and put everything together."""
    before = Subject(
        ready.subject.sae, id=BEFORE, source=ready.subject.source, metadata=ready.subject.metadata
    )
    bench = replace(ready.bench, subjects=(before, after), data={}, costs=[], parts={})
    judged = judge_both(bench, ready.bench.settings, progress=progress)
    analysed = min(ANALYSED_TOKENS, ready.supply.tokens)
    described = [bench.describe(subject, path="") for subject in (before, after)]
    own = replace(described[0], id=ready.subject.id)
    return RepairRecord(
        schema_version=REPAIR_SCHEMA_VERSION,
        harness=harness(),
        env=environment(),
        before=own,
        after=replace(described[1], id=job.out.name),
        model=bench.model,
        recipe=recipe,
        course=_course(ready, after, state, duration_s),
        judged_on=next(iter(bench.data.values())),
        rows=judged.rows,
        gates=judged.gates,
        analysis=(
            analyse(
                before.sae,
                after.sae,
                activity(before.sae, ready.stream.once(analysed)),
                l1_coefficient=job.coefficient or ready.penalty.coefficient,
            )
            if job.method.keeps_features
            else None
        ),
        notes=tuple(_beforehand(job, ready)),
    )


def _course(ready: _Prepared, after: Subject, state: State, duration_s: float) -> RepairCourse:
    flips, of = _flips(ready.subject, after, ready.held)
    return RepairCourse(
        tokens=state.tokens,
        converged=state.converged,
        duration_s=duration_s,
        texts=ready.rows.documents.name,
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
