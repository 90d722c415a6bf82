"""States that merge: each field of a measurement declares how the values of its parts become one.

As torchmetrics' ``add_state(..., dist_reduce_fx=…)`` does, so that a run that was cut into shards,
or stopped early, is put together by what the measurement itself declares.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, field, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
from scipy.sparse import csr_array, vstack

Merge = Callable[[Sequence[Any]], Any]
MERGE, SENT = "merge", "sent"


def first(values: Sequence[Any]) -> Any:
    """Keep the first part's value: it is the same in all of them."""
    return values[0]


def total(values: Sequence[Any]) -> Any:
    """Add numbers, or arrays, in the parts' order."""
    return sum(values[1:], values[0])


def concatenated(values: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Put arrays of rows one behind the other; None where a part has none."""
    arrays = [each for each in values if each is not None]
    return np.concatenate(arrays) if len(arrays) == len(values) else None


def concatenated_if_any(values: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Put the arrays that there are one behind the other; None where no part has one."""
    arrays = [each for each in values if each is not None]
    return np.concatenate(arrays) if arrays else None


def stacked(values: Sequence[csr_array | None]) -> csr_array | None:
    """Stack sparse rows; None where there are none."""
    return None if values[0] is None else csr_array(vstack(values))


def one_path(values: Sequence[str]) -> str:
    """Say how the model was run: ``full`` where the parts differ."""
    paths = set(values)
    return paths.pop() if len(paths) == 1 else "full"


def merged(values: Sequence[Any]) -> Any:
    """Merge the states that there are; None where no part has one."""
    states = [each for each in values if each is not None]
    return type(states[0]).merged(states) if states else None


def state(
    merge: Merge = first,
    *,
    default: Any = MISSING,
    factory: Any = MISSING,
    sent: bool = True,
) -> Any:
    """Declare a field of a :class:`State`.

    Args:
        merge: makes one value of those of consecutive parts, given in their order.
        default: of the field.
        factory: makes its default.
        sent: False for what cannot leave the process; there it has its default again.
    """
    metadata = {MERGE: merge, SENT: sent}
    if factory is not MISSING:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


class State:
    """A measurement, or a part of one: it merges with those of other parts of the same run.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Count(State):
        ...     n: int = state(total)
        >>> Count.merged([Count(2), Count(3)])
        Count(n=5)
    """

    CLASSES: ClassVar[dict[str, type["State"]]] = {}

    def __init_subclass__(cls) -> None:
        """Enter the class among those that may be read from bytes."""
        State.CLASSES[cls.__name__] = cls

    @classmethod
    def merged(cls, parts: Sequence[Any]) -> Self:
        """Return the state of consecutive parts together, given in their order."""
        whole: Any = parts[0]
        values = {
            each.name: each.metadata.get(MERGE, first)([getattr(p, each.name) for p in parts])
            for each in fields(whole)
        }
        return replace(whole, **values)

    def finished(self) -> Self:
        """Return the state once all parts are in it: what needs the whole run is computed."""
        return self


def finished(measurement: Any) -> Any:
    """Return a measurement once all parts are in it; what is no state is so from the start."""
    return measurement.finished() if isinstance(measurement, State) else measurement


def sent_fields(value: Any) -> Mapping[str, Any]:
    """Return the fields of a dataclass that leave the process, with their values."""
    return {f.name: getattr(value, f.name) for f in fields(value) if f.metadata.get(SENT, True)}
