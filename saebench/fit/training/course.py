"""How a training went: what its checks found, and which features came alive."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from saebench.data.packed import RowSource, Supply
from saebench.errors import OptionError
from saebench.fit.loop import Check, State
from saebench.formats.saelens import inference_sae
from saebench.records.training import TrainingCheck, TrainingCourse
from saebench.store.atomic import write_file

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


EXTRA = "pip install 'pytest-saebench[tensorboard]'"


def check_board(directory: Path | None) -> None:
    """Refuse, before anything is loaded, to log where that cannot be done.

    Raises:
        OptionError: where tensorboard is not installed, or the directory is a file.
    """
    if directory is None:
        return
    if find_spec("tensorboard") is None:
        raise OptionError(f"--tensorboard {directory}: tensorboard is not installed: {EXTRA}")
    if directory.exists() and not directory.is_dir():
        raise OptionError(f"--tensorboard {directory}: is a file; give a directory")


@contextmanager
def logged(directory: Path | None, name: str) -> Iterator[Callable[[Check], object]]:
    """Give what logs a check; nothing is logged without a directory.

    Args:
        directory: of all trainings' logs.
        name: of this training's, in it.
    """
    if directory is None:
        yield lambda _: None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(directory / name)) as writer:

        def write(check: Check) -> None:
            if check.loss is not None:
                writer.add_scalar("loss", check.loss, check.tokens)
            writer.add_scalar("check", check.check, check.tokens)
            writer.flush()

        yield write


RECORD_FILE, LOG_FILE = "training.json", "log.csv"


def save_trained(sae: Any, directory: Path, *, recipe: dict[str, Any]) -> Any:
    """Write the inference form as SAELens does, the recipe in its metadata.

    Args:
        sae: the training SAE.
        directory: an empty one.
        recipe: of the training.

    Returns:
        The inference form.
    """
    found = inference_sae(sae.to("cpu"))
    found.cfg.metadata.training = recipe
    found.save_model(directory)
    return found


def write_log(checks: tuple[TrainingCheck, ...], directory: Path) -> None:
    """Write what each check found as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("tokens", "loss", "check"))
    writer.writerows((c.tokens, "" if c.loss is None else c.loss, c.check) for c in checks)
    write_file(directory / LOG_FILE, text.getvalue().encode())
