"""The progress bar of a measurement."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from tqdm import tqdm

from saebench.text import plain_text

ProgressBar = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]
"""Returns a bar from a label and a number of tokens; entered, it gives what advances it."""


FORMAT = (
    "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} tokens, {rate_fmt}, {remaining} left"
)


@contextmanager
def progress_bar(what: str, tokens: int) -> Iterator[Callable[[int], object]]:
    """Show tokens done, tokens a second and time left; nothing where stderr is no terminal.

    Example:
        >>> with progress_bar("an SAE", 10) as advance:
        ...     _ = advance(10)
    """
    with tqdm(
        total=tokens, desc=plain_text(what), unit=" tokens", unit_scale=True, disable=None,
        leave=False, bar_format=FORMAT,
    ) as bar:  # fmt: skip
        yield bar.update


@contextmanager
def no_progress(what: str, tokens: int) -> Iterator[Callable[[int], object]]:  # noqa: ARG001
    """Show nothing, for a measurement that is over at once."""
    yield lambda _: None
