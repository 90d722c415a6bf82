"""Series of a run: a result file may hold them in any shape."""

from collections.abc import Iterator
from contextlib import contextmanager

from saebench.errors import StoreError

MISSHAPEN = (
    KeyError, TypeError, IndexError, AttributeError, ValueError, ArithmeticError, StopIteration,
)  # fmt: skip


@contextmanager
def reading_series(what: str) -> Iterator[None]:
    """Turn what series of another shape lead to into an error that says so.

    Verdicts, metrics and gates are typed and checked when a file is read; series are whatever a
    property wrote for its figures.

    Args:
        what: is made of them.

    Raises:
        StoreError: naming it.
    """
    try:
        yield
    except MISSHAPEN as error:
        raise StoreError(
            f"{what}: the run's series have another shape than saebench gives them ({error!r}); "
            "was the result file altered?"
        ) from error
