"""Cases: which property of which SAE, and what makes two of them comparable."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saebench.errors import OptionError
from saebench.properties import Property, find_property
from saebench.properties.base import PAIRS, Source
from saebench.results import DatasetRecord, ModelRecord, SubjectRecord


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
        """What the case is about, in results: the SAE's id, or both."""
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
    def told(self) -> dict[str, Any]:
        """What results say of its parameters: those, and which SAEs a pair is."""
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


def case_request(
    sae: str | Sequence[str],
    name: str,
    params: Mapping[str, Any] | None = None,
    *,
    peers: Sequence[str] = (),
) -> CaseRequest:
    """Return the request for a property of an SAE, its defaults filled in.

    However it is asked for, the same case has the same id and fingerprint.

    Args:
        sae: the SAE's id, or a pair's.
        name: the property.
        params: its parameters.
        peers: the model's other SAEs, for a property that reads theirs too.

    Raises:
        OptionError: for an unknown property, or a pair where it is about one SAE.
    """
    declared = find_property(name)
    subjects = (sae,) if isinstance(sae, str) else tuple(sae)
    if len(subjects) > 1 and declared.source != PAIRS:
        raise OptionError(f"{name} is about one SAE, found the pair {joined(subjects)}")
    settled = dict(declared.defaults) | dict(params or {})
    read = tuple(peers) if declared.peers else ()
    return CaseRequest(subjects, declared.name, tuple(sorted(settled.items())), read)


def fingerprint(
    declared: Property,
    params: Mapping[str, Any],
    *,
    seed: int,
    sae: SubjectRecord,
    model: ModelRecord,
    data: DatasetRecord,
    others: Sequence[SubjectRecord] = (),
    source: Source,
    sequences: int | None = None,
) -> str:
    """Return a hash of all that a case's numbers depend on.

    Equal fingerprints: equal numbers, up to floating point. It drives comparability.

    Args:
        declared: the property.
        params: its parameters.
        seed: the run's.
        sae: the SAE that the case is about; of a pair, the first.
        model: the model.
        data: the tokens.
        source: what is measured on, of those tokens.
        sequences: how many of them, where the run ended before all were measured.
        others: the pair's second SAE, or the peers that the property reads.
    """
    parts: dict[str, Any] = {
        "metrics": sorted((spec.name, spec.version) for spec in declared.metrics),
        "params": sorted((key, str(value)) for key, value in params.items()),
        "seed": seed,
        "sae": (sae.weights_sha256, sae.config_sha256),
        "model": (model.weights_sha256, model.dtype),
        "tokens": data.fingerprint,
    }
    if others:
        parts["others"] = [(other.weights_sha256, other.config_sha256) for other in others]
    if not isinstance(source, str):  # which tokens of them, and how often
        parts["source"] = str(source)
    if sequences is not None:
        parts["sequences"] = sequences
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
