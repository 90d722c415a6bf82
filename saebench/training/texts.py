"""The texts of a training, and those that it is judged on: none may be among both."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from saebench.data.documents import Documents, open_documents
from saebench.data.names import Packing
from saebench.data.packed import KEY, RowSource, refuse_overlap, split_documents
from saebench.data.tokens import TokenSet, take_sequences
from saebench.errors import DataError
from saebench.judging.preparation import demo_documents
from saebench.subjects.host import Host
from saebench.training.request import TrainJob

PIECE = 128  # tokens of a document that are looked for together: shorter ones recur by chance


@dataclass(frozen=True)
class Judging:
    """How an SAE is judged.

    Attributes:
        dataset: the texts; None takes those that were kept apart from the training's.
        sequences: how many.
        packing: how documents become them.
        seed: of the gate's noise.
    """

    dataset: str | None = None
    sequences: int = 256
    packing: Packing = Packing.DOCUMENTS
    seed: int = 0


def texts_of(job: TrainJob) -> tuple[Documents, Documents | None]:
    """Return the texts to train on, and those that are kept apart for judging, if any.

    Raises:
        DataError: where none are named.
    """
    if job.dataset is None:
        if not job.is_demo:
            raise DataError("no texts to train on; give a file or a data set: --dataset PATH|NAME")
        return demo_documents("sae"), demo_documents("heldout")
    found = open_documents(job.dataset)
    return split_documents(found, every=job.keep_apart) if job.keep_apart else (found, None)


def judged_texts(how: Judging, kept_apart: Documents | None) -> Documents:
    """Return the texts that are judged on.

    Args:
        how: what is judged.
        kept_apart: texts to judge on where ``how`` names none.

    Raises:
        DataError: where they cannot be opened.
    """
    found = kept_apart if how.dataset is None else open_documents(how.dataset)
    assert found is not None
    return found


def keep_apart(job: TrainJob, how: Judging, host: Host, judged: Documents) -> None:
    """Refuse to judge on texts that are trained on.

    Args:
        job: the training, with all the tokens that it takes.
        how: it is judged.
        host: the model.
        judged: the texts.

    Raises:
        DataError: naming documents that hold a judged sequence, or a judged document's part;
            where there are too few texts.
    """
    context, bos = min(job.context, host.context or job.context), host.tokenizer.bos_token_id
    rows = RowSource(texts_of(job)[0], host.tokenizer, context, bos, host.special_ids)
    supply = rows.survey(job.tokens, passes=job.max_passes)
    tokens = take_sequences(
        judged, host.tokenizer, sequences=how.sequences, context=context, prepend_bos=True,
        special_ids=host.special_ids, packing=how.packing,
    )  # fmt: skip
    sequences = tokens.ids.tolist()
    if how.packing is Packing.PACKED:
        begin = [] if bos is None else [bos]
        sequences = [begin + piece for piece in _pieces(judged, host.tokenizer, tokens)]
    refuse_overlap(rows, sequences, judged=judged.name, limit=supply.rows * context)


def _pieces(documents: Documents, tokenizer: Any, tokens: TokenSet) -> Iterator[list[int]]:
    """Give the parts of the documents that packed sequences were cut from.

    A packed sequence may reach over two documents, and then lies in no document.
    """
    for text in islice(documents.read(), tokens.documents_read):
        ids = tokenizer(text or "", add_special_tokens=False, verbose=False)["input_ids"]
        if KEY <= len(ids) < PIECE:
            yield ids
        yield from (ids[at : at + PIECE] for at in range(0, len(ids) - PIECE + 1, PIECE))
