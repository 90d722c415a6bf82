"""Mergeable states: each field of a measurement declares how the values of its parts are merged.

This follows torchmetrics' ``add_state(..., dist_reduce_fx=…)``: shards, and the rounds of a run
that may stop early, are merged as the measurement's own fields declare.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
from scipy.sparse import csr_array, vstack

Merge = Callable[[Sequence[Any]], Any]
MERGE, SENT = "merge", "sent"


def first(values: Sequence[Any]) -> Any:
    """Return the first part's value: it is the same in all parts."""
    return values[0]


def total(values: Sequence[Any]) -> Any:
    """Return the sum of numbers or arrays, added in the parts' order."""
    return sum(values[1:], values[0])


def concatenated(values: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Concatenate arrays of rows; None if any part has none."""
    arrays = [each for each in values if each is not None]
    return np.concatenate(arrays) if len(arrays) == len(values) else None


def concatenated_if_any(values: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Concatenate the arrays of the parts that have one; None if no part does."""
    arrays = [each for each in values if each is not None]
    return np.concatenate(arrays) if arrays else None


def stacked(values: Sequence[csr_array | None]) -> csr_array | None:
    """Stack sparse rows; None if the parts have none."""
    return None if values[0] is None else csr_array(vstack(values))


def one_path(values: Sequence[str]) -> str:
    """Return how the model was run; ``full`` if the parts differ."""
    paths = set(values)
    return paths.pop() if len(paths) == 1 else "full"


def merged(values: Sequence[Any]) -> Any:
    """Merge the states of the parts that have one; None if no part does."""
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
        merge: merges the values of consecutive parts, given in their order.
        default: the field's default.
        factory: a function that returns the field's default.
        sent: False for a value that cannot be sent to another process, which gets the default.
    """
    metadata = {MERGE: merge, SENT: sent}
    if factory is not MISSING:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


class State:
    """A measurement, or a part of one that can be merged with the other parts of the same run.

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
        """Register the class as one that may be decoded from bytes."""
        State.CLASSES[cls.__name__] = cls

    @classmethod
    def merged(cls, parts: Sequence[Any]) -> Self:
        """Return the merged state of consecutive parts, given in their order."""
        first_part: Any = parts[0]
        values = {
            each.name: each.metadata.get(MERGE, first)([getattr(p, each.name) for p in parts])
            for each in fields(first_part)
        }
        return replace(first_part, **values)

    def finished(self) -> Self:
        """Compute what needs the whole run; called once all parts are merged."""
        return self

    def check(self) -> None:
        """Refuse a measurement that no property of it may be judged by; by default none.

        Raises:
            MeasurementError: naming what is wrong with the SAE.
        """


def _common_others(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the other SAEs' measurements that every part has."""
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: merged([part[name] for part in parts]) for name in names}


def _reasons(parts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the first reason given for each name."""
    return {name: why for part in reversed(parts) for name, why in part.items()}


@dataclass(frozen=True)
class WithPeers(State):
    """An SAE's measurement with those of other SAEs on the same tokens.

    Attributes:
        own: the SAE's measurement.
        others: the other SAEs' measurements, by name.
        left_out: for each one without a measurement the reason, by name.
    """

    own: Any = state(merged)
    others: Mapping[str, Any] = state(_common_others, factory=dict)
    left_out: Mapping[str, str] = state(_reasons, factory=dict)

    @property
    def path(self) -> str:
        """How the model was run."""
        return self.own.path

    def finished(self) -> Self:
        """Finish every measurement, once all parts are merged."""
        for each in (self.own, *self.others.values()):
            each.finished()
        return self

    def check(self) -> None:
        """Check the SAE's own measurement: a control may be anything."""
        self.own.check()


def finished(measurement: Any) -> Any:
    """Finish a measurement once all parts are merged; anything but a state is returned as it is."""
    return measurement.finished() if isinstance(measurement, State) else measurement


def sent_fields(value: Any) -> Mapping[str, Any]:
    """Return the fields of a dataclass that are sent to other processes, with their values."""
    return {f.name: getattr(value, f.name) for f in fields(value) if f.metadata.get(SENT, True)}
