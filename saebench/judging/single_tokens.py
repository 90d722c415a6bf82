"""SAEs on single tokens of the sequences."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from saebench.errors import NotApplicable
from saebench.judging.progress import ProgressBar
from saebench.properties.base import ManyDraws, OneToken
from saebench.substitution.draws import DrawsEngine
from saebench.substitution.single import SingleEngine

if TYPE_CHECKING:
    from saebench.judging.bench import Bench, Wanted


def measure_tokens(
    bench: "Bench",
    source: OneToken | ManyDraws,
    wanted: "Wanted",
    *,
    label: str,
    progress: ProgressBar,
) -> dict[str, Any]:
    """Return each SAE's measurement by id; NotApplicable for transcoders.

    Args:
        bench: of the SAEs.
        source: which tokens.
        wanted: the SAEs, each with the interventions it needs.
        label: what the progress bar says.
        progress: makes a progress bar.
    """
    elsewhere = _transcoders(wanted)
    plain = [(s, names) for s, names in wanted if s.id not in elsewhere]
    if not plain:
        return dict(elsewhere)
    size, subjects = bench.settings.batch_size, [subject for subject, _ in plain]
    tokens = bench.part(bench.tokens).ids
    try:
        if isinstance(source, OneToken):
            engine = SingleEngine(bench.places, batch_size=size)
            total = len(tokens) * (1 + source.offsets)
            with progress(f"{label}, token {source.position}", total) as advance:
                found = dict(engine.measure(plain, **asdict(source), progress=advance))
        else:
            engine = DrawsEngine(bench.places, batch_size=size)
            total = min(len(tokens), source.sequences) * source.draws * len(subjects)
            with progress(f"{label}, {source.draws} draws", total) as advance:
                found = dict(engine.measure(subjects, **asdict(source), progress=advance))
    except NotApplicable as error:
        return dict.fromkeys((subject.id for subject in subjects), error) | elsewhere
    bench.count_cost(str(source), plain, engine.stages, tokens=tokens)
    return found | elsewhere


def _transcoders(wanted: "Wanted") -> dict[str, NotApplicable]:
    """Say of each transcoder why it cannot be measured on single tokens."""
    return {
        s.id: NotApplicable(
            f"single tokens: {s.id} is a transcoder, which reads at {s.metadata.input_hook}; "
            "only what is put where it reads is measured so"
        )
        for s, _ in wanted
        if s.metadata.input_hook is not None
    }
