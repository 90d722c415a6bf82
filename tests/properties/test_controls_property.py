"""Margins of the trained SAE over its controls, on made-up sums."""

from typing import Any

import numpy as np
import pytest

from saebench.errors import UndefinedDirection
from saebench.measures.state import WithPeers
from saebench.measures.sums import TokenSums
from saebench.properties import find_property
from saebench.properties.controls import NEGATIVE, PRIMARY
from saebench.records.metric import Metric
from saebench.substitution.measurement import Measurement

N = 20


def _measurement(seed: int = 0, **means: float) -> Measurement:
    """Made-up per-sequence sums with these means; sequences are hard or easy for all alike."""
    usual = {
        "n.scored": 50, "n.targets": 49, "clean.ce": 100, "sae.ce": 105, "current_token.ce": 300,
        "eps_random.ce": 103, "sae.kl": 5, "eps_random.kl": 3, "norm_ratio": 45,
        "l0": 600, "squared_error": 10, "squared_deviation": 100,
    }  # fmt: skip
    hard = np.random.default_rng(99).gamma(20, 1 / 20, N)
    rng = np.random.default_rng(seed)
    table = {c: m * hard * rng.gamma(400, 1 / 400, N) for c, m in (usual | means).items()}
    table |= {c: np.full(N, float(usual[c])) for c in ("n.scored", "n.targets")}
    table["clean.ce"] = 100 * hard
    sums = TokenSums(N, 10, by_sequence=table)
    return Measurement(sums, ("sae", "eps_random"), np.zeros(3, dtype=np.int64), "resumed")


def _identity() -> Measurement:
    found = _measurement()
    for channel in ("sae.kl", "squared_error"):
        found.sums.by_sequence[channel] = np.zeros(N)
    return found


def _among(**changes: Any) -> WithPeers:
    controls = {
        "identity": _identity(),
        "permuted_decoder": _measurement(1, **{"sae.ce": 280, "norm_ratio": 80}),
        "random_init": _measurement(2, **{"sae.ce": 240, "norm_ratio": 200, "l0": 12000}),
        "l0_matched_random": _measurement(3, **{"sae.ce": 260, "norm_ratio": 30}),
        "scaled": _measurement(4, **{"sae.ce": 140, "norm_ratio": 31}),
    }
    return WithPeers(_measurement(), controls | changes)


def _findings(among: WithPeers) -> Any:
    return find_property("controls").findings(among, {})


def _found(among: WithPeers) -> dict[str, Metric]:
    return {m.name.removeprefix("controls."): m for m in _findings(among).metrics}


def _ratio(measurement: Measurement, over: str, under: str) -> float:
    table = measurement.table()
    return table[over].sum() / table[under].sum()


@pytest.mark.parametrize("control", NEGATIVE)
def test_a_margin_is_how_much_better_the_trained_sae_is(control):
    among = _among()
    found, own, other = _found(among), among.own, among.others[control]
    kl, l0 = (
        [_ratio(m, a, b) for m in (own, other)]
        for a, b in (("sae.kl", "eps_random.kl"), ("l0", "n.scored"))
    )
    length = [abs(_ratio(m, "norm_ratio", "n.scored") - 1) for m in (own, other)]
    score = []
    for m in (own, other):
        sae, clean, alone = (m.table()[f"{c}.ce"].sum() for c in ("sae", "clean", "current_token"))
        score.append(1 - (sae - clean) / (alone - clean))
    assert found[f"margin[fidelity:{control}]"].value == pytest.approx(score[0] - score[1])
    for about, (mine, theirs) in {"kl_gap": kl, "sparsity": l0, "shrinkage": length}.items():
        assert found[f"margin[{about}:{control}]"].value == pytest.approx(theirs - mine)


def test_a_margin_is_paired():
    """Hard sequences are hard for both: the margin is known better than either side."""
    among = _among()
    margin = _found(among)["margin[sparsity:scaled]"].ci
    shuffled = dict(among.others["scaled"].table())
    order = np.random.default_rng(5).permutation(N)
    other = _measurement()
    other.sums.by_sequence |= {c: values[order] for c, values in shuffled.items()}
    unpaired = _found(_among(scaled=other))["margin[sparsity:scaled]"].ci
    assert margin.high - margin.low < 0.5 * (unpaired.high - unpaired.low)


def test_separated_is_the_share_of_controls_that_the_trained_sae_is_clearly_better_than():
    found = _found(_among())
    for about in PRIMARY:
        margins = [found[f"margin[{about}:{control}]"] for control in NEGATIVE]
        separated = sum(margin.ci.low > 0 for margin in margins)
        assert found[f"separated[{about}]"].value == separated / 4
    assert found["separated[fidelity]"].value == 1
    assert found["separated[sparsity]"].value < 1


def test_a_property_that_cannot_tell_a_control_says_so():
    sentences = _findings(_among()).series["sentences"]
    assert any("sparsity.l0 cannot tell it from" in s and "scaled" in s for s in sentences)
    assert not any(s.startswith("fidelity") for s in sentences)


def test_a_property_that_prefers_a_control_says_so():
    better = _measurement(4, **{"sae.kl": 1.0})
    sentences = _findings(_among(scaled=better)).series["sentences"]
    assert "kl_gap.ratio[eps_random] finds it worse than scaled" in sentences


def test_the_identity_is_measured_by_its_kl_and_explained_variance():
    found = _found(_among())
    assert (found["identity_kl"].value, found["identity_kl"].ci.high) == (0, 0)
    assert found["identity_explained_variance"].value == 1
    off = _measurement()
    wrong = _found(_among(identity=off))
    assert wrong["identity_kl"].value == pytest.approx(_ratio(off, "sae.kl", "n.scored"))
    explained = 1 - _ratio(off, "squared_error", "squared_deviation")
    assert wrong["identity_explained_variance"].value == pytest.approx(explained)


def test_a_ratio_below_the_floor_is_undefined_and_counts_as_not_told_apart():
    tiny = _measurement(1, **{"eps_random.kl": 1e-6})
    found = _found(_among(scaled=tiny))
    margin = found["margin[kl_gap:scaled]"]
    assert margin.value is None
    assert "below 0.0001" in margin.note


def test_controls_that_could_not_be_made_are_named_and_left_out():
    among = _among()
    others = {n: m for n, m in among.others.items() if n != "permuted_decoder"}
    left = WithPeers(among.own, others, {"permuted_decoder": "no decoder matrix W_dec"})
    findings = _findings(left)
    names = {m.name for m in findings.metrics}
    assert not any("permuted_decoder" in name for name in names)
    assert (
        "permuted_decoder could not be measured: no decoder matrix W_dec"
        in (findings.series["sentences"])
    )


def test_without_any_control_separation_is_undefined_and_the_identity_is_not_reported():
    found = _found(WithPeers(_measurement(), {}, dict.fromkeys(("identity", *NEGATIVE), "why")))
    assert found["separated[fidelity]"].value is None
    assert "identity_kl" not in found


def test_a_failed_substitution_of_the_sae_is_the_cases_error():
    among = _among()
    among.own.failures["eps_random"] = UndefinedDirection("no direction")
    with pytest.raises(UndefinedDirection):
        _found(among)
