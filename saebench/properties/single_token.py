"""Single token: the KL gap of one substituted token, and its rank among many random errors.

Source: docs/metrics.md (single_token); Gurnee 2024, "SAE reconstruction errors are (empirically)
pathological", "Single Token Intervention Results" and "How pathological are the errors?".
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from saebench.errors import OptionError, nearest
from saebench.experiments.base import Experiment, ManyDraws, OneToken
from saebench.measures.names import in_bin
from saebench.properties.base import (
    Findings,
    MetricSpec,
    Params,
    Property,
    evaluate,
    mean_of,
    plain,
    position_of,
)
from saebench.properties.kl_gap import BASELINES, FLOOR, chosen_baselines
from saebench.records.metric import Direction, Fallback, Metric
from saebench.statistics.clusters import firsts
from saebench.statistics.rank import median, spread_over

if TYPE_CHECKING:
    from saebench.experiments.draws import DrawsMeasurement
    from saebench.experiments.one_token import SingleMeasurement
    from saebench.options import Settings
    from saebench.statistics.bootstrap import Formula

LOWER = Direction.LOWER
EXPERIMENTS = ("offsets", "draws")
METRIC_OFFSETS = (0, 1)  # offsets from the substituted token that have metrics of their own
PLOTTED = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)  # quantiles of z of the tokens whose draws are plotted
PLOTTED_BINS = 30
DRAWN = "n.drawn"

Named = dict[tuple[str, int], MetricSpec]


def _at(offset: int, over: str) -> "Formula":
    return lambda sums: sums[in_bin("sae.kl", offset)] / sums[in_bin(f"{over}.kl", offset)]


def _difference(offset: int, over: str) -> "Formula":
    def formula(sums: Any) -> np.ndarray:
        gap = sums[in_bin("sae.kl", offset)] - sums[in_bin(f"{over}.kl", offset)]
        return gap / sums[in_bin("n.scored", offset)]

    return formula


def _mean(offset: int, name: str) -> "Formula":
    return mean_of(in_bin(f"{name}.kl", offset), per=in_bin("n.scored", offset))


def _specs(
    metric: str, unit: str, formula: "Callable[[int, str], Formula]", of: Iterable[str], *also: str
) -> Named:
    return {
        (name, offset): MetricSpec(
            f"single_token.{metric}[{name}@{offset}]",
            unit,
            LOWER,
            formula(offset, name),
            tuple(in_bin(channel, offset) for channel in (f"{name}.kl", *also)),
            in_bin("n.scored", offset),
            version=2,  # 2: the radius of random errors is that of the centred error
        )
        for name in of
        for offset in METRIC_OFFSETS
    }


RATIO = _specs("ratio", "×", _at, BASELINES, "sae.kl")
DIFFERENCE = _specs("difference", "nats", _difference, BASELINES, "sae.kl")
KL = _specs("kl", "nats", _mean, ("sae", *BASELINES))
OFFSETS = tuple(spec for specs in (RATIO, DIFFERENCE, KL) for spec in specs.values())

Z_MEDIAN = MetricSpec("single_token.z_median", "σ", LOWER, None, counts=DRAWN, version=2)
Z_ABOVE = MetricSpec(
    "single_token.z_above_2", "share", LOWER, mean_of("z.above", per=DRAWN), ("z.above",), DRAWN,
    version=2,
)  # fmt: skip
PERCENTILE = MetricSpec(
    "single_token.percentile",
    "share",
    LOWER,
    mean_of("percentile", per=DRAWN),
    ("percentile",),
    DRAWN,
    version=2,
)
DRAWS = (Z_MEDIAN, Z_ABOVE, PERCENTILE)


def _experiment(params: Params) -> str:
    chosen = params.get("experiment", "offsets")
    if chosen not in EXPERIMENTS:
        raise OptionError(
            f"single_token: unknown experiment {chosen!r}{nearest(str(chosen), EXPERIMENTS)}"
        )
    return chosen


def _interventions(params: Params) -> tuple[str, ...]:
    return ("sae", *chosen_baselines(params)) if _experiment(params) == "offsets" else ()


def _tokens(params: Params, settings: "Settings") -> Experiment:
    if _experiment(params) == "offsets":
        return OneToken(position_of(params, settings.position))
    position = position_of(params, settings.draw_position)
    return ManyDraws(position, settings.draw_count, settings.drawn_sequences)


def _reported(params: Params) -> tuple[MetricSpec, ...]:
    return OFFSETS if _experiment(params) == "offsets" else DRAWS


def _findings(measurement: Any, params: Params) -> Findings:
    if _experiment(params) == "offsets":
        return _of_offsets(measurement, params)
    return _of_draws(measurement)


def _of_offsets(measurement: "SingleMeasurement", params: Params) -> Findings:
    names = _interventions(params)
    measurement.need(*names)
    metrics: list[Metric] = []
    for offset in METRIC_OFFSETS:
        counts = measurement.table().get(in_bin("n.scored", offset))
        # Offsets beyond the context have no counts; a single sequence has no interval.
        if counts is None or (counts > 0).sum() < min(2, len(counts)):
            continue
        for b in chosen_baselines(params):
            metrics += _against(b, offset, measurement)
        metrics += [evaluate(KL[name, offset], measurement) for name in names]
    return Findings(tuple(metrics), _offsets_series(measurement, names))


def _against(b: str, offset: int, measurement: "SingleMeasurement") -> list[Metric]:
    sums = measurement.sums
    mean = sums.total(in_bin(f"{b}.kl", offset)) / sums.total(in_bin("n.scored", offset))
    note, fallback = None, None
    if mean < FLOOR:
        note = f"undefined: the mean KL of {b} is {mean:.2g} nats, below {FLOOR:g}"
        fallback = Fallback(DIFFERENCE[b, offset].name, FLOOR)
    return [
        evaluate(RATIO[b, offset], measurement, note=note, fallback=fallback),
        evaluate(DIFFERENCE[b, offset], measurement),
    ]


def _offsets_series(measurement: "SingleMeasurement", names: tuple[str, ...]) -> dict[str, Any]:
    curves = {name: measurement.sums.curve(f"{name}.kl", per="n.scored") for name in names}
    return {
        "position": measurement.position,
        "offsets": list(measurement.offsets),
        "offsets_beyond_context": measurement.cut,
        "kl_by_offset": curves,
        "sequences_left_out": measurement.left_out,
        "path": measurement.path,
        "examples": [example.as_series() for example in measurement.examples],
    }


def _of_draws(measurement: "DrawsMeasurement") -> Findings:
    measurement.need()
    standing, note = measurement.standing(), None
    defined = int(standing.defined.sum())
    if defined < min(2, len(standing.defined)):
        note = f"undefined: random errors change the prediction at {defined} of the tokens"
    metrics = (
        _median(standing.z, standing.defined, measurement, note),
        evaluate(Z_ABOVE, measurement, note=note),
        evaluate(PERCENTILE, measurement, note=note),
    )
    return Findings(metrics, _draws_series(measurement))


def _median(
    z: np.ndarray, defined: np.ndarray, measurement: "DrawsMeasurement", note: str | None
) -> Metric:
    """Return the median of z; sequences that repeat each other count once."""
    if note is not None:
        return plain(Z_MEDIAN, measurement, None, note=note)
    distinct = firsts(measurement.table())
    result = median(z[distinct][defined[distinct]])
    return plain(Z_MEDIAN, measurement, result.value, ci=result.interval)


def _draws_series(measurement: "DrawsMeasurement") -> dict[str, Any]:
    """Return every token's z and percentile, and histograms of a few tokens' draws."""
    standing, draws = measurement.standing(), measurement.draws
    plotted = spread_over(standing.z, standing.defined, quantiles=PLOTTED)
    return {
        "position": measurement.position,
        "draws": draws.shape[1],
        "sequence": measurement.sequence.tolist(),
        "z": _listed(standing.z),
        "percentile": _listed(standing.percentile),
        "kl_sae": measurement.sae.tolist(),
        "kl_draws_mean": draws.mean(axis=1).tolist(),
        "kl_draws_std": draws.std(axis=1, ddof=1).tolist(),
        "histograms": [_histogram(measurement, i) for i in plotted],
        "sequences_left_out": measurement.left_out,
        "path": measurement.path,
    }


def _listed(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _histogram(measurement: "DrawsMeasurement", token: int) -> dict[str, Any]:
    counts, edges = np.histogram(measurement.draws[token], bins=PLOTTED_BINS)
    return {
        "sequence": int(measurement.sequence[token]),
        "kl_sae": float(measurement.sae[token]),
        "edges": edges.tolist(),
        "counts": counts.tolist(),
    }


PROPERTY = Property(
    "single_token",
    "one token substituted: its KL and the next tokens', and its rank among random errors",
    (*OFFSETS, *DRAWS),
    _interventions,
    _findings,
    experiment=_tokens,
    defaults=(("experiment", "offsets"),),
    cases=tuple({"experiment": name} for name in EXPERIMENTS),
    reported=_reported,
)
