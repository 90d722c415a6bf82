"""Alignment tax: what a model that was changed for its SAE loses against the original.

Source: docs/metrics.md (tax); "Sparse autoencoders with whole model reconstruction loss" 2024.
"""

from typing import TYPE_CHECKING

import numpy as np

from saebench.experiments.base import AlignmentTax
from saebench.properties.base import Findings, MetricSpec, Params, Property, evaluate, mean_of
from saebench.records.metric import Direction

if TYPE_CHECKING:
    from saebench.experiments.patched_model import TaxMeasurement
    from saebench.statistics.bootstrap import Formula, Table

LOWER = Direction.LOWER


def _increase(of: str) -> "Formula":
    def formula(sums: "Table") -> np.ndarray:
        return (sums[f"{of}.ce"] - sums["original.ce"]) / sums["n.targets"]

    return formula


METRICS = (
    MetricSpec("tax.kl", "nats", LOWER, mean_of("tax.kl"), ("tax.kl",)),
    MetricSpec("tax.kl_from_original", "nats", LOWER, mean_of("patched.kl"), ("patched.kl",)),
    MetricSpec("tax.kl_with_sae", "nats", LOWER, mean_of("sae.kl"), ("sae.kl",)),
    MetricSpec(
        "tax.ce_increase", "nats", LOWER, _increase("patched"), ("patched.ce", "original.ce"),
        "n.targets",
    ),
    MetricSpec(
        "tax.ce_increase_with_sae", "nats", LOWER, _increase("sae"), ("sae.ce", "original.ce"),
        "n.targets",
    ),
)  # fmt: skip


def _interventions(_: Params) -> tuple[str, ...]:
    return ("sae",)


def _findings(measurement: "TaxMeasurement", _: Params) -> Findings:
    return Findings(tuple(evaluate(spec, measurement) for spec in METRICS))


PROPERTY = Property(
    "tax",
    "what a model patched for its SAE loses against the original",
    METRICS,
    _interventions,
    _findings,
    AlignmentTax(),
)
