"""Runs compared with stored baselines, through the judge."""

import numpy as np
import pytest
from stored import MODEL, make_data, make_sums, store

import saebench
from saebench.compare.differences import SideCase, how_much_worse
from saebench.compare.sides import side_of_baseline
from saebench.errors import OptionError
from saebench.gates.thresholds import parse_rule
from saebench.gates.verdicts import BaselineGap, NoComparison
from saebench.judging.deciding import baseline_gap
from saebench.properties import find_property
from saebench.records.boards import Score
from saebench.records.case_result import Basis
from saebench.records.verdict import Verdict
from saebench.store.baselines import load_baseline

KL = next(spec for spec in find_property("fidelity").metrics if spec.name == "fidelity.kl")


def _side(path):
    return side_of_baseline(load_baseline(path), path)


def _now(path):
    """Return what a run found, as the baseline at this path has it."""
    return _side(path).cases["fidelity"]


def test_the_interval_is_that_of_resampling_the_same_sequences_of_both(tmp_path):
    one, two = (_now(store(tmp_path, id, kl=kl)) for id, kl in (("one", 0.1), ("two", 0.11)))
    found = how_much_worse(KL, (one, two), relative=True)
    value, ci = found.value, found.ci
    assert found.paired
    before, after = (make_sums(kl=kl) for kl in (0.1, 0.11))
    share = after["sae.kl"].sum() / before["sae.kl"].sum() - 1
    assert value == pytest.approx(share, rel=1e-9)
    rng = np.random.default_rng(1)
    drawn = [rng.integers(0, 48, 48) for _ in range(4000)]
    resampled = [after["sae.kl"][d].sum() / before["sae.kl"][d].sum() - 1 for d in drawn]
    low, high = np.quantile(resampled, [0.025, 0.975])
    # Two ways of making an interval of 48 sequences agree to a fifth of their width.
    assert [ci.low, ci.high] == pytest.approx([low, high], abs=0.2 * (high - low))


def test_pairs_are_far_tighter_than_the_two_intervals_apart(tmp_path):
    one, two = (_now(store(tmp_path, id, kl=kl)) for id, kl in (("one", 0.1), ("two", 0.11)))
    paired = how_much_worse(KL, (one, two), relative=True).ci
    apart = tuple(SideCase(case.basis, case.metrics) for case in (one, two))
    found = how_much_worse(KL, apart, relative=True)
    unpaired = found.ci
    assert not found.paired
    assert unpaired.high - unpaired.low > 5 * (paired.high - paired.low)


def test_other_tokens_are_incomparable_and_a_missing_case_is_new(tmp_path):
    side = _side(store(tmp_path, "one", without=("sparsity",)))
    elsewhere = _now(store(tmp_path, "two", data=make_data(fingerprint="2" * 64)))
    found, _ = baseline_gap(parse_rule("fidelity.kl:+5%"), "fidelity", elsewhere, side)
    assert isinstance(found, NoComparison)
    assert found.verdict is Verdict.INCOMPARABLE
    assert "other tokens: 11111111 and 22222222" in found.reason
    found, _ = baseline_gap(parse_rule("sparsity.l0:+5%"), "sparsity", elsewhere, side)
    assert isinstance(found, NoComparison)
    assert found.verdict is Verdict.NEW


def test_an_older_version_of_a_metric_is_incomparable(tmp_path):
    side = _side(store(tmp_path, "one", versions={"fidelity.kl": 0}))
    now = SideCase(
        Basis(MODEL.weights_sha256, "float32", "1" * 64, 0), {"fidelity.kl": Score(1, 0.1, None)}
    )
    found, _ = baseline_gap(parse_rule("fidelity.kl:+5%"), "fidelity", now, side)
    assert isinstance(found, NoComparison)
    assert "versions 0 and 1" in found.reason


def test_an_equal_sae_is_no_worse(tmp_path):
    path = store(tmp_path, "one")
    found, _ = baseline_gap(parse_rule("fidelity.kl:+5%"), "fidelity", _now(path), _side(path))
    assert isinstance(found, BaselineGap)
    assert (found.worse_by, found.ci.low, found.ci.high) == (0, 0, 0)


def test_a_margin_needs_a_baseline_and_a_baseline_a_margin(tiny, tmp_path):
    with pytest.raises(OptionError, match="--sae-baseline"):
        saebench.judge(
            tiny.good, tiny.model, tiny.texts, sequences=8, properties="fidelity",
            fail_on=("fidelity.kl:+5%",),
        )  # fmt: skip
    limits = tmp_path / "limits.toml"
    limits.write_text('schema_version = 1\n[fidelity]\ngates = [{ rule = "fidelity.kl<=1" }]\n')
    with pytest.raises(OptionError, match="nothing would be compared"):
        saebench.judge(
            tiny.good, tiny.model, tiny.texts, sequences=8, properties="fidelity",
            thresholds=str(limits), baseline=str(tmp_path),
        )  # fmt: skip
