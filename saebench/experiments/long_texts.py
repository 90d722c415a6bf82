"""SAEs beyond their training context."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from saebench.errors import NotApplicable
from saebench.experiments.base import LONG
from saebench.progress import ProgressBar
from saebench.subjects.sae import Subject

if TYPE_CHECKING:
    from saebench.experiments.bench import Bench, Wanted


def measure_long(
    bench: "Bench", wanted: "Wanted", *, label: str, progress: ProgressBar
) -> dict[str, Any]:
    """Return each SAE's measurement by id, those of one training context measured together.

    Args:
        bench: of the SAEs.
        wanted: the SAEs, each with the interventions it needs.
        label: what the progress bar says.
        progress: makes a progress bar.
    """
    found: dict[str, Any] = {}
    together: dict[int, list[tuple[Subject, Sequence[str]]]] = {}
    for subject, names in wanted:
        try:
            context = bench.readings.long(subject).ids.shape[1]
        except NotApplicable as error:
            found[subject.id] = error
        else:
            together.setdefault(context, []).append((subject, names))
    for context, some in together.items():
        tokens = bench.readings.long(some[0][0])
        bench.data[f"{LONG}/{context}"] = bench.readings.record(tokens)
        edges = {s.id: bin_edges(s.metadata.training_context or 1, context) for s, _ in some}
        engine = bench.engine(tokens)
        with progress(f"{label}, {context} tokens", engine.tokens.ids.numel()) as advance:
            found |= engine.measure(some, progress=advance, edges=edges)
        bench.count_cost(LONG, some, engine.stages, tokens=engine.tokens.ids)
    return found


FARTHEST = 8  # times the training context


def bin_edges(training_context: int, context: int) -> tuple[int, ...]:
    """Return the edges 0, C, 2C, 4C, 8C, cut at the evaluated context.

    Example:
        >>> bin_edges(64, 256)
        (0, 64, 128, 256)
    """
    doubling = [training_context * 2**i for i in range(FARTHEST.bit_length())]
    # A last bin of one position would have nothing to predict.
    return (0, *(edge for edge in doubling if edge < context - 1), context)
