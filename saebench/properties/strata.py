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
    size_of,
    undefined,
)
from saebench.records.metric import CLUSTER, Direction, Fallback, Metric
from saebench.statistics.clusters import rows_by_text
from saebench.statistics.worst import Worst, worst_stratum

if TYPE_CHECKING:
    from saebench.substitution.measurement import Measurement

FLOOR = 0.02  # nats; a mean KL below it is negligible, and no stratum is compared with less
LEAST_COUNT, LEAST_TEXTS = 20, 10  # of a stratum's tokens in the measured sequences
LEAST_SHARE = {"type": 0.01, "token": 0.0025}  # of all tokens; rarer ones are too unlike the rest
OF_DECILES = 0.25  # a limit L of a token's ratio is one of (L - 1)/4 of a decile's
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

    def only(self, chosen: np.ndarray) -> "_Group":
        """Return some of the strata."""
        names = [name for name, is_chosen in zip(self.names, chosen, strict=True) if is_chosen]
        return _Group(names, self.sums[:, chosen], self.counts[:, chosen])


WORTH_SAYING = 2.0  # times the mean, surely


def _interventions(_: Params) -> tuple[str, ...]:
    return ("sae",)


def _findings(measurement: "Measurement", _: Params) -> Findings:
    measurement.need("sae")
    table = measurement.table()
    overall = {"sum": table[KL], "count": table[SCORED]}
    overall |= {CLUSTER: table[CLUSTER]} if CLUSTER in table else {}
    metrics, series, said = [], {}, []
    for group, strata in _groups(measurement):
        if not strata.counts.any():
            metrics.append(_too_rare(measurement))
            continue
        worst = worst_stratum(strata.names, strata.sums, strata.counts, overall, floor=FLOOR)
        metrics.append(estimated(SPECS[group], worst.estimate, n=size_of(table, SCORED)))
        series[group] = _series(worst)
        if worst.estimate.interval is not None and worst.estimate.interval.low > WORTH_SAYING:
            said.append(series[group]["sentence"])
    return Findings(tuple(metrics), series | {"sentences": said})


def _groups(measurement: "Measurement") -> Iterator[tuple[str, _Group]]:
    table = measurement.table()
    for group, names in NAMES.items():
        sums, counts = (
            np.stack([table[in_stratum(c, group, i)] for i in range(len(names))], axis=1)
            for c in (KL, SCORED)
        )
        strata = _Group(names, sums, counts)
        least = LEAST_SHARE.get(group, 0.0) * table[SCORED].sum()
        yield group, strata.only(counts.sum(axis=0) >= max(1, least))
    of = measurement.by_token
    assert of is not None
    names = [f"tokens {text!r}" for text in of.texts]
    tokens = _Group(names, of.kl.toarray(), of.count.toarray().astype(np.float64))
    seen = (tokens.counts.sum(axis=0) >= LEAST_COUNT) & (
        np.count_nonzero(rows_by_text(tokens.counts, table.get(CLUSTER)), axis=0) >= LEAST_TEXTS
    )
    least = LEAST_SHARE["token"] * table[SCORED].sum()
    yield "token", tokens.only(seen & (tokens.counts.sum(axis=0) >= least))


def _too_rare(measurement: "Measurement") -> Metric:
    """Return the undefined ratio of single tokens; the gate reads the deciles instead."""
    note = (
        f"undefined: no token is {LEAST_SHARE['token']:.2%} of all and occurs {LEAST_COUNT} times "
        f"in {LEAST_TEXTS} texts"
    )
    fallback = Fallback(SPECS["decile"].name, OF_DECILES)
    return undefined(SPECS["token"], measurement, note=note, fallback=fallback)


def _series(worst: Worst) -> dict[str, Any]:
    """Return the strata for tables, and the worst one in words."""
    stratum, ci = worst.stratum, worst.estimate.interval
    within = f", {ci.text('.2g')} with all {len(worst.strata)} strata at once" if ci else ""
    negligible = stratum.mean < stratum.ratio * FLOOR * (1 + 1e-9)
    over = f"{FLOOR:g} nats, the least mean to compare with" if negligible else "the mean"
    sentence = (
        f"KL is {stratum.mean:.2g} nats at {stratum.name}, {stratum.ratio:.2g} times {over}"
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
