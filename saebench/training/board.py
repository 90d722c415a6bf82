"""TensorBoard, where it is asked for and installed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from saebench.errors import OptionError
from saebench.fitting.loop import Check

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
