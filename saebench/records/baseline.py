"""A stored baseline: an SAE's metrics when it was released, with their per-sequence sums."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from saebench.records.case_result import Basis
from saebench.records.inputs import DatasetRecord, ModelRecord, SubjectRecord
from saebench.records.metric import AsEnds, Interval
from saebench.records.schema import Schema, unchanged
from saebench.records.verdict import Verdict

if TYPE_CHECKING:
    import numpy as np

LONGEST_SEED = 20  # digits of a 64-bit number


@dataclass(frozen=True)
class StoredMetric:
    """One metric of a baseline.

    ``noise`` is by how much the value changes where the same is measured again; None where that
    was not measured.
    """

    version: int
    value: float | None
    ci: Annotated[Interval, AsEnds()] | None
    unit: str
    sequences: int
    noise: float | None = None


@dataclass(frozen=True)
class StoredCase:
    """One case of a baseline; ``sums`` names the table of its per-sequence sums."""

    property: str
    params: dict[str, Any]
    fingerprint: str
    verdict: Verdict
    metrics: dict[str, StoredMetric]
    sums: str | None


@dataclass(frozen=True)
class Baseline:
    """The content of a baseline's JSON file.

    Attributes:
        stored: when it was stored; "" in files of schema version 1.
        sae: the SAE.
        model: the language model.
        datasets: the token sequences of its cases.
        cases: its cases by id.
    """

    schema_version: int
    sae: SubjectRecord
    model: ModelRecord
    datasets: tuple[DatasetRecord, ...]
    cases: dict[str, StoredCase]
    stored: str = ""

    @property
    def label(self) -> str:
        """The SAE's id and the beginning of its weights' hash."""
        return f"{self.sae.id}@{self.sae.weights_sha256[:8]}"

    def basis_of(self, case: StoredCase) -> Basis | None:
        """Return the model, tokens and noise of a case; None where it does not say.

        Its sums are named SOURCE@FINGERPRINT-SEED with the first 8 digits of the tokens'
        fingerprint; those of a pair, after a comma, by the first SAE too, whatever its name is.
        """
        _, _, name = str(case.sums).partition("@")
        short, _, seed = name.partition(",")[0].rpartition("-")
        if not (short and seed.isdecimal() and len(seed) < LONGEST_SEED):
            return None
        for data in self.datasets:
            if data.fingerprint.startswith(short):
                weights, dtype = self.model.weights_sha256, self.model.dtype
                return Basis(weights, dtype, data.fingerprint, int(seed))
        return None


@dataclass(frozen=True)
class StoredBaseline:
    """A baseline with its per-sequence sums.

    Attributes:
        record: the JSON file's content.
        arrays: the sums, by ``TABLE/CHANNEL``.
    """

    record: Baseline
    arrays: "Mapping[str, np.ndarray]" = field(default_factory=dict)

    def table(self, case: StoredCase) -> "dict[str, np.ndarray]":
        """Return a case's per-sequence sums by channel."""
        start = f"{case.sums}/"
        return {n.removeprefix(start): a for n, a in self.arrays.items() if n.startswith(start)}


BASELINE = Schema(
    Baseline,
    2,
    "saebench baseline",
    hint="measure it again",
    upgrades={1: unchanged},  # 2 added the date and a checksum of what was measured
)
