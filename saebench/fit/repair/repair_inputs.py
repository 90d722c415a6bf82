"""What a repair works with, loaded and checked: SAE, model, texts, activations."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from saebench.data.documents import Documents, open_documents
from saebench.data.packed import RowSource, Supply, refuse_overlap, split_documents
from saebench.errors import DataError, SubjectError
from saebench.experiments.bench import Bench
from saebench.experiments.prepare import (
    benches_of,
    chosen_device,
    context_of,
    demo_documents,
    model_of,
)
from saebench.experiments.texts import Texts, check_vocabulary, special_ids
from saebench.fit.repair import Method, RepairJob
from saebench.fit.repair.suppression import Penalty, penalty_of
from saebench.fit.saving import one_sae
from saebench.fit.stream import ActivationStream
from saebench.subjects.host import Host
from saebench.subjects.host_loading import host_for, load_host
from saebench.subjects.loading import load_subject
from saebench.subjects.references import SubjectReference
from saebench.subjects.sae import Subject
from saebench.substitution.engine import site_of

VALIDATION_TOKENS = 1 << 14  # a tenth of short texts' rows at most
JUDGED_EVERY = 10  # one document in so many is judged on, where no judged texts are named
INTERVENTIONS = ("eps_random",)
NOTES = {
    "standard": None,
    "gated": (
        "gated: the penalty was on the gate alone, so that magnitudes should hardly be suppressed; "
        "the gate's bias has no gradient, the encoder methods fit the magnitudes' biases"
    ),
    "jumprelu": (
        "jumprelu: trained on a penalty that does not depend on the features' size (L0, or "
        "BatchTopK saved as JumpReLU), so that little is suppressed: what decoder methods gain is "
        "fit; "
        "thresholds stay as they are"
    ),
    "topk": (
        "topk: trained without a penalty, so that nothing is suppressed and there is no scale to "
        "fix: what decoder methods gain is fit; l0 stays k whatever is fitted"
    ),
}
NEEDED = {
    "standard": ("W_enc", "b_enc", "W_dec", "b_dec"),
    "gated": ("W_enc", "b_gate", "b_mag", "r_mag", "W_dec", "b_dec"),
    "jumprelu": ("W_enc", "b_enc", "threshold", "W_dec", "b_dec"),
    "topk": ("W_enc", "b_enc", "W_dec", "b_dec"),
}


@dataclass(frozen=True)
class Prepared:
    """What a repair works with.

    Attributes:
        subject: the SAE.
        host: its model.
        supply: the rows and tokens of the texts to fit on.
        bench: the SAE on the tokens that it is judged on.
        stream: activations to fit on.
        validation: activations of other rows of the same texts, for the checks.
        penalty: of the SAE's training.
        texts: the name of the texts to fit on.
        context: tokens in their rows.
        notes: for the user, before the fit begins.
    """

    subject: Subject
    host: Host
    supply: Supply
    bench: Bench
    stream: ActivationStream
    validation: Tensor
    penalty: Penalty
    texts: str
    context: int
    notes: tuple[str, ...]


def sae_to_repair(spec: str) -> SubjectReference:
    """Return the only SAE that a SPEC names.

    Raises:
        OptionError: where it names several.
        SubjectError: where it names a control.
    """
    reference = one_sae(spec)
    if reference.control is not None:
        raise SubjectError(f"{spec}: a control, made at run time; there is nothing to repair")
    return reference


def prepare(job: RepairJob, reference: SubjectReference) -> Prepared:
    """Load everything, and refuse what cannot be repaired or judged as given.

    Args:
        job: the repair.
        reference: to the SAE.

    Raises:
        UsageError: for anything that cannot be done as given; nothing was written.
    """
    device = chosen_device(job.settings)
    subject, notes = _subject(job, reference, device=device)
    host = _host(job, reference, subject, device=device)
    fitted, judged = _texts(job, demo=reference.is_demo)
    context = context_of(job.settings, subject, host)
    bench = _bench(job, subject, host, judged, context=context)
    rows = RowSource(fitted, host.tokenizer, context, bench.bos, special_ids(host, bench.bos))
    supply = rows.survey(job.tokens, passes=job.max_passes, held=VALIDATION_TOKENS)
    check_vocabulary(host, supply.largest, of=fitted.name)
    judged_ids = bench.tokens.ids.tolist()
    refuse_overlap(rows, judged_ids, judged=judged.name, limit=supply.rows * context)
    stream, apart = (
        ActivationStream(
            host, site_of(host, subject), some, batch_tokens=job.batch_tokens, seed=job.seed
        )
        for some in (rows.between(supply.held, supply.rows), rows.between(0, supply.held or None))
    )
    validation = apart.first(VALIDATION_TOKENS)
    penalty = penalty_of(subject.sae, validation)
    notes += (penalty.note,) if penalty.note else ()
    notes += _notes_on_texts(job, fitted, supply, bench)
    return Prepared(
        subject, host, supply, bench, stream, validation, penalty, fitted.name, context, notes
    )


def _subject(
    job: RepairJob, reference: SubjectReference, *, device: str
) -> tuple[Subject, tuple[str, ...]]:
    """Return the SAE, and notes on what a repair can do for it."""
    subject = load_subject(reference, overrides=job.overrides, device=device)
    if subject.waits:
        raise SubjectError(
            f"{job.sae}: --sae-norm-factor estimate: a repair fits the SAE as it is saved; judge "
            "it with estimate first, and give the number that the result notes"
        )
    if subject.metadata.input_hook is not None:
        raise SubjectError(f"{job.sae}: a transcoder; only SAEs, which reconstruct, are repaired")
    return subject, check_repairable(subject.sae, where=job.sae, method=job.method)


def check_repairable(sae: Any, *, where: str, method: Method) -> tuple[str, ...]:
    """Return notes on what a repair can do for an SAE.

    Args:
        sae: the SAE.
        where: its SPEC, for messages.
        method: the parameters to fit.

    Raises:
        SubjectError: for an architecture that has no factor between features and decoder, for
            parameters that are missing, and for an encoder tied to the decoder.
    """
    named = getattr(getattr(sae, "cfg", None), "architecture", None)
    architecture = str(named()) if callable(named) else ""
    if architecture not in NEEDED or not hasattr(sae, "run_time_activation_norm_fn_out"):
        raise SubjectError(
            f"{where}: expected one of SAELens' {', '.join(NEEDED)} SAEs, found "
            f"{architecture or type(sae).__name__}; save it in one of these forms first"
        )
    missing = [n for n in NEEDED[architecture] if not isinstance(getattr(sae, n, None), Tensor)]
    if missing:
        raise SubjectError(
            f"{where}: a {architecture} SAE without {', '.join(missing)}: there is nothing there "
            "to repair; expected all of " + ", ".join(NEEDED[architecture])
        )
    _refuse_tied(sae, where)
    note = NOTES[architecture]
    notes = () if note is None or method is Method.BASELINE else (note,)
    return notes + _folding_notes(sae, method)


def _refuse_tied(sae: Any, where: str) -> None:
    shared = sae.W_enc.untyped_storage().data_ptr() == sae.W_dec.untyped_storage().data_ptr()
    same = sae.W_enc.T.shape == sae.W_dec.shape and torch.equal(sae.W_enc.T, sae.W_dec)
    if shared or same:
        raise SubjectError(
            f"{where}: W_dec is the transpose of W_enc: they are tied (or were never trained), and "
            "repair changes the one without the other; train it untied first"
        )


def _folding_notes(sae: Any, method: Method) -> tuple[str, ...]:
    """Return a note where the saved SAE's features agree to rounding, not bit by bit."""
    if not method.keeps_features:
        return ()
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        return ("decoder norms were folded into the encoder: features agree to rounding",)
    if method.fits_output_bias and sae.cfg.apply_b_dec_to_input:
        return (
            "the SAE subtracts b_dec from its input: the encoder's bias makes up for the change of "
            "b_dec, and saved features agree to rounding",
        )
    return ()


def _host(job: RepairJob, reference: SubjectReference, subject: Subject, *, device: str) -> Host:
    source, asked_by = model_of(job.settings, reference, subject)
    name = subject.metadata.model_name if reference.model == source else None
    host = load_host(source, device=device, dtype=job.dtype, asked_by=asked_by, name=name)
    return host_for(host, reference.directory)


def _bench(
    job: RepairJob, subject: Subject, host: Host, judged: Documents, *, context: int
) -> Bench:
    settings = replace(job.settings, context=context, interventions=INTERVENTIONS)
    (bench,) = benches_of(settings, [(subject, host)], Texts(judged))
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
    return split_documents(fitted, every=JUDGED_EVERY)


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
