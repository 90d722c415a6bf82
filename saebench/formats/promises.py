"""Promises: the l0 and explained variance that an SAE's own files and its release state."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from saebench.errors import SubjectError
from saebench.formats.metadata import metadata_of

L0, EXPLAINED_VARIANCE = "l0", "explained_variance"
_IN_A_NAME = re.compile(r"average_l0_(\d+(?:\.\d+)?)")  # Gemma Scope's folders


@dataclass(frozen=True)
class Promise:
    """A figure that an SAE is said to have.

    Attributes:
        value: the figure.
        source: where it is stated, for people.
    """

    value: float
    source: str


def promised(
    config: Mapping[str, Any],
    *,
    where: str,
    registry: Mapping[str, float] | None = None,
    names: Iterable[str] = (),
) -> dict[str, Promise]:
    """Return what an SAE is said to have: its ``l0`` and its ``explained_variance``.

    What was measured when the SAE was made comes before what a release's table says, and a
    figure before the k that a TopK or BatchTopK SAE was trained for, which is its l0 on average.

    Args:
        config: the SAE's configuration.
        where: what messages call the configuration.
        registry: the figures of SAELens' registry, under the same two names.
        names: paths that may end in ``average_l0_71``, as Gemma Scope's do.

    Raises:
        SubjectError: for a figure that is no number, and an explained variance above 1.

    Example:
        >>> promised({"k": 32, "metadata": {}}, where="cfg.json")
        {'l0': Promise(value=32.0, source='k of its configuration')}
    """
    stated, release = metadata_of(dict(config)), registry or {}
    k = (("k of its configuration", config.get("k")), *_k_of_training(stated))
    candidates = {
        L0: (
            ("metadata.l0", stated.get(L0)),
            ("l0 of its configuration", config.get(L0)),
            ("SAELens' registry", release.get(L0)),
            *_in_names(names),
            *k,
        ),
        EXPLAINED_VARIANCE: (
            ("metadata.explained_variance", stated.get(EXPLAINED_VARIANCE)),
            ("SAELens' registry", release.get(EXPLAINED_VARIANCE)),
        ),
    }
    found = {name: next(_figures(some, where), None) for name, some in candidates.items()}
    return {name: promise for name, promise in found.items() if promise is not None}


def _k_of_training(stated: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the k of an SAE that was trained with BatchTopK and saved as JumpReLU."""
    details = stated.get("training_architecture_details")
    if "topk" in str(stated.get("training_architecture")) and isinstance(details, dict):
        yield "k of its training", details.get("k")


def _in_names(names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    for name in names:
        if match := _IN_A_NAME.search(name):
            yield f"{match[0]} in its path", float(match[1])


def _figures(candidates: Iterable[tuple[str, Any]], where: str) -> Iterator[Promise]:
    """Yield the figures that can be kept: zero and what is not finite are placeholders."""
    for source, value in candidates:
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SubjectError(
                f"{where}: {source} must be a number, found {type(value).__name__}; correct it, "
                "or leave it out"
            )
        if value > 1 and source.endswith(EXPLAINED_VARIANCE):
            raise SubjectError(f"{where}: {source} is a share of at most 1, found {value:g}")
        if value > 0 and math.isfinite(value):
            yield Promise(float(value), source)
