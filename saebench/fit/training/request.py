"""What a training is asked to do, and what of it cannot be."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from saebench.data.documents import Documents, open_documents
from saebench.data.packed import KEY, RowSource, refuse_overlap, split_documents
from saebench.data.tokens import TokenSet, take_sequences
from saebench.errors import DataError, OptionError
from saebench.experiments.prepare import demo_documents
from saebench.fit.plan import Plan
from saebench.fit.training.objectives import Loss, Objective, Sparsity
from saebench.fit.training.sublayers import SIDES
from saebench.options import Packing, Settings
from saebench.subjects.host import Host

IDENTITY, RANDOM = "identity", "random"
CLIP = 1.0


@dataclass(frozen=True)
class TrainJob:
    """What a training was asked to do.

    Attributes:
        objective: what is made smaller.
        hook: where the SAE belongs.
        out: the directory to write.
        sparsity: what keeps the features few.
        loss: how the whole model's output is held to account.
        model: a directory or name; ``demo`` is the embedded one.
        dataset: the texts; None takes the demo's own.
        keep_apart: one document in so many is not trained on, to be judged on; 0 trains on all.
        judged: texts that it is to be judged on; refused where the training's hold any of them.
        expansion: features for each component of the activation.
        tokens: to train on, at most.
        init: an SAE's SPEC, ``identity`` or ``random``; None trains a standard SAE first, where
            the objective is another.
        init_tokens: to train that one on; None takes ``tokens``.
        half_layers: the sides that are trained too, in intrusive objectives.
        context: tokens in a row.
        batch_rows: rows in a step.
        max_passes: how often the texts are gone through, at most.
        learning_rate: of AdamW.
        warm_up: share of the tokens over which it, and the L1 coefficient, rise.
        weight_decay: AdamW's.
        clip: the largest norm of a gradient; 0 leaves them.
        without_sae: weight of the changed model's own loss, for non-intrusive.
        tolerance: less gain than this share over ``patience`` checks ends it; 0 never.
        patience: in checks, of which there are twenty or more.
        checkpointing: keep only the later blocks' inputs for the way back; None decides by size.
        seed: of weights and shuffling.
        device: ``auto``, or a torch device.
        dtype: of the model.
        tensorboard: a directory to log to, or None.
        force: replace ``out``, and begin anew where a checkpoint is.
        resume: go on from the checkpoint.
        keep_rate: not with another learning rate.
    """

    objective: Objective
    hook: str
    out: Path
    sparsity: Sparsity
    loss: Loss = Loss.KL
    model: str = "demo"
    dataset: str | None = None
    keep_apart: int = 0
    judged: str | None = None
    expansion: int = 8
    tokens: int = 2_000_000
    init: str | None = None
    init_tokens: int | None = None
    half_layers: tuple[str, ...] = SIDES
    context: int = 128
    batch_rows: int = 16
    max_passes: int = 50
    learning_rate: float = 1e-3
    warm_up: float = 0.05
    weight_decay: float = 0.0
    clip: float = CLIP
    without_sae: float = 1.0
    tolerance: float = 0.0
    patience: int = 5
    checkpointing: bool | None = None
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    tensorboard: Path | None = None
    force: bool = False
    resume: bool = False
    keep_rate: bool = False

    def __post_init__(self) -> None:
        """Refuse values that no training can have.

        Raises:
            OptionError: naming the option.
        """
        _refuse_too_small(self)
        if not 0 < self.learning_rate < float("inf"):
            raise OptionError(f"--learning-rate must be above 0, found {self.learning_rate}")
        for name in ("warm_up", "tolerance"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(
                    f"{_option(name)} must be a share, 0 to 1, found {getattr(self, name)}"
                )
        for name in ("weight_decay", "clip", "without_sae"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise OptionError(f"{_option(name)} must be 0 or more, found {getattr(self, name)}")
        if not 0 <= self.seed < 1 << 31:
            raise OptionError(f"--seed must be 0 to {(1 << 31) - 1}, found {self.seed}")
        if self.resume and self.force:
            raise OptionError("--resume goes on, --force starts anew: give one of the two")

    @property
    def settings(self) -> Settings:
        """What of it the gate knows too."""
        return Settings(device=self.device, dtype=self.dtype)

    @property
    def is_demo(self) -> bool:
        """True where the embedded model is trained on."""
        return self.model == "demo"

    @property
    def trains_first(self) -> bool:
        """True where a standard SAE is to be trained to begin with."""
        return self.init is None and self.objective.is_whole_model

    def plan(self, *, diverges_from: float) -> Plan:
        """Return how it is fitted: twenty checks, or more where the tokens are many."""
        row = self.batch_rows * (self.context - 1)
        return Plan(
            self.tokens,
            self.learning_rate,
            min(1_000_000, max(row, self.tokens // 20)),
            patience=self.patience,
            tolerance=self.tolerance,
            warm_up_tokens=int(self.warm_up * self.tokens),
            clip=(self.clip or None) if self.objective.is_whole_model else None,
            weight_decay=self.weight_decay,
            diverges_from=diverges_from,
        )

    def identity(self) -> dict[str, Any]:
        """Return what a checkpoint must have been begun with; a rate may be lowered by hand."""
        names = ("hook", "expansion", "tokens", "context", "batch_rows",
                 "warm_up", "weight_decay", "clip", "without_sae", "tolerance", "patience",
                 "seed", "dtype", *(("learning_rate",) if self.keep_rate else ()))  # fmt: skip
        return {name: getattr(self, name) for name in names} | {
            "objective": self.objective.value,
            "loss": self.loss.value,
            "sparsity": str(self.sparsity),
            "half layers": list(self.half_layers) if self.objective.trains_halves else [],
        }


def _refuse_too_small(job: TrainJob) -> None:
    for name in ("tokens", "expansion", "batch_rows", "max_passes", "patience", "init_tokens"):
        value = getattr(job, name)
        if value is not None and value < 1:
            raise OptionError(f"{_option(name)} must be 1 or more, found {value}")
    if job.context < 3:
        raise OptionError(f"--context must be 3 or more, found {job.context}")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


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
