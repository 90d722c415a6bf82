"""How a training went: what its checks found, and which features came alive."""

from collections.abc import Iterable
from dataclasses import asdict

from torch import Tensor

from saebench.data.packed import RowSource, Supply
from saebench.fitting.loop import State
from saebench.trainings import TrainingCheck, TrainingCourse

MOSTLY_DEAD = 0.5


def course_of(
    state: State,
    features: Iterable[Tensor],
    *,
    rows: RowSource,
    supply: Supply,
    duration_s: float,
    host_moved: float | None,
) -> TrainingCourse:
    """Return the course of a fit that has ended.

    Args:
        state: the fit's last.
        features: of held tokens, some at a time.
        rows: what was trained on.
        supply: how much of it there is.
        duration_s: how long it took.
        host_moved: how far the half-layers moved, where any were trained.
    """
    dead, l0, tokens = _activity(features)
    return TrainingCourse(
        tokens=state.tokens,
        converged=state.converged,
        duration_s=duration_s,
        texts=rows.documents.name,
        texts_fingerprint=supply.fingerprint,
        texts_tokens=supply.tokens,
        passes=state.tokens / supply.tokens,
        dead=dead,
        dead_of=tokens,
        l0=l0,
        host_moved=host_moved,
        checks=tuple(TrainingCheck(**asdict(check)) for check in state.checks),
    )


def _activity(batches: Iterable[Tensor]) -> tuple[int, float, int]:
    """Return how many features never fire, how many fire at a token, and of how many tokens."""
    fired, tokens = None, 0
    for features in batches:
        here = features.ne(0).sum(dim=0)
        fired = here if fired is None else fired + here
        tokens += len(features)
    assert fired is not None
    return int((fired == 0).sum()), float(fired.sum()) / tokens, tokens


def notes_on(course: TrainingCourse, *, features: int) -> tuple[str, ...]:
    """Say what the user should know: that most features are dead."""
    if course.dead <= MOSTLY_DEAD * features:
        return ()
    return (
        f"{course.dead:,} of {features:,} features ({course.dead / features:.0%}) are dead on "
        f"{course.dead_of:,} tokens; a weaker --sparsity or more --tokens would leave more alive",
    )
