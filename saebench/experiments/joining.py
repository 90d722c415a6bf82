"""Measurements of consecutive parts of a run put together: the same as of the whole."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import singledispatch
from typing import Any

import numpy as np
from scipy.sparse import csr_array, vstack

from saebench.errors import MeasurementError, NotApplicable
from saebench.experiments.base import Among
from saebench.experiments.cloze_options import OptionAnswers
from saebench.experiments.cloze_prompts import Answers, ClozeMeasurement
from saebench.experiments.draws import DrawsMeasurement
from saebench.experiments.one_token import EXAMPLES, SingleMeasurement
from saebench.experiments.patched_model import TaxMeasurement
from saebench.measures.sums import TokenSums
from saebench.substitution.measurement import Measurement, PairMeasurement, TokenMeasurement

Found = Mapping[str, Any]


AT_ONCE = 32


class InOrder:
    """Puts a run's parts together as they come, in order, and holds few of them at a time.

    Which parts are added to which is fixed by their number alone: the bits of a sum do not
    depend on when a part came.
    """

    def __init__(self) -> None:
        self._levels: list[list[Found]] = []

    def add(self, part: Found) -> None:
        """Take the next part."""
        level = 0
        while True:
            if level == len(self._levels):
                self._levels.append([])
            self._levels[level].append(part)
            if len(self._levels[level]) < AT_ONCE:
                return
            part, self._levels[level] = joined(self._levels[level]), []
            level += 1

    def whole(self) -> dict[str, Any]:
        """Return each SAE's measurement of the whole run, by id."""
        rest: list[Found] = []
        for level in self._levels:
            rest = [joined([*level, *rest])] if level or rest else []
        return {name: _settled(found) for name, found in rest[0].items()}


def joined(parts: Sequence[Found]) -> dict[str, Any]:
    """Return each SAE's measurement of consecutive parts together, by id.

    An SAE that could not be measured in one part was not measured: its first error is returned.
    Sums are added in the parts' order, so that the same parts always give the same bits.

    Args:
        parts: what was found in each, in the order of their sequences.
    """
    return {name: _of_one([part[name] for part in parts]) for name in parts[0]}


def _settled(found: Any) -> Any:
    if isinstance(found, Among):
        for each in (found.own, *found.others.values()):
            each.settled()
    return found.settled() if isinstance(found, Measurement) else found


def _of_one(found: Sequence[Any]) -> Any:
    for kind in (MeasurementError, NotApplicable):
        errors = [each for each in found if isinstance(each, kind)]
        if errors:
            return errors[0]
    return _together(found[0], found)


@singledispatch
def _together(first: Any, found: Sequence[Any]) -> Any:  # noqa: ARG001
    raise TypeError(f"parts of {type(first).__name__} cannot be put together")


@_together.register
def _(first: Measurement, found: Sequence[Measurement]) -> Measurement:
    return _measurement(first, found)


@_together.register
def _(first: SingleMeasurement, found: Sequence[SingleMeasurement]) -> SingleMeasurement:
    return replace(
        _measurement(first, found),
        left_out=sum(each.left_out for each in found),
        examples=_examples(found),
    )


@_together.register
def _(first: DrawsMeasurement, found: Sequence[DrawsMeasurement]) -> DrawsMeasurement:
    return replace(
        first,
        sequences=sum(each.sequences for each in found),
        sequence=np.concatenate([each.sequence for each in found]),
        sae=np.concatenate([each.sae for each in found]),
        draws=np.concatenate([each.draws for each in found]),
        path=_path(found),
        clusters=_clusters(found),
    )


@_together.register
def _(first: PairMeasurement, found: Sequence[PairMeasurement]) -> PairMeasurement:
    sums = TokenSums.joined([each.sums for each in found])
    return replace(first, sums=sums, path=_path(found))


@_together.register
def _(first: TaxMeasurement, found: Sequence[TaxMeasurement]) -> TaxMeasurement:
    return replace(first, sums=TokenSums.joined([each.sums for each in found]), path=_path(found))


@_together.register
def _(first: Among, found: Sequence[Among]) -> Among:
    """What could not be made in one part is left out, for the reason given there."""
    left_out = {name: why for each in reversed(found) for name, why in each.left_out.items()}
    kept = [name for name in first.others if name not in left_out]
    return Among(
        _measurement(first.own, [each.own for each in found]),
        {name: _measurement(first.others[name], [e.others[name] for e in found]) for name in kept},
        left_out,
    )


@_together.register
def _(first: ClozeMeasurement, found: Sequence[ClozeMeasurement]) -> ClozeMeasurement:
    active = None
    if first.active is not None:
        active = csr_array(vstack([each.active for each in found]))
    return ClozeMeasurement(
        clean=_rows(Answers, [each.clean for each in found]),
        changed=_rows(Answers, [each.changed for each in found]),
        squared_error=np.concatenate([each.squared_error for each in found]),
        l0=np.concatenate([each.l0 for each in found]),
        cut=sum(each.cut for each in found),
        options=_options(found),
        active=active,
        clusters=_clusters(found),
    )


def _clusters(found: Sequence[Any]) -> np.ndarray | None:
    """Return the parts' clusters; either all parts have them, or none has."""
    parts = [each.clusters for each in found if each.clusters is not None]
    return np.concatenate(parts) if parts else None


def _measurement(first: Any, found: Sequence[Any]) -> Any:
    failures = {n: e for each in reversed(found) for n, e in each.failures.items()}
    return replace(
        first,
        sums=TokenSums.joined([each.sums for each in found]),
        interventions=tuple(n for n in first.interventions if n not in failures),
        fired=sum((each.fired for each in found), np.zeros_like(first.fired)),
        path=_path(found),
        failures=failures,
        per_token=_per_token([each.per_token for each in found]),
        moves=None if first.moves is None else first.moves.joined([e.moves for e in found]),
    )


def _per_token(found: Sequence[TokenMeasurement | None]) -> TokenMeasurement | None:
    parts = [each for each in found if each is not None]
    if not parts:
        return None
    values = {
        channel: np.concatenate([each.values[channel] for each in parts if channel in each.values])
        for channel in parts[0].values
    }
    return replace(
        parts[0],
        values=values,
        ids=np.concatenate([each.ids for each in parts]),
        counted=np.concatenate([each.counted for each in parts]),
    )


def _examples(found: Sequence[SingleMeasurement]) -> tuple[Any, ...]:
    """Of each part's examples return as many as of a whole run, spread over their KL."""
    every = sorted((e for each in found for e in each.examples), key=lambda e: e.kl.get("sae", 0.0))
    if len(every) <= EXAMPLES:
        return tuple(every)
    places = np.linspace(0, len(every) - 1, EXAMPLES).round().astype(int)
    return tuple(every[place] for place in places)


def _options(found: Sequence[ClozeMeasurement]) -> OptionAnswers | None:
    if all(each.options is None for each in found):
        return None
    none = [np.zeros(len(each.l0), dtype=bool) for each in found]
    empty = [OptionAnswers(rows, rows, rows) for rows in none]
    parts = [each.options or other for each, other in zip(found, empty, strict=True)]
    return _rows(OptionAnswers, parts)


def _rows(kind: Any, parts: Sequence[Any]) -> Any:
    """Return a table of arrays, one behind another; None where a part has none."""
    columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(kind)}
    return kind(
        **{
            name: None if any(rows is None for rows in column) else np.concatenate(column)
            for name, column in columns.items()
        }
    )


def _path(found: Sequence[Any]) -> str:
    paths = {each.path for each in found}
    return paths.pop() if len(paths) == 1 else "full"
