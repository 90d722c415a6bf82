"""Each metric against its formula in docs/metrics.md, on a measurement with made-up sums."""

from typing import Any

import numpy as np
import pytest
import torch

from saebench.errors import NonFiniteValue, OptionError, UndefinedDirection
from saebench.gates.thresholds import parse_rule
from saebench.gates.verdicts import decide
from saebench.measures.names import INTERVENTIONS
from saebench.measures.sums import TokenSums
from saebench.properties import find_property, metric_names, properties
from saebench.properties.kl_gap import BASELINES, DECIDING, FLOOR
from saebench.records.metric import Direction, Metric
from saebench.records.verdict import Verdict
from saebench.substitution.measurement import Measurement
from saebench.substitution.pursuit import PursuitErrors

N, T, FEATURES = 10, 9, 30
PER_TOKEN = (
    "squared_error", "squared_deviation", "squared_output", "inner_product", "norm_ratio",
    "cosine", "l0", "dense", "l1", "l1_unit", "norm", "error_along_mean",
    "pca_matched.squared_error",
)  # fmt: skip


class _World:
    """Made-up values of every token; metrics are recomputed from them token by token."""

    def __init__(self, *, seed: int = 0, kl_scale: float = 1.0) -> None:
        rng = np.random.default_rng(seed)
        self.scored = rng.random((N, T)) < 0.8
        self.scored[:, 0] = False
        self.targets = self.scored.copy()
        self.targets[:, -1] = False
        self.values = {name: rng.gamma(2, 1, (N, T)) for name in PER_TOKEN}
        self.values["squared_deviation"] += 8
        self.values["exact"] = (rng.random((N, T)) < 0.3).astype(float)
        self.ce = {"clean": rng.gamma(2, 1, (N, T))}
        self.kl, self.tv, self.agrees = {}, {}, {}
        for i, name in enumerate(INTERVENTIONS):
            self.kl[name] = kl_scale * rng.gamma(1, 0.3 + 0.1 * i, (N, T))
            self.tv[name] = rng.random((N, T))
            self.agrees[name] = (rng.random((N, T)) < 0.7).astype(float)
            self.ce[name] = self.ce["clean"] + kl_scale * rng.gamma(1, 0.5 + 0.1 * i, (N, T))
        self.ce["current_token"] = self.ce["clean"] + rng.gamma(2, 1, (N, T))
        self.fired = rng.integers(0, 4, FEATURES)

    def measurement(self) -> Measurement:
        sums = TokenSums(N, T)
        self._fill(sums)
        pursuit = PursuitErrors(np.array([1.0, 2, 3]), np.array([4.0, 5, 6]), np.array([0, 1, 2]))
        return Measurement(sums, INTERVENTIONS, self.fired, "resumed", pursuit=pursuit)

    def _fill(self, sums: TokenSums) -> None:
        everywhere = slice(0, N)
        scored, targets = torch.from_numpy(self.scored), torch.from_numpy(self.targets)
        sums.count("n.scored", scored, rows=everywhere)
        sums.count("n.targets", targets, rows=everywhere)

        def add(channel: str, values: np.ndarray, mask: torch.Tensor) -> None:
            sums.add(channel, torch.from_numpy(values), mask=mask, rows=everywhere)

        for name, values in self.values.items():
            add(name, values, scored)
        for name, values in self.ce.items():
            add(f"{name}.ce", values, targets)
        for name in INTERVENTIONS:
            add(f"{name}.kl", self.kl[name], scored)
            add(f"{name}.tv", self.tv[name], scored)
            add(f"{name}.agrees", self.agrees[name], scored)
            above = (self.kl["sae"] > self.kl[name]).astype(float)
            add(f"{name}.exceeded", above, scored)
            sums.tally(f"{name}.kl", torch.from_numpy(self.kl[name][self.scored]))

    def mean(self, values: np.ndarray, *, of: str = "scored") -> float:
        """Return the pooled mean, token by token."""
        mask = getattr(self, of)
        kept = [values[s, t] for s in range(N) for t in range(T) if mask[s, t]]
        return sum(kept) / len(kept)

    def mean_ce(self, name: str) -> float:
        return self.mean(self.ce[name], of="targets")


def _found(name: str, world: _World, **params: Any) -> dict[str, Metric]:
    findings = find_property(name).findings(world.measurement(), params)
    return {metric.name: metric for metric in findings.metrics}


def _assert_values(metrics: dict[str, Metric], expected: dict[str, float]) -> None:
    for name, value in expected.items():
        # float64 sums in another order; differences of them lose a digit or two.
        assert metrics[name].value == pytest.approx(value, rel=1e-10, abs=1e-12), name


def test_fidelity_is_its_formulas():
    w = _World()
    kl, ce = {n: w.mean(v) for n, v in w.kl.items()}, {n: w.mean_ce(n) for n in w.ce}
    mean = {name: w.mean(values) for name, values in w.values.items()}
    metrics = _found("fidelity", w)
    expected = {
        "fidelity.kl": kl["sae"],
        "fidelity.context_recovered": 1
        - (ce["sae"] - ce["clean"]) / (ce["current_token"] - ce["clean"]),
        "fidelity.ce_increase": ce["sae"] - ce["clean"],
        "fidelity.kl_score": (kl["zero"] - kl["sae"]) / kl["zero"],
        "fidelity.ce_score": (ce["zero"] - ce["sae"]) / (ce["zero"] - ce["clean"]),
        "fidelity.top1_agreement": w.mean(w.agrees["sae"]),
        "fidelity.tv": w.mean(w.tv["sae"]),
        "fidelity.explained_variance": 1 - mean["squared_error"] / mean["squared_deviation"],
        "fidelity.mse": mean["squared_error"],
        "fidelity.cosine": mean["cosine"],
    }
    _assert_values(metrics, expected)
    assert set(metrics) == set(expected)


def test_kl_gap_is_its_formulas_for_every_baseline():
    w = _World()
    metrics = _found("kl_gap", w)
    sae, rise = w.mean(w.kl["sae"]), w.mean_ce("sae") - w.mean_ce("clean")
    for b in BASELINES:
        kl, above = w.mean(w.kl[b]), (w.kl["sae"] > w.kl[b]).astype(float)
        _assert_values(
            metrics,
            {
                f"kl_gap.ratio[{b}]": sae / kl,
                f"kl_gap.difference[{b}]": sae - kl,
                f"kl_gap.ce_ratio[{b}]": rise / (w.mean_ce(b) - w.mean_ce("clean")),
                f"kl_gap.share_above[{b}]": w.mean(above),
                f"kl_gap.kl[{b}]": kl,
            },
        )
    explained = w.mean(w.kl["sae_norm"]) / sae
    _assert_values(metrics, {"kl_gap.explained_by_norm": explained, "kl_gap.kl[sae]": sae})
    constant = w.mean(w.values["error_along_mean"]) / w.mean(w.values["squared_error"])
    gain = w.mean_ce("current_token") - w.mean_ce("clean")
    shares = {"kl_gap.constant_share": constant, "kl_gap.share_of_context": sae / gain}
    shares["kl_gap.exact_share"] = w.mean(w.values["exact"])
    _assert_values(metrics, shares)


def test_advantage_is_its_formulas():
    w = _World()
    mean = {name: w.mean(values) for name, values in w.values.items()}
    expected = {
        "advantage.kl_ratio": w.mean(w.kl["sae"]) / w.mean(w.kl["pca_matched"]),
        "advantage.fvu_ratio": mean["squared_error"] / mean["pca_matched.squared_error"],
        "advantage.random_dictionary_ratio": 6.0 / 15.0,
        "advantage.kl_pca": w.mean(w.kl["pca_matched"]),
    }
    metrics = _found("advantage", w)
    _assert_values(metrics, expected)
    assert set(metrics) == set(expected)


def test_an_sae_no_sparser_than_the_activation_fails_and_says_so():
    metrics = _found("advantage", _World(kl_scale=1e-5))
    for name in ("advantage.kl_ratio", "advantage.fvu_ratio"):
        metric = metrics[name]
        assert metric.value is None
        assert "no sparser than the activation" in metric.note
        gate = decide(parse_rule(f"{name}<=0.5"), metrics)
        assert gate.verdict is Verdict.FAIL
        assert "no sparser" in gate.sentence


def test_a_transcoders_advantage_is_reported_and_decides_nothing():
    measurement = _World().measurement()
    measurement.transcodes = True
    found = find_property("advantage").findings(measurement, {}).metrics
    assert [m.decides for m in found] == [False, False, False, True]


def test_the_share_of_context_is_undefined_for_a_model_that_gains_nothing_from_it():
    world = _World()
    world.ce["current_token"] = world.ce["clean"] + 0.01
    metrics = _found("fidelity", world)
    metric = metrics["fidelity.context_recovered"]
    assert metric.value is None
    assert "0.01 nats, less than 0.1" in metric.note
    gate = decide(parse_rule("fidelity.context_recovered>=0.8"), metrics)
    assert gate.metric == "fidelity.ce_increase"
    # A fifth of the least gain in nats: 0.02.
    assert gate.verdict is Verdict.FAIL
    assert "at most 0.02" in gate.sentence


@pytest.mark.parametrize(("scale", "verdict"), [(0.001, "PASS"), (0.3, "FAIL")])
def test_a_gap_fails_only_where_the_effect_is_not_negligible(scale: float, verdict: str):
    world = _World(kl_scale=scale)
    world.kl["sae"] = 8 * world.kl["eps_random"]
    metrics = _found("kl_gap", world)
    gate = decide(parse_rule("kl_gap.ratio[eps_random]<=2"), metrics)
    assert gate.verdict.value == verdict
    assert ("negligible" in gate.sentence) == (verdict == "PASS")


def test_a_sentence_names_the_baseline_that_the_sae_is_worst_against():
    world = _World()
    world.kl["sae"] = 3 * world.kl["eps_random"]
    world.kl["cov_random"] = world.kl["sae"] * 0.9
    said = find_property("kl_gap").findings(world.measurement(), {}).series["sentences"]
    assert said[0] == "Of the random errors the SAE is worst against eps_random: 3 ×."
    assert "cov_random it is 1.11 ×" in said[1]


def test_the_tail_of_kl_is_its_quantile_within_a_bin():
    w = _World()
    metrics = _found("kl_gap", w)
    for name in ("sae", *BASELINES):
        expected = np.quantile(w.kl[name][w.scored], 0.999, method="inverted_cdf")
        # A bin of the histogram is 2.3% wide.
        assert metrics[f"kl_gap.kl_p99.9[{name}]"].value == pytest.approx(expected, rel=0.024)


def test_shrinkage_is_its_formulas():
    w = _World()
    v = w.values
    metrics = _found("shrinkage", w)
    bias = w.mean(v["squared_output"]) / w.mean(v["inner_product"])
    _assert_values(
        metrics,
        {"shrinkage.l2_ratio": w.mean(v["norm_ratio"]), "shrinkage.reconstruction_bias": bias},
    )
    assert {(m.direction, m.target) for m in metrics.values()} == {(Direction.TARGET, 1.0)}


def test_sparsity_is_its_formulas():
    w = _World()
    dead = sum(1 for f in w.fired if f == 0) / FEATURES
    expected = {f"sparsity.{n}": w.mean(w.values[n]) for n in ("l0", "l1")}
    expected |= {"sparsity.l1_unit_decoder": w.mean(w.values["l1_unit"]), "sparsity.dead": dead}
    expected["sparsity.dense_share"] = w.mean(w.values["dense"])
    _assert_values(_found("sparsity", w), expected)


def test_the_density_histogram_counts_every_feature_once():
    w = _World()
    findings = find_property("sparsity").findings(w.measurement(), {})
    series = findings.series["density_histogram"]
    density = [f / w.scored.sum() for f in w.fired if f > 0]
    assert series["counts"] == np.histogram(density, bins=series["edges"])[0].tolist()
    assert sum(series["counts"]) + series["dead"] == FEATURES


def test_curves_by_position_are_means_over_sequences():
    w = _World()
    curve = find_property("fidelity").findings(w.measurement(), {}).series["kl_by_position"]
    assert curve[0] is None
    for t in range(1, T):
        kept = w.kl["sae"][w.scored[:, t], t]
        assert curve[t] == pytest.approx(kept.mean(), rel=1e-12)  # order of additions


def test_below_the_floor_the_ratio_is_undefined_and_the_gate_reads_the_difference():
    metrics = _found("kl_gap", _World(kl_scale=1e-5))
    for b in BASELINES:
        ratio = metrics[f"kl_gap.ratio[{b}]"]
        assert ratio.value is None
        assert ratio.ci is None
        assert "undefined" in ratio.note
        assert ratio.fallback.metric == f"kl_gap.difference[{b}]"
        assert metrics[f"kl_gap.difference[{b}]"].value is not None
        assert metrics[f"kl_gap.ce_ratio[{b}]"].value is None
    assert metrics["kl_gap.explained_by_norm"].value is None


def test_above_the_floor_the_ratio_is_defined_and_stands_for_itself():
    ratio = _found("kl_gap", _World(kl_scale=100 * FLOOR))["kl_gap.ratio[eps_random]"]
    assert ratio.value is not None
    assert (ratio.note, ratio.fallback) == (None, None)


def test_an_intervention_list_limits_what_is_measured_and_reported():
    asked = {"interventions": ("eps_random", "zero")}
    wanted = {*DECIDING, "zero"}  # those that decide are always measured
    assert set(find_property("kl_gap").interventions(asked)) == {"sae", "current_token", *wanted}
    metrics = _found("kl_gap", _World(), **asked)
    ratios = {name for name in metrics if ".ratio[" in name}
    assert ratios == {f"kl_gap.ratio[{name}]" for name in wanted}
    assert "kl_gap.explained_by_norm" not in metrics


def test_an_unknown_scope_or_intervention_names_the_nearest():
    interventions = find_property("kl_gap").interventions
    with pytest.raises(OptionError, match="'al'; did you mean 'all'"):
        interventions({"scope": "al"})
    with pytest.raises(OptionError, match="'eps_randm'; did you mean 'eps_random'"):
        interventions({"interventions": ("eps_randm",)})


def test_an_unknown_property_names_the_nearest():
    with pytest.raises(OptionError, match="did you mean 'kl_gap'"):
        find_property("klgap")


def test_a_failed_intervention_fails_the_properties_that_need_it_only():
    measurement = _World().measurement()
    measurement.failures["sae_norm"] = UndefinedDirection("no direction")
    with pytest.raises(UndefinedDirection, match="no direction"):
        find_property("kl_gap").findings(measurement, {})
    assert find_property("fidelity").findings(measurement, {}).metrics


@pytest.mark.parametrize("channel", ["sae.kl", "sae.ce", "zero.kl"])
def test_nan_is_an_error_and_never_a_value(channel: str):
    measurement = _World().measurement()
    measurement.sums.by_sequence[channel][3] = float("nan")
    with pytest.raises(NonFiniteValue, match=f"{channel}.*sequence 3"):
        find_property("fidelity").findings(measurement, {})


@pytest.mark.parametrize("name", ["shrinkage", "sparsity"])
def test_nan_of_the_saes_own_sums_is_an_error(name: str):
    measurement = _World().measurement()
    for channel in ("norm_ratio", "l0"):
        measurement.sums.by_sequence[channel][3] = float("nan")
    with pytest.raises(NonFiniteValue):
        find_property(name).findings(measurement, {})


@pytest.mark.parametrize("name", ["fidelity", "kl_gap", "shrinkage", "sparsity", "advantage"])
def test_every_metric_is_declared_and_has_its_value_inside_its_interval(name: str):
    for metric in _found(name, _World()).values():
        assert metric.name in metric_names()
        assert metric.name.startswith(f"{name}.")
        assert metric.version >= 1
        if metric.ci is not None:
            assert metric.ci.low <= metric.value <= metric.ci.high


def test_metrics_of_ce_count_the_tokens_that_have_a_target():
    w = _World()
    metrics = _found("fidelity", w)
    assert metrics["fidelity.ce_increase"].n.tokens == w.targets.sum()
    assert metrics["fidelity.kl"].n.tokens == w.scored.sum()


def test_no_metric_name_is_declared_twice():
    names = [spec.name for p in properties().values() for spec in p.metrics]
    assert len(names) == len(set(names))
