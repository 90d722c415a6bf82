"""A case's metric beside the same metric of one of the SAE's controls, on the same sequences."""

from typing import Any

import numpy as np

from saebench.errors import MeasurementError, NotApplicable
from saebench.gates.relative import Beside
from saebench.gates.rules import Rule
from saebench.properties.base import Among, MetricSpec
from saebench.results import Interval
from saebench.statistics.bootstrap import Sampled, Table, sample
from saebench.statistics.clusters import chosen, side_by_side
from saebench.statistics.level import current_level


def beside(rule: Rule, spec: MetricSpec, found: Any) -> tuple[Beside | str, Sampled | None]:
    """Return how a metric stands beside a control's, and its distribution; or why it does not.

    Args:
        rule: with a control.
        spec: the metric's definition.
        found: the SAE among its controls, or the error that there is instead.
    """
    assert rule.relative is not None
    if isinstance(found, MeasurementError | NotApplicable):
        return f"its controls could not be measured: {found}", None
    assert isinstance(found, Among)
    name = rule.relative.control
    if name not in found.others:
        return f"{name}: {found.left_out.get(name, 'was not made')}", None
    tables = [_channels(spec, each) for each in (found.own, found.others[name])]
    if isinstance(tables[0], str) or isinstance(tables[1], str):
        return next(each for each in tables if isinstance(each, str)), None
    return _held(rule, spec, tables[0], tables[1])


def _held(
    rule: Rule, spec: MetricSpec, own: Table, other: Table
) -> tuple[Beside | str, Sampled | None]:
    assert rule.relative is not None
    assert spec.formula is not None
    formula, factor = spec.formula, rule.relative.factor
    turn = 1.0 if rule.relative.sign == "<=" else -1.0

    def beyond(sums: Table) -> np.ndarray:
        mine, theirs = (
            formula({c[2:]: v for c, v in sums.items() if c.startswith(side)})
            for side in ("a/", "b/")
        )
        return turn * (mine - factor * theirs)

    both = side_by_side({"a": own, "b": other})
    with np.errstate(all="ignore"):
        values = [float(formula({c: v.sum() for c, v in t.items()})) for t in (own, other)]
    if not np.isfinite(values).all():
        return f"it is not finite for the SAE or for {rule.relative.control}", None
    found = sample(beyond, both)
    ci: Interval | None = found.interval(current_level())
    return Beside(values[0], factor * values[1], found.value, ci, found.sequences), found


def _channels(spec: MetricSpec, measurement: Any) -> Table | str:
    table = measurement.table()
    wanted = (*spec.channels, spec.counts)
    missing = [channel for channel in wanted if channel not in table]
    if missing:
        return f"it was not measured beside controls: {missing[0]} is missing"
    bad = [channel for channel in wanted if not np.isfinite(table[channel]).all()]
    if bad:
        return f"{bad[0]} is not finite for the SAE or its control"
    return chosen(table, wanted)
