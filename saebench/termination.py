"""SIGTERM during a run: the run ends as after Ctrl-C, with what it has judged so far."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM."""


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Raise :class:`Terminated` at the first SIGTERM; a second one ends the process at once.

    A handler that somebody else has set stays, and so does everything outside the main thread,
    where none can be set.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except Terminated as error:
        # Raised anew: the traceback may begin at an instruction without a line (CPython 3.11),
        # which pytest cannot show.
        raise Terminated(*error.args) from None
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise Terminated("SIGTERM: this run was asked to end")
