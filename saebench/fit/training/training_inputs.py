"""What a training works with, loaded and checked: model, texts, and the SAE to begin with."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch

from saebench.data.documents import Documents, open_documents
from saebench.data.packed import KEY, RowSource, Supply, refuse_overlap, split_documents
from saebench.data.tokens import TokenSet, take_sequences
from saebench.errors import DataError, OptionError
from saebench.experiments.prepare import chosen_device, demo_documents
from saebench.experiments.texts import check_vocabulary
from saebench.fit.saving import one_sae
from saebench.fit.stream import ActivationStream, RowStream
from saebench.fit.training import IDENTITY, RANDOM, Judging, Objective, TrainJob
from saebench.fit.training.sublayers import ResumedPasses, Sublayers, sublayer_paths
from saebench.fit.training.tasks import StandardTask, Weights, WholeModelTask
from saebench.fit.training.training_sae import begin_from, begin_near_identity, make_sae
from saebench.options import Order, Overrides, Packing
from saebench.subjects.hooks import Site, find_site
from saebench.subjects.host import Host
from saebench.subjects.host_loading import load_host, patch_file
from saebench.subjects.loading import load_subject
from saebench.subjects.sae import Subject

VALIDATION_ROWS = 32
DEAD_AFTER_TOKENS = 1_000_000  # or a tenth of the training
PIECE = 128  # tokens of a document that are looked for together: shorter ones recur by chance


@dataclass(frozen=True)
class Prepared:
    """What a training works with.

    Attributes:
        host: the model.
        site: the SAE's place in it.
        rows: the token rows to train on.
        supply: how many there are.
        task: the SAE and its loss.
        stream: batches of rows, or of activations.
        begun_from: the SAE's initialisation, for the record.
        sublayers: the half-layers that are trained too, if any.
    """

    host: Host
    site: Site
    rows: RowSource
    supply: Supply
    task: StandardTask | WholeModelTask
    stream: RowStream | ActivationStream
    begun_from: str
    sublayers: Sublayers | None


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


def with_context_of(job: TrainJob, host: Host) -> TrainJob:
    """Return the training in rows no longer than the model takes."""
    return replace(job, context=min(job.context, host.context or job.context))


def prepare_training(job: TrainJob, host: Host) -> Prepared:
    """Return what a training works with.

    Args:
        job: the training, its context one that the model takes.
        host: the model.

    Raises:
        UsageError: for anything that cannot be done as given.
    """
    site = find_site(host, job.hook)
    texts = _rows(job, host)
    validation_tokens = VALIDATION_ROWS * (job.context - 1)
    supply = texts.survey(job.tokens, passes=job.max_passes, held=validation_tokens)
    check_vocabulary(host, supply.largest, of=texts.documents.name)
    # Validation rows are not trained on, where there is more than one row.
    rows = texts.between(supply.held, supply.rows)
    validation = texts.between(0, supply.held or None)
    sae, begun_from = _begun(job, host, site)
    sae = sae.to(host.device)
    if job.objective is Objective.STANDARD:
        stream, apart = (_activations(job, host, site, some) for some in (rows, validation))
        first = apart.first(VALIDATION_ROWS * job.context)
        task = StandardTask(sae, first, weights=_weights(job))
        return Prepared(host, site, rows, supply, task, stream, begun_from, None)
    sublayers = None
    if job.objective.trains_sublayers:
        sublayers = Sublayers(host, sublayer_paths(host, job.hook, sides=job.half_layers))
    task = _whole_model_task(job, sae, host, site, validation, sublayers)
    stream = RowStream(rows, batch_rows=job.batch_rows, seed=job.seed)
    return Prepared(host, site, rows, supply, task, stream, begun_from, sublayers)


def _whole_model_task(
    job: TrainJob,
    sae: Any,
    host: Host,
    site: Site,
    validation: RowSource,
    sublayers: Sublayers | None,
) -> WholeModelTask:
    return WholeModelTask(
        sae,
        ResumedPasses(host, site, sublayers=sublayers, checkpointing=job.checkpointing),
        objective=job.objective,
        loss=job.loss,
        validation=torch.tensor(list(islice(validation.once(), VALIDATION_ROWS))),
        weights=_weights(job),
        sublayers=sublayers,
    )


def _rows(job: TrainJob, host: Host) -> RowSource:
    bos = host.tokenizer.bos_token_id
    return RowSource(texts_of(job)[0], host.tokenizer, job.context, bos, host.special_ids)


def _activations(job: TrainJob, host: Host, site: Site, rows: RowSource) -> ActivationStream:
    batch_tokens = job.batch_rows * (job.context - 1)
    return ActivationStream(host, site, rows, batch_tokens=batch_tokens, seed=job.seed)


def _weights(job: TrainJob) -> Weights:
    return Weights(
        job.sparsity.coefficient(job.objective), job.warm_up_tokens, job.without_sae,
        dead_after_tokens=min(DEAD_AFTER_TOKENS, max(1, job.tokens // 10)),
    )  # fmt: skip


def _begun(job: TrainJob, host: Host, site: Site) -> tuple[Any, str]:
    """Return the SAE to train, and its initialisation for the record."""
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
    reference = one_sae(spec, option="--init ")
    subject = load_subject(reference, overrides=Overrides(), device="cpu")
    if subject.metadata.hook != hook:
        raise OptionError(f"--init {spec}: belongs to {subject.metadata.hook}, not to {hook}")
    if patch_file(reference.directory) is not None:
        raise OptionError(f"--init {spec}: was trained with a patched model; give another SAE")
    return subject


def texts_of(job: TrainJob) -> tuple[Documents, Documents | None]:
    """Return the texts to train on, and those that are left out to be judged on, if any.

    Raises:
        DataError: where none are named.
    """
    if job.dataset is None:
        if not job.is_demo:
            raise DataError("no texts to train on; give a file or a data set: --dataset PATH|NAME")
        return demo_documents("sae"), demo_documents("heldout")
    every = open_documents(job.dataset)
    return split_documents(every, every=job.holdout_every) if job.holdout_every else (every, None)


def judged_texts(how: Judging, job: TrainJob) -> Documents:
    """Return the texts that a training's SAE is judged on.

    Raises:
        DataError: where they cannot be opened.
    """
    documents = texts_of(job)[1] if how.dataset is None else open_documents(how.dataset)
    assert documents is not None
    return documents


def refuse_judging_on_training(job: TrainJob, how: Judging, host: Host, judged: Documents) -> None:
    """Refuse to judge on texts that are trained on.

    Args:
        job: the training, with all the tokens that it takes.
        how: the SAE is judged.
        host: the model.
        judged: the texts.

    Raises:
        DataError: naming documents that contain a judged sequence, or a judged document's part;
            where there are too few texts.
    """
    rows = _rows(with_context_of(job, host), host)
    supply = rows.survey(job.tokens, passes=job.max_passes)
    judged = judged.in_order(Order.SEEDED, seed=job.seed)  # as the judging takes them
    tokens = take_sequences(
        judged, host.tokenizer, sequences=how.sequences, context=rows.context, prepend_bos=True,
        special_ids=host.special_ids, packing=how.packing,
    )  # fmt: skip
    sequences = tokens.ids.tolist()
    if how.packing is Packing.PACKED:
        begin = [] if rows.bos is None else [rows.bos]
        sequences = [begin + piece for piece in _pieces(judged, host.tokenizer, tokens)]
    refuse_overlap(rows, sequences, judged=judged.name, limit=supply.rows * rows.context)


def _pieces(documents: Documents, tokenizer: Any, tokens: TokenSet) -> Iterator[list[int]]:
    """Give the parts of the documents that packed sequences were cut from.

    A packed sequence may span two documents, and then lies in neither.
    """
    for text in islice(documents.read(), tokens.documents_read):
        ids = tokenizer(text or "", add_special_tokens=False, verbose=False)["input_ids"]
        if KEY <= len(ids) < PIECE:
            yield ids
        yield from (ids[at : at + PIECE] for at in range(0, len(ids) - PIECE + 1, PIECE))
