"""A case: one property of one SAE, with its metrics, its gates and their verdict."""

import builtins
from dataclasses import dataclass, field
from typing import Any

from saebench.records.metric import Interval, Metric
from saebench.records.verdict import Verdict


@dataclass(frozen=True)
class Evidence:
    """The p-values for and against a secondary gate.

    Attributes:
        p_within: one-sided p of "the limit does not hold": small shows that it does.
        p_beyond: one-sided p of "the limit holds": small shows that it does not.
        adjusted_within: p_within, corrected for all of the run's secondary gates.
        adjusted_beyond: p_beyond, likewise.
        corrected_for: the number of those gates.
    """

    p_within: float
    p_beyond: float
    adjusted_within: float | None = None
    adjusted_beyond: float | None = None
    corrected_for: int = 0


@dataclass(frozen=True)
class GateResult:
    """One rule applied to one metric.

    Where the rule is a margin, ``worse_by`` says how much worse the metric is than its
    ``baseline``, in the margin's terms: 0.05 is 0.05 of the metric's unit, or 5% of the baseline.
    A ``secondary`` gate does not affect the case's verdict; its own is corrected for multiplicity.
    ``why`` is the rule's reason, as the threshold file gives it; None where it gives none.
    """

    rule: str
    metric: str
    observed: float | None
    ci: Interval | None
    limit: str
    baseline: float | None
    verdict: Verdict
    sentence: str
    worse_by: float | None = None
    worse_ci: Interval | None = None
    secondary: bool = False
    evidence: Evidence | None = None
    why: str | None = None

    @property
    def shown(self) -> str:
        """The verdict, for tables: a secondary gate's says so."""
        return f"{self.verdict.value}, secondary" if self.secondary else self.verdict.value

    @property
    def change(self) -> float | None:
        """Observed less baseline; None where either is missing."""
        if self.baseline is None or self.observed is None:
            return None
        return self.observed - self.baseline


@dataclass(frozen=True)
class Basis:
    """The model, tokens and noise of a case: cases that differ in these are never compared.

    Attributes:
        model: sha256 of the model's weights.
        dtype: of the model.
        dataset: fingerprint of the token ids.
        seed: root seed of all noise.
    """

    model: str
    dtype: str
    dataset: str
    seed: int


@dataclass(frozen=True)
class CaseResult:
    """One property of one SAE: its metrics, its gates and their verdict.

    ``basis`` is None where nothing was measured, and in result files of schema version 1.
    """

    id: str
    sae: str
    property: str
    params: dict[str, Any]
    verdict: Verdict
    reason: str
    duration_s: float
    fingerprint: str
    metrics: tuple[Metric, ...] = ()
    gates: tuple[GateResult, ...] = ()
    series: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    basis: Basis | None = None

    @builtins.property  # the field above hides its name
    def by_name(self) -> dict[str, Metric]:
        """The metrics by name."""
        return {metric.name: metric for metric in self.metrics}

    @builtins.property
    def deciding(self) -> tuple[GateResult, ...]:
        """The gates that decide the verdict."""
        return tuple(gate for gate in self.gates if not gate.secondary)

    def metric(self, name: str) -> Metric | None:
        """Return the metric of a name, which may be undefined; None where it is not reported."""
        return next((metric for metric in self.metrics if metric.name == name), None)

    @builtins.property
    def kind(self) -> str:
        """The case's id without its SAE: the same property and parameters of another SAE."""
        return self.id.removesuffix(f"@{self.sae}")

    @builtins.property
    def about(self) -> tuple[str, ...]:
        """The ids of its SAEs: one, or a pair's two."""
        pair = tuple(self.params[key] for key in ("first", "second") if key in self.params)
        return pair if len(pair) == 2 else (self.sae,)

    def defined(self, name: str) -> Metric | None:
        """Return the metric of a name if it has a value."""
        metric = self.metric(name)
        return metric if metric is not None and metric.value is not None else None
