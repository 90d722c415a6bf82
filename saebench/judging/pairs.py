"""Pairs of SAEs of one bench: which can be measured, and their measurements."""

from collections.abc import Iterable, Mapping, Sequence

from saebench.data.tokens import TokenSet
from saebench.errors import NotApplicable
from saebench.judging.cases import joined
from saebench.judging.progress import ProgressBar
from saebench.measures.stages import Stages
from saebench.settings import Settings
from saebench.subjects.depth import depth
from saebench.subjects.host import Host
from saebench.subjects.sae import Subject
from saebench.substitution.measurement import PairMeasurement
from saebench.substitution.propagation import PairEngine


def measure_pairs(
    host: Host,
    tokens: TokenSet,
    pairs: Iterable[Sequence[Subject]],
    *,
    settings: Settings,
    progress: ProgressBar,
) -> tuple[Mapping[str, PairMeasurement | NotApplicable], Stages | None]:
    """Return each pair's measurement by its joined name, and where the time went.

    It is NotApplicable where the two are no pair; of none that are, no time went anywhere.

    Args:
        host: the model.
        tokens: the sequences.
        pairs: SAEs, the first before the second in the model, or one that is in no pair.
        settings: the run's.
        progress: makes a progress bar.
    """
    found: dict[str, PairMeasurement | NotApplicable] = {}
    fit: list[tuple[Subject, Subject]] = []
    for pair in pairs:
        reason = _no_pair(pair)
        if reason:
            found[joined([subject.id for subject in pair])] = NotApplicable(reason)
        else:
            fit.append((pair[0], pair[1]))
    if not fit:
        return found, None
    engine = PairEngine(host, tokens, seed=settings.seed, batch_size=settings.batch_size)
    with progress(f"{len(fit)} pairs of SAEs on {host.name}", tokens.ids.numel()) as advance:
        made = engine.measure(fit, progress=advance)
    named = {joined(ids): measurement for ids, measurement in made.items()}
    return found | named, engine.stages


def _no_pair(subjects: Sequence[Subject]) -> str | None:
    """Say why these SAEs are no pair of which the first lies before the second."""
    if len(subjects) < 2:
        return (
            f"propagation: {subjects[0].id} is alone at its place in the model; "
            "give an SAE of another layer of the same model too: --sae SPEC"
        )
    for subject in subjects:
        if subject.metadata.input_hook is not None:
            return (
                f"propagation: {subject.id} is a transcoder, which reads elsewhere than it writes"
            )
    places = [depth(subject.metadata.hook) for subject in subjects]
    if places[0] is not None and places[1] is not None and places[0] >= places[1]:
        one, two = (f"{s.id} ({s.metadata.hook})" for s in subjects)
        return f"propagation: {one} does not lie before {two}; give them in that order: --sae SPEC"
    return None
