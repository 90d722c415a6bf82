"""Cloze accuracy: whether the model still predicts a word that only earlier context determines.

Source: docs/metrics.md (cloze); Anders & Bloom 2024, "Examining language model performance with
reconstructed activations using sparse autoencoders".
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import binomtest

from saebench.errors import NonFiniteValue, NotApplicable
from saebench.experiments.base import ClozePrompts
from saebench.properties.base import Findings, MetricSpec, Params, Property
from saebench.records.metric import Direction, Metric, SampleSize
from saebench.statistics.bootstrap import Table, estimate
from saebench.statistics.clusters import chosen, firsts

if TYPE_CHECKING:
    from saebench.experiments.cloze_prompts import ClozeMeasurement

LOWER, HIGHER = Direction.LOWER, Direction.HIGHER
COUNT = "n.prompts"
# When an answer is right, with the channel that counts the prompts that can be scored this way:
# all of its tokens are the argmax, its first token is, or it is the likeliest of the options.
SCORINGS = {"whole": COUNT, "first": COUNT, "options": "n.options"}
LEAST_ACCURACY = 0.05
# Answers right both clean and with the SAE, right only clean, right only with the SAE, and wrong.
CELLS = ("both", "only_clean", "only_sae", "neither")


def _mean(channel: str, count: str = COUNT) -> Any:
    return lambda sums: sums[channel] / sums[count]


def _drop(scoring: str) -> Any:
    count = SCORINGS[scoring]
    return lambda sums: (sums[f"clean.{scoring}"] - sums[f"sae.{scoring}"]) / sums[count]


def _spec(
    name: str, unit: str, direction: Direction, formula: Any, *channels: str, count: str = COUNT
) -> MetricSpec:
    return MetricSpec(f"cloze.{name}", unit, direction, formula, channels, count)


def _shares(name: str, side: str) -> tuple[MetricSpec, ...]:
    return tuple(
        _spec(f"{name}[{s}]", "share", HIGHER, _mean(f"{side}.{s}", n), f"{side}.{s}", count=n)
        for s, n in SCORINGS.items()
    )


SUMS = (
    *_shares("accuracy_clean", "clean"),
    *_shares("accuracy", "sae"),
    *(
        _spec(f"accuracy_drop[{s}]", "share", LOWER, _drop(s), f"clean.{s}", f"sae.{s}", count=n)
        for s, n in SCORINGS.items()
    ),
    _spec("delta_log_p", "nats", HIGHER, _mean("delta"), "delta"),
    _spec("ce_increase", "nats", LOWER, _mean("ce_increase"), "ce_increase"),
    _spec("mse", "‖e‖²", LOWER, _mean("squared_error"), "squared_error"),
    _spec("l0", "features", LOWER, _mean("l0"), "l0"),
)
MCNEMAR = {s: _spec(f"mcnemar_p[{s}]", "p", HIGHER, None) for s in SCORINGS}


def _interventions(_: Params) -> tuple[str, ...]:
    return ("sae",)


def _findings(measurement: "ClozeMeasurement", _: Params) -> Findings:
    table = measurement.table()
    if table["clean.whole"].mean() < LEAST_ACCURACY:
        raise NotApplicable(
            "cloze: the model itself, without any SAE or patch, answers "
            f"{table['clean.whole'].mean():.1%} of {len(table[COUNT])} prompts right, so no drop "
            "could be seen; "
            "give prompts that it can answer: --sae-cloze FILE.jsonl"
        )
    metrics = [_evaluated(spec, table) for spec in SUMS if set(spec.channels) <= set(table)]
    for scoring in _scorings(table):
        spec, scored = MCNEMAR[scoring], _scored(table, scoring)
        distinct = {channel: values[firsts(table)] for channel, values in table.items()}
        p = mcnemar_p(*_right(distinct, scoring))
        n = SampleSize(_distinct(table, SCORINGS[scoring]), int(scored.sum()))
        metrics.append(Metric(spec.name, spec.version, p, spec.unit, spec.direction, n))
    return Findings(tuple(metrics), _series(measurement, table))


def _scorings(table: Table) -> list[str]:
    """Return the scorings that are possible for these prompts."""
    return [scoring for scoring, count in SCORINGS.items() if count in table]


def _distinct(table: Table, counts: str) -> int:
    """Return how many different prompts are scored."""
    return int((table[counts][firsts(table)] > 0).sum())


def _scored(table: Table, scoring: str) -> np.ndarray:
    return table[SCORINGS[scoring]] > 0


def _right(table: Table, scoring: str) -> tuple[np.ndarray, np.ndarray]:
    """Return which answers of the scored prompts are right, clean and with the SAE."""
    scored = _scored(table, scoring)
    clean, changed = (table[f"{side}.{scoring}"][scored] > 0 for side in ("clean", "sae"))
    return clean, changed


def mcnemar_p(clean: np.ndarray, changed: np.ndarray) -> float:
    """Return the exact two-sided p of McNemar's test on paired right/wrong answers.

    Source:
        McNemar 1947; the exact form is the binomial test on the discordant pairs.

    Example:
        >>> mcnemar_p(np.array([True] * 5), np.array([False] * 5))
        0.0625
    """
    only_clean = int((clean & ~changed).sum())
    discordant = only_clean + int((~clean & changed).sum())
    return float(binomtest(only_clean, discordant).pvalue) if discordant else 1.0


def _evaluated(spec: MetricSpec, table: Table) -> Metric:
    assert spec.formula is not None
    prompts = int(table[spec.counts].sum())
    result = estimate(spec.formula, chosen(table, (*spec.channels, spec.counts)))
    if not np.isfinite(result.value):
        raise NonFiniteValue(f"{spec.name} is {result.value} on {prompts} prompts")
    n = SampleSize(_distinct(table, spec.counts), prompts)
    return Metric(
        spec.name, spec.version, result.value, spec.unit, spec.direction, n, ci=result.interval
    )


def _series(measurement: "ClozeMeasurement", table: Table) -> dict[str, Any]:
    """Return values for plots prompt by prompt, and the counts of right and wrong answers."""
    by_prompt = {
        "delta_log_p": table["delta"],
        "log_p_clean": measurement.clean.log_probability,
        "mse": table["squared_error"],
        "l0": table["l0"],
    }
    if "ce_increase" in table:
        by_prompt["ce_increase"] = table["ce_increase"]
    scorings = _scorings(table)
    return {
        "cells": {scoring: _cells(*_right(table, scoring)) for scoring in scorings},
        "cell_of_prompt": {scoring: _cell_names(table, scoring) for scoring in scorings},
        "prompts_cut": measurement.cut,
    } | {name: values.tolist() for name, values in by_prompt.items()}


def _cells(clean: np.ndarray, changed: np.ndarray) -> dict[str, int]:
    return {name: int((_cell(clean, changed) == name).sum()) for name in CELLS}


def _cell(clean: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """Return each prompt's cell: right or wrong, clean and with the SAE."""
    return np.array(CELLS)[2 * ~clean + ~changed]


def _cell_names(table: Table, scoring: str) -> list[str | None]:
    """Return each prompt's cell; None for prompts that this scoring does not apply to."""
    names = np.full(len(table[COUNT]), None, dtype=object)
    names[_scored(table, scoring)] = _cell(*_right(table, scoring))
    return names.tolist()


PROPERTY = Property(
    "cloze",
    "last words that only earlier context determines: answers with the SAE against without",
    (*SUMS, *MCNEMAR.values()),
    _interventions,
    _findings,
    ClozePrompts(),
)
