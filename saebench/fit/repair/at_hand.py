"""Everything that is at hand before a repair's fit begins: SAE, model, texts, activations."""

from dataclasses import dataclass

from torch import Tensor

from saebench.data.documents import Documents, open_documents
from saebench.data.packed import RowSource, Supply, refuse_overlap, split_documents
from saebench.errors import DataError, OptionError, SubjectError
from saebench.experiments.bench import Bench
from saebench.experiments.prepare import (
    benches_of,
    chosen_device,
    context_of,
    demo_documents,
    model_of,
)
from saebench.experiments.texts import Texts, check_vocabulary, special_ids
from saebench.fit.repair.before_after import settings_for
from saebench.fit.repair.eligible import Penalty, check_repairable, penalty_of
from saebench.fit.repair.repair_job import RepairJob
from saebench.fit.stream import ActivationStream
from saebench.options import Settings
from saebench.subjects.host import Host
from saebench.subjects.host_loading import host_for, load_host
from saebench.subjects.loading import load_subject
from saebench.subjects.references import SubjectReference, find_subjects
from saebench.subjects.sae import Subject
from saebench.substitution.engine import site_of

HELD_TOKENS = 1 << 14  # activations that checks are made on; a tenth of short texts' rows at most
KEPT_APART = 10  # one document in so many is judged on, where no judged texts are named


@dataclass(frozen=True)
class Prepared:
    """What a repair works with.

    Attributes:
        subject: the SAE.
        host: its model.
        supply: what the texts hold.
        bench: the judged tokens.
        stream: activations to fit on.
        held: activations of other rows of the same texts, which convergence is told by.
        penalty: what the SAE was trained with.
        texts: what the texts to fit on are called.
        context: tokens in their rows.
        notes: what the user should know before the fit begins.
    """

    subject: Subject
    host: Host
    supply: Supply
    bench: Bench
    stream: ActivationStream
    held: Tensor
    penalty: Penalty
    texts: str
    context: int
    notes: tuple[str, ...]


def one_sae(spec: str) -> SubjectReference:
    """Return the only SAE that a SPEC names.

    Raises:
        OptionError: where it names several.
        SubjectError: where it names a control.
    """
    found = find_subjects([spec])
    if len(found) != 1:
        raise OptionError(f"{spec}: names {len(found)} SAEs; repair takes one at a time")
    if found[0].control is not None:
        raise SubjectError(f"{spec}: a control, made at run time; there is nothing to repair")
    return found[0]


def prepare(job: RepairJob, reference: SubjectReference) -> Prepared:
    """Load everything, and refuse what cannot be repaired or judged as given.

    Args:
        job: what to do.
        reference: to the SAE.

    Raises:
        UsageError: for anything that cannot be done as given; nothing was written.
    """
    settings, device = job.settings, chosen_device(job.settings)
    subject = load_subject(reference, overrides=job.overrides, device=device)
    if subject.waits:
        raise SubjectError(
            f"{job.sae}: --sae-norm-factor estimate: a repair fits the SAE as it is saved; judge "
            "it with estimate first, and give the number that the result notes"
        )
    if subject.metadata.input_hook is not None:
        raise SubjectError(f"{job.sae}: a transcoder; only SAEs, which reconstruct, are repaired")
    said = check_repairable(subject.sae, where=job.sae, method=job.method)
    host = _host(job, reference, subject, device=device)
    fitted, judged = _texts(job, demo=reference.is_demo)
    context = context_of(settings, subject, host)
    bench = _bench(job, settings, subject, host, judged, context=context)
    bos = bench.bos
    rows = RowSource(fitted, host.tokenizer, context, bos, special_ids(host, bos))
    supply = rows.survey(job.tokens, passes=job.max_passes, held=HELD_TOKENS)
    check_vocabulary(host, supply.largest, of=fitted.name)
    judged_ids = bench.tokens.ids.tolist()
    refuse_overlap(rows, judged_ids, judged=judged.name, limit=supply.rows * context)
    site = site_of(host, subject)
    streams = [
        ActivationStream(host, site, some, batch_tokens=job.batch_tokens, seed=job.seed)
        for some in (rows.between(supply.held, supply.rows), rows.between(0, supply.held or None))
    ]
    held = streams[1].first(HELD_TOKENS)
    penalty = penalty_of(subject.sae, held)
    notes = (
        *said,
        *([penalty.note] if penalty.note else []),
        *_notes_on_texts(job, fitted, supply, bench),
    )
    return Prepared(
        subject, host, supply, bench, streams[0], held, penalty, fitted.name, context, notes
    )


def _host(job: RepairJob, reference: SubjectReference, subject: Subject, *, device: str) -> Host:
    source, asked_by = model_of(job.settings, reference, subject)
    name = subject.metadata.model_name if reference.model == source else None
    host = load_host(source, device=device, dtype=job.dtype, asked_by=asked_by, name=name)
    return host_for(host, reference.directory)


def _bench(
    job: RepairJob,
    settings: Settings,
    subject: Subject,
    host: Host,
    judged: Documents,
    *,
    context: int,
) -> Bench:
    chosen = settings_for(settings, sequences=job.sequences, context=context)
    (bench,) = benches_of(chosen, [(subject, host)], Texts(judged))
    return bench


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


def _notes_on_texts(
    job: RepairJob, fitted: Documents, supply: Supply, bench: Bench
) -> tuple[str, ...]:
    notes, ids = [], bench.tokens.ids
    if supply.passes > 1:
        notes.append(
            f"{fitted.name} gives {supply.tokens:,} tokens: {job.tokens:,} are "
            f"{supply.passes:.1f} passes over them"
        )
    if len(ids) < job.sequences:
        notes.append(
            f"judged on {len(ids)} sequences of the {job.sequences} asked for: "
            f"{bench.texts.documents.name} has no more documents of {ids.shape[1]} tokens"
        )
    return tuple(notes)
