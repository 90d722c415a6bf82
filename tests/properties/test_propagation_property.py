"""Changes and compounding of pairs, token by token, on made-up sums."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from saebench.errors import NonFiniteValue
from saebench.measures.sums import TokenSums
from saebench.properties import find_property
from saebench.properties.propagation import FLOOR
from saebench.records.metric import Metric
from saebench.substitution.measurement import PairMeasurement

N, T = 12, 7
VERSIONS = ("sae", "eps_random")


def _values(*, kl_scale: float = 1.0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    counted = rng.random((N, T)) < 0.8
    counted[:, 0] = False
    values = {}
    for i, side in enumerate(("clean", *VERSIONS)):
        for what in ("squared_error", "l0", "norm"):
            values[f"{side}.{what}"] = rng.gamma(2, 1 + 0.3 * i, (N, T))
    for v in VERSIONS:
        for k, which in enumerate(("first", "second", "together")):
            values[f"{v}.kl_{which}"] = kl_scale * rng.gamma(1, 0.2 + 0.2 * k, (N, T))
    return counted, values


def _measurement(counted: np.ndarray, values: dict[str, np.ndarray]) -> PairMeasurement:
    sums, mask = TokenSums(N, T), torch.from_numpy(counted)
    sums.count("n.scored", mask, rows=slice(0, N))
    for channel, column in values.items():
        sums.add(channel, torch.from_numpy(column), mask=mask, rows=slice(0, N))
    hooks = ("blocks.0.hook_resid_pre", "blocks.2.hook_resid_pre")
    return PairMeasurement(sums, ("one", "two"), hooks, "resumed")


def _findings(measurement: PairMeasurement) -> Any:
    return find_property("propagation").findings(measurement, {})


def _found(measurement: PairMeasurement) -> dict[str, Metric]:
    metrics = _findings(measurement).metrics
    return {metric.name.removeprefix("propagation."): metric for metric in metrics}


def _total(counted: np.ndarray, values: np.ndarray) -> float:
    return sum(values[s, t] for s in range(N) for t in range(T) if counted[s, t])


@pytest.mark.parametrize("v", VERSIONS)
def test_changes_are_ratios_of_totals_over_the_same_tokens(v):
    counted, values = _values()
    found = _found(_measurement(counted, values))
    total = {channel: _total(counted, column) for channel, column in values.items()}
    for name, what in (("mse", "squared_error"), ("l0", "l0"), ("norm", "norm")):
        expected = total[f"{v}.{what}"] / total[f"clean.{what}"] - 1
        assert found[f"{name}_change[{v}]"].value == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("v", VERSIONS)
def test_compounding_is_both_together_over_the_sum_of_each_alone(v):
    counted, values = _values()
    found = _found(_measurement(counted, values))
    first, second, both = (
        _total(counted, values[f"{v}.kl_{which}"]) for which in ("first", "second", "together")
    )
    n = counted.sum()
    assert found[f"compounding[{v}]"].value == pytest.approx(both / (first + second), rel=1e-10)
    assert found[f"kl_excess[{v}]"].value == pytest.approx((both - first - second) / n, rel=1e-10)
    assert found[f"kl_together[{v}]"].value == pytest.approx(both / n, rel=1e-10)


def test_the_difference_is_the_saes_compounding_less_the_random_errors():
    found = _found(_measurement(*_values()))
    expected = found["compounding[sae]"].value - found["compounding[eps_random]"].value
    assert found["compounding_difference"].value == pytest.approx(expected, rel=1e-10)
    ci = found["compounding_difference"].ci
    assert ci.low < expected < ci.high


def test_changes_are_paired():
    """Where the substitution changes nothing, the change is 0 for certain."""
    counted, values = _values()
    values |= {"sae.l0": values["clean.l0"]}
    change = _found(_measurement(counted, values))["l0_change[sae]"]
    assert (change.value, change.ci.low, change.ci.high) == (0, 0, 0)


def test_below_the_floor_compounding_is_undefined_and_the_excess_is_not():
    found = _found(_measurement(*_values(kl_scale=FLOOR / 10)))
    for name in ("compounding[sae]", "compounding[eps_random]", "compounding_difference"):
        assert found[name].value is None
        assert "below 0.0001" in found[name].note
    assert found["kl_excess[sae]"].value is not None


def test_a_second_sae_without_error_has_no_error_that_could_change():
    counted, values = _values()
    values["clean.squared_error"] = np.zeros((N, T))
    found = _found(_measurement(counted, values))
    assert found["mse_change[sae]"].value is None
    assert "squared_error of two is zero" in found["mse_change[sae]"].note
    assert found["l0_change[sae]"].value is not None


@pytest.mark.parametrize("channel", ["sae.kl_together", "sae.norm", "eps_random.kl_first"])
def test_nan_is_an_error_and_never_a_value(channel):
    counted, values = _values()
    values[channel][np.argwhere(counted)[0][0], np.argwhere(counted)[0][1]] = np.nan
    with pytest.raises(NonFiniteValue):
        _found(_measurement(counted, values))


def test_the_cell_of_the_heat_map_says_whose_it_is_and_holds_every_value():
    findings = _findings(_measurement(*_values()))
    cell = findings.series["heat_map"]
    assert (cell["row"], cell["column"]) == ("one", "two")
    assert (cell["row_hook"], cell["column_hook"])[0] == "blocks.0.hook_resid_pre"
    assert cell["cell"] == {m.name.removeprefix("propagation."): m.value for m in findings.metrics}
    json.dumps(findings.series, allow_nan=False)


def test_changes_by_position_are_ratios_of_means_at_each_position():
    counted, values = _values()
    curve = _findings(_measurement(counted, values)).series["mse_change_by_position"]
    assert curve[0] is None
    for t in range(1, T):
        at = counted[:, t]
        ratio = (
            values["sae.squared_error"][at, t].sum() / values["clean.squared_error"][at, t].sum()
        )
        assert curve[t] == pytest.approx(ratio - 1)


def test_every_metric_is_declared_and_lies_in_its_interval():
    declared = {spec.name: spec for spec in find_property("propagation").metrics}
    found = _findings(_measurement(*_values())).metrics
    assert {m.name for m in found} == set(declared)
    for metric in found:
        assert metric.ci.low <= metric.value <= metric.ci.high
        assert metric.n.sequences == N
