"""A case: one property of one SAE, or of a pair of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CaseRequest:
    """One property of one SAE, or of a pair of them, to be measured and decided.

    Attributes:
        subjects: the SAE's id, or a pair's, the first before the second in the model.
        property_name: the property.
        params: its parameters.
        peers: ids of other SAEs whose measurements the property reads too.
    """

    subjects: tuple[str, ...]
    property_name: str
    params: tuple[tuple[str, Any], ...] = ()
    peers: tuple[str, ...] = ()

    @property
    def sae(self) -> str:
        """The SAE's id in results; of a pair, both."""
        return joined(self.subjects)

    @property
    def needs(self) -> tuple[str, ...]:
        """The SAEs that have to be measured for it."""
        return self.subjects + self.peers

    @property
    def id(self) -> str:
        """The case's name in results."""
        bare = f"{self.property_name}@{self.sae}"
        params = ",".join(f"{key}={value}" for key, value in self.params)
        return f"{self.property_name}[{params}]@{self.sae}" if params else bare

    @property
    def recorded_params(self) -> dict[str, Any]:
        """The parameters in results: of a pair, with the ids of its first and second SAE."""
        pair = self.subjects if len(self.subjects) == 2 else ()
        return dict(self.params) | dict(zip(("first", "second"), pair, strict=False))


def joined(subjects: Sequence[str]) -> str:
    """Return the name of an SAE or of a pair.

    Example:
        >>> joined(("l0", "l2"))
        'l0→l2'
    """
    return "→".join(subjects)


def kind_of(id: str, subjects: Sequence[str]) -> str:
    """Return a case's name without its SAE's; a pair's says which SAE is before it.

    Example:
        >>> kind_of("propagation@l0→l2", ("l0", "l2"))
        'propagation after l0'
    """
    bare = id.removesuffix(f"@{joined(subjects)}")
    return bare if len(subjects) == 1 else f"{bare} after {subjects[0]}"
