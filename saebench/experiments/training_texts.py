"""The texts that SAEs were trained on, and how many judged sequences occur in them."""

import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from saebench.data.documents import Documents, open_documents
from saebench.data.packed import RowSource
from saebench.data.training_overlap import MOST_TOKENS, occurrence
from saebench.errors import DataError
from saebench.experiments.bench import Bench
from saebench.options import Settings
from saebench.progress import ProgressBar
from saebench.records.inputs import TrainingOverlap
from saebench.subjects.sae import Subject

OPTION = "--sae-trained-on"
LABEL = "judged texts in the training texts"


def measure_overlaps(benches: Iterable[Bench], *, progress: ProgressBar) -> None:
    """Measure how many of each bench's sequences occur in the texts that its SAEs were trained on.

    These are the texts of ``--sae-trained-on``; else those that an SAE's metadata names, where
    they are a file or directory on this machine, or of the data set that is judged on. Where the
    judged texts have the name of the training's and these cannot be read, that is recorded.

    Raises:
        DataError: for texts of ``--sae-trained-on`` that cannot be read.
    """
    for bench in benches:
        known: dict[tuple[str, ...], TrainingOverlap | None] = {}
        for subject in bench.subjects:
            specs = bench.settings.trained_on or tuple(_named(subject))
            if specs not in known:
                known[specs] = _overlap(bench, specs, progress)
            overlap = known[specs]
            if overlap is not None:
                bench.overlaps[subject.id] = overlap


def _named(subject: Subject) -> Iterator[str]:
    if subject.metadata.dataset_path:
        yield subject.metadata.dataset_path


def _overlap(bench: Bench, specs: tuple[str, ...], progress: ProgressBar) -> TrainingOverlap | None:
    """Return the overlap with texts; None where nothing says which they are."""
    if bench.settings.trained_on:
        # Only paths and names that the user gave may lead anywhere.
        return _measured(bench, [open_documents(spec, option=OPTION) for spec in specs], progress)
    name = "".join(specs)
    spec = _readable(name, bench.settings)
    try:
        if spec is not None:
            return _measured(bench, [open_documents(spec, option="dataset_path")], progress)
    except DataError:
        pass  # what the metadata names cannot be read: said below, where it is about these texts
    judged = bench.texts.documents.name
    if name and name.rsplit("/", 1)[-1] == judged.rsplit("/", 1)[-1]:
        return TrainingOverlap(name, len(bench.tokens.ids))
    return None


def _readable(name: str, settings: Settings) -> str | None:
    """Return the SPEC of the texts that metadata name; None where they are not at hand.

    A name on the hub is read only where it is the data set that is judged on: the user named it.
    """
    if not name:
        return None
    path = Path(os.path.expanduser(name))
    if path.is_file() or path.is_dir():
        return name
    source, *rest = (settings.dataset or "").split(":")
    if source != name:
        return None
    return ":".join([name, *rest[:-1], "train"])


def _measured(bench: Bench, texts: list[Documents], progress: ProgressBar) -> TrainingOverlap:
    tokens = bench.tokens
    sequences = tokens.ids[:, int(bench.bos is not None) :].numpy()
    sources = [
        RowSource(each, bench.host.tokenizer, tokens.ids.shape[1], None, frozenset())
        for each in texts
    ]
    with progress(LABEL, MOST_TOKENS) as advance:
        found = occurrence(
            sequences,
            chain.from_iterable(source.tokenised() for source in sources),
            gram=tokens.gram,
            limit=MOST_TOKENS,
            advance=advance,
        )
    name = ", ".join(each.name for each in texts)
    return TrainingOverlap(name, len(sequences), found.found, found.tokens, found.complete)
