"""Whether the SAE works on the context that it claims, and how that changes beyond it.

Source: docs/metrics.md (context_length); Anders & Bloom 2024, "Examining language model performance
with reconstructed activations using sparse autoencoders".
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from saebench.errors import OptionError, nearest
from saebench.experiments.base import ClaimedTexts, Experiment, LongTexts
from saebench.measures.names import in_bin
from saebench.properties.base import (
    Findings,
    MetricSpec,
    Params,
    Property,
    estimated,
    evaluate,
    mean_of,
    size_of,
)
from saebench.records.metric import CLUSTER, Direction, Metric
from saebench.records.verdict import Verdict
from saebench.statistics.bootstrap import Estimate, Wanted
from saebench.statistics.worst import Worst, worst_formula, worst_stratum

if TYPE_CHECKING:
    from saebench.options import Settings
    from saebench.statistics.bootstrap import Formula, Table
    from saebench.substitution.measurement import Measurement

LOWER = Direction.LOWER
BINS = ("within", "C-2C", "2C-4C", "4C-8C")
SCORED, TARGETS = "n.scored", "n.targets"
KL = "sae.kl"
CLAIMED, BEYOND = "claimed", "beyond"
REACHES = (CLAIMED, BEYOND)


def _within(sums: "Table", channel: str, per: str) -> np.ndarray:
    return sums[in_bin(channel, 0)] / sums[in_bin(per, 0)]


def _beyond(sums: "Table", channel: str, per: str) -> np.ndarray:
    total = sums[channel] - sums[in_bin(channel, 0)]
    return total / (sums[per] - sums[in_bin(per, 0)])


def _ce_rise(sums: "Table") -> np.ndarray:
    beyond = _beyond(sums, "sae.ce", TARGETS) - _beyond(sums, "clean.ce", TARGETS)
    return beyond - (_within(sums, "sae.ce", TARGETS) - _within(sums, "clean.ce", TARGETS))


def _rise(channel: str) -> "Formula":
    return lambda sums: _beyond(sums, channel, SCORED) - _within(sums, channel, SCORED)


def _ratio(channel: str) -> "Formula":
    return lambda sums: _beyond(sums, channel, SCORED) / _within(sums, channel, SCORED)


def _ce_increase(i: int) -> "Formula":
    def formula(sums: "Table") -> np.ndarray:
        rise = sums[in_bin("sae.ce", i)] - sums[in_bin("clean.ce", i)]
        return rise / sums[in_bin(TARGETS, i)]

    return formula


def _with_first_bin(*channels: str) -> tuple[str, ...]:
    return tuple(name for channel in channels for name in (channel, in_bin(channel, 0)))


OVERALL = (
    MetricSpec(
        "context_length.degradation",
        "nats",
        LOWER,
        _ce_rise,
        _with_first_bin("sae.ce", "clean.ce", TARGETS),
        TARGETS,
    ),
    MetricSpec(
        "context_length.kl_rise", "nats", LOWER, _rise("sae.kl"), _with_first_bin("sae.kl", SCORED)
    ),
    *(
        MetricSpec(
            f"context_length.{name}_ratio",
            "×",
            LOWER,
            _ratio(channel),
            _with_first_bin(channel, SCORED),
        )
        for name, channel in (("mse", "squared_error"), ("l0", "l0"), ("l1", "l1"))
    ),
)
BY_BIN = tuple(
    MetricSpec(
        f"context_length.ce_increase[{name}]",
        "nats",
        LOWER,
        _ce_increase(i),
        tuple(in_bin(channel, i) for channel in ("sae.ce", "clean.ce")),
        in_bin(TARGETS, i),
    )
    for i, name in enumerate(BINS)
)


WORST = MetricSpec("context_length.worst_within", "nats", LOWER, None)
RISE = MetricSpec("context_length.rise_within", "nats", LOWER, None, counts=TARGETS)
SHARE_BEFORE = 1 / 16  # of the context: the least that is compared with the rest
WITHIN = MetricSpec("context_length.kl_within", "nats", LOWER, mean_of(KL), (KL,))


def _is_claimed(params: Params) -> bool:
    reach = params.get("reach", BEYOND)
    if reach not in REACHES:
        raise OptionError(f"context_length: unknown reach {reach!r}{nearest(str(reach), REACHES)}")
    return reach == CLAIMED


def _experiment(params: Params, _: "Settings") -> Experiment:
    return ClaimedTexts() if _is_claimed(params) else LongTexts()


def _reported(params: Params) -> tuple[MetricSpec, ...]:
    return (WORST, RISE, WITHIN) if _is_claimed(params) else (*OVERALL, *BY_BIN)


def _interventions(_: Params) -> tuple[str, ...]:
    return ("sae",)


def _findings(measurement: "Measurement", params: Params) -> Findings:
    measurement.need("sae")
    return _of_claim(measurement) if _is_claimed(params) else _of_beyond(measurement)


def _of_claim(measurement: "Measurement") -> Findings:
    """Return the KL of the worst of the bins that double from both ends of the claimed context."""
    table, bins = measurement.table(), measurement.bins()
    names = [_positions(start, stop) for start, stop in bins]
    sums, counts = (
        np.stack([table[in_bin(channel, i)] for i in range(len(bins))], axis=1)
        for channel in (KL, SCORED)
    )
    # The overall mean is one: what is compared are the bins' means themselves, in nats.
    overall = {"sum": table[SCORED], "count": table[SCORED]}
    overall |= {CLUSTER: table[CLUSTER]} if CLUSTER in table else {}
    worst = worst_stratum(names, sums, counts, overall, floor=1.0)
    metrics = (
        estimated(WORST, worst.estimate, n=size_of(table, SCORED)),
        _largest_rise(measurement),
        evaluate(WITHIN, measurement),
    )
    series = {
        "bins_of_claim": [list(edges) for edges in bins],
        "kl_by_bin": [[each.name, each.mean, each.count] for each in worst.strata],
        "sentences": _sentences(measurement, worst),
    }
    return Findings(metrics, series)


def _largest_rise(measurement: "Measurement") -> Metric:
    """Return the largest increase of CE from a position on, less that before it.

    An SAE that works on the first C tokens alone has here what it would have beyond C, had it
    claimed C.
    """
    n = size_of(measurement.table(), TARGETS)
    columns = _on_both_sides(measurement)
    wanted = {
        edge: Wanted(_rise_from(edge), tuple(c for c in columns if _edge_of(c) == edge))
        for edge in {_edge_of(c): None for c in columns if c != CLUSTER}
    }
    if not wanted:
        note = "undefined: the context is too short to be divided"
        nothing = Estimate(0.0, None)
        return estimated(RISE, nothing, n=n, note=note, if_undefined=Verdict.PASS)
    return estimated(RISE, worst_formula(wanted, columns)[1], n=n)


def _on_both_sides(measurement: "Measurement") -> dict[str, np.ndarray]:
    """Return sums before and from each edge on that has enough of the context before it."""
    edges, table = measurement.sums.edges, measurement.table()
    columns = {CLUSTER: table[CLUSTER]} if CLUSTER in table else {}
    for i, edge in enumerate(edges):
        if not (max(SHARE_BEFORE * edges[-1], 2) <= edge <= edges[-1] // 2):
            continue
        before = {c: _over_first(table, c, bins=i) for c in ("sae.ce", "clean.ce", TARGETS)}
        after = {c: table[c] - values for c, values in before.items()}
        if before[TARGETS].any() and after[TARGETS].any():
            columns |= {f"{edge}/before.{c}": values for c, values in before.items()}
            columns |= {f"{edge}/after.{c}": values for c, values in after.items()}
    return columns


def _edge_of(column: str) -> str:
    return column.partition("/")[0]


def _over_first(table: "Table", channel: str, *, bins: int) -> np.ndarray:
    """Return a channel's sums by sequence over the first bins."""
    return np.sum([table[in_bin(channel, i)] for i in range(bins)], axis=0)


def _rise_from(edge: str) -> "Formula":
    def lost(sums: "Table", side: str) -> np.ndarray:
        of = f"{edge}/{side}"
        return (sums[f"{of}.sae.ce"] - sums[f"{of}.clean.ce"]) / sums[f"{of}.{TARGETS}"]

    return lambda sums: lost(sums, "after") - lost(sums, "before")


def _positions(start: int, stop: int) -> str:
    return f"position {start}" if stop == start + 1 else f"positions {start} to {stop - 1}"


def _sentences(measurement: "Measurement", worst: Worst) -> list[str]:
    """Say where within the claimed context KL is largest, and how far that was looked at."""
    stratum, mean = worst.stratum, measurement.sums.total(KL) / measurement.sums.total(SCORED)
    said = [
        f"Of {len(worst.strata)} bins of the claimed context KL is surest to be large at "
        f"{stratum.name}: {stratum.mean:.2g} nats, where the mean is {mean:.2g}."
    ]
    claimed, judged = measurement.claimed, measurement.sums.context
    if claimed is not None and judged < claimed:
        said.append(
            f"The SAE claims {claimed:,} tokens, and was judged up to {judged:,}: too few of the "
            "texts are longer."
        )
    return said


def _of_beyond(measurement: "Measurement") -> Findings:
    by_bin = BY_BIN[: len(measurement.bins())]
    metrics = tuple(
        evaluate(spec, measurement, note=_undefined(spec, measurement))
        for spec in (*OVERALL, *by_bin)
    )
    return Findings(metrics, _series(measurement))


def _undefined(spec: MetricSpec, measurement: "Measurement") -> str | None:
    """Return why a ratio to zero is undefined: the quantity is zero within the context."""
    within = in_bin(spec.channels[0], 0)
    if spec.unit == "×" and measurement.table()[within].sum() == 0:
        return f"undefined: {spec.channels[0]} is zero within the training context"
    return None


def _series(measurement: "Measurement") -> dict[str, Any]:
    sums = measurement.sums
    curves = {
        f"{name}_by_position": sums.curve(channel, per=SCORED)
        for name, channel in (
            ("kl", "sae.kl"),
            ("l0", "l0"),
            ("l1", "l1"),
            ("mse", "squared_error"),
            ("norm", "norm"),
        )
    }
    for side in ("clean", "sae"):
        curves[f"ce_{side}_by_position"] = sums.curve(f"{side}.ce", per=TARGETS)
    return {"bins": [list(edges) for edges in measurement.bins()], **curves}


PROPERTY = Property(
    "context_length",
    "faithfulness in every part of the claimed context, and beyond it",
    (WORST, RISE, WITHIN, *OVERALL, *BY_BIN),
    _interventions,
    _findings,
    _experiment,
    defaults=(("reach", BEYOND),),
    cases=tuple({"reach": reach} for reach in REACHES),
    reported=_reported,
)
