"""Strata: whether the SAE is as faithful at some kinds of tokens as on average.

Source: docs/metrics.md (strata).
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from saebench.measures.names import STRATA, in_stratum
from saebench.properties.base import (
    Findings,
    MetricSpec,
    Params,
    Property,
    estimated,
    plain,
    size_of,
)
from saebench.records.run import CLUSTER, Direction, Metric
from saebench.statistics.clusters import of_clusters
from saebench.statistics.strata import Worst, worst_stratum

if TYPE_CHECKING:
    from saebench.substitution.measurement import Measurement

FLOOR = 0.02  # nats; a mean KL below it is negligible, and no stratum is compared with less
LEAST_COUNT, LEAST_TEXTS = 20, 10  # of a token id in the measured sequences
KL, SCORED = "sae.kl", "n.scored"
TYPES = ("word start", "continuation", "number", "punctuation", "whitespace", "other")
RARITY = {0: "the most frequent tenth of tokens", 9: "the rarest tenth of tokens"}
DECILES = tuple(RARITY.get(i, f"tenth {i + 1} of tokens by frequency") for i in range(10))
POSITIONS = tuple(f"sixteenth {i + 1} of the context" for i in range(16))
NAMES = {"decile": DECILES, "type": TYPES, "position": POSITIONS}


def _spec(group: str) -> MetricSpec:
    return MetricSpec(f"strata.worst_{group}_ratio", "×", Direction.LOWER, None)


SPECS = {group: _spec(group) for group in (*NAMES, "token")}


@dataclass(frozen=True)
class _Group:
    """The strata of one kind: their names, and sums and counts ``[sequences, strata]``."""

    names: Sequence[str]
    sums: np.ndarray
    counts: np.ndarray


def _interventions(_: Params) -> tuple[str, ...]:
    return ("sae",)


def _findings(measurement: "Measurement", _: Params) -> Findings:
    measurement.need("sae")
    table = measurement.table()
    overall = {"sum": table[KL], "count": table[SCORED]}
    overall |= {CLUSTER: table[CLUSTER]} if CLUSTER in table else {}
    metrics, series = [], {}
    for group, strata in _groups(measurement):
        if not strata.counts.any():
            metrics.append(_too_rare(measurement))
            continue
        worst = worst_stratum(strata.names, strata.sums, strata.counts, overall, floor=FLOOR)
        metrics.append(estimated(SPECS[group], worst.estimate, n=size_of(table, SCORED)))
        series[group] = _series(worst)
    return Findings(tuple(metrics), series)


def _groups(measurement: "Measurement") -> Iterator[tuple[str, _Group]]:
    table = measurement.table()
    for group, names in NAMES.items():
        sums, counts = (
            np.stack([table[in_stratum(c, group, i)] for i in range(len(names))], axis=1)
            for c in (KL, SCORED)
        )
        yield group, _Group(names, sums, counts)
    yield "token", _tokens(measurement)


def _tokens(measurement: "Measurement") -> _Group:
    """Return the token ids that occur often enough, and in enough texts, as strata."""
    of = measurement.by_token
    assert of is not None
    counts = of.count.toarray()
    table = {"count": (counts > 0).astype(np.float64)}
    clusters = measurement.table().get(CLUSTER)
    if clusters is not None:
        table = {str(j): counts[:, j].astype(np.float64) for j in range(counts.shape[1])}
        by_text = of_clusters(table | {CLUSTER: clusters})
        texts = np.array([np.count_nonzero(by_text[str(j)]) for j in range(counts.shape[1])])
    else:
        texts = np.count_nonzero(counts, axis=0)
    often = np.flatnonzero((counts.sum(axis=0) >= LEAST_COUNT) & (texts >= LEAST_TEXTS))
    names = [f"tokens {of.texts[j]!r}" for j in often]
    return _Group(names, of.kl.toarray()[:, often], counts[:, often].astype(np.float64))


def _too_rare(measurement: "Measurement") -> Metric:
    note = (
        f"undefined: no token occurs {LEAST_COUNT} times in {LEAST_TEXTS} texts; "
        "measure on more sequences"
    )
    return plain(SPECS["token"], measurement, None, note=note)


def _series(worst: Worst) -> dict[str, Any]:
    """Return the strata for tables, and the worst one in words."""
    stratum, ci = worst.stratum, worst.estimate.interval
    within = f", {ci.text('.2g')} with all {len(worst.strata)} strata at once" if ci else ""
    sentence = (
        f"KL is {stratum.mean:.2g} nats at {stratum.name}, {stratum.ratio:.2g} times the mean"
        f"{within}."
    )
    return {
        "worst": stratum.name,
        "sentence": sentence,
        "strata": [asdict(s) for s in worst.strata],
    }


PROPERTY = Property(
    "strata",
    "KL at rare, frequent, late and single tokens against the mean",
    tuple(SPECS.values()),
    _interventions,
    _findings,
    keeps=(STRATA,),
)
