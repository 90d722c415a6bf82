"""advantage: PCA of the same sparsity, and the number of components that an SAE is worth."""

import numpy as np
import pytest
from scipy.interpolate import interp1d

import saebench
from saebench.errors import OptionError
from saebench.experiments.base import SEQUENCES, PrincipalComponents
from saebench.experiments.components import grid
from saebench.measures.names import components
from saebench.measures.sums import TokenSums
from saebench.options import Settings
from saebench.properties import find_property
from saebench.substitution.measurement import Measurement

ADVANTAGE = find_property("advantage")
GRID = [2, 4, 8, 16, 32]


def _curve(sae_kl: float, *, n: int = 40) -> Measurement:
    """Sums of a run in which KL falls with the number of components, and texts are hard or easy."""
    hard = np.random.default_rng(0).gamma(30, 1 / 30, n)
    table = {f"{components(k)}.{c}": hard / k**1.5 for k in GRID for c in ("kl", "ce")}
    table |= {"sae.kl": sae_kl * hard, "sae.ce": hard}
    table |= {"l0": np.full(n, 5.0), "n.scored": np.ones(n), "n.targets": np.ones(n)}
    names = ("sae", *(components(k) for k in GRID))
    sums = TokenSums(n, 2, by_sequence=table)
    return Measurement(sums, names, np.zeros(3, dtype=np.int64), "resumed")


def _found(measurement: Measurement) -> dict:
    return {m.name: m for m in ADVANTAGE.findings(measurement, {"k": "curve"}).metrics}


@pytest.mark.parametrize("worth", [2.0, 3.1, 8.0, 15.9, 30.0])
def test_equivalent_components_are_where_pcas_kl_is_the_saes(worth):
    found = _found(_curve(worth**-1.5))["advantage.equivalent_components"]
    by_scipy = interp1d(np.log([k**-1.5 for k in GRID]), np.log(GRID))
    assert found.value == pytest.approx(float(np.exp(by_scipy(np.log(worth**-1.5)))), rel=1e-6)
    assert found.value == pytest.approx(worth, rel=1e-6)
    assert found.ci.low <= found.value <= found.ci.high


@pytest.mark.parametrize(("kl", "worth"), [(9.0, 2), (1e-9, 32)])
def test_beyond_the_curve_it_is_the_curves_end(kl, worth):
    found = _found(_curve(kl))
    assert found["advantage.equivalent_components"].value == pytest.approx(worth)
    assert found["advantage.equivalent_ratio"].value == pytest.approx(worth / 5)


def test_an_sae_without_active_features_is_worth_no_ratio():
    measurement = _curve(0.1)
    measurement.sums.by_sequence["l0"][:] = 0
    ratio = _found(measurement)["advantage.equivalent_ratio"]
    assert ratio.value is None
    assert "no feature" in ratio.note


@pytest.mark.parametrize(("l0", "width"), [(0.0, 16), (0.3, 64), (7.5, 128), (900.0, 768)])
def test_a_curve_begins_at_a_quarter_of_l0_and_ends_at_the_width(l0, width):
    sizes = grid(l0, width)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == width
    assert sizes[0] <= max(1, round(l0 / 4))


def test_the_two_cases_read_different_experiments():
    settings = Settings()
    assert ADVANTAGE.experiment_of({}, settings) == SEQUENCES
    assert ADVANTAGE.experiment_of({"k": "curve"}, settings) == PrincipalComponents()
    with pytest.raises(OptionError, match="did you mean 'curve'"):
        ADVANTAGE.interventions({"k": "curves"})


def test_a_trained_sae_is_worth_more_components_than_it_has_features():
    run = saebench.judge("demo:l2-topk", properties=["advantage"], sequences=24)
    found = {m.name: m.value for case in run.cases for m in case.metrics}
    assert found["advantage.equivalent_ratio"] > 1.5
    assert found["advantage.kl_ratio"] < 0.1
    (curve,) = (c.series["curve"] for c in run.cases if "curve" in c.series)
    assert np.all(np.diff(curve["kl_pca"]) < 0)
    assert curve["kl_pca"][-1] < 1e-6


def test_an_sae_hardly_sparser_than_the_activation_fails():
    run = saebench.judge("demo:l2-dense", properties=["advantage"], sequences=24)
    gates = {gate.rule: gate for case in run.cases for gate in case.gates}
    assert gates["advantage.kl_ratio<=0.5"].verdict.value == "FAIL"
