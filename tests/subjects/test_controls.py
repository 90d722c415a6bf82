"""The negative controls fail the gate, and the identity passes it."""

import pytest
import torch

import saebench
from saebench.errors import SubjectError
from saebench.records.verdict import Verdict, overall
from saebench.subjects.made_controls import CONTROLS, make_control


@pytest.fixture(scope="module")
def trained(real_data):
    from sae_lens import SAE

    return SAE.load_from_disk(real_data.sae("l2-standard"))


def _judged(control, real_data):
    return saebench.judge(
        control, real_data.model, real_data.heldout, hook="blocks.2.hook_resid_pre",
        properties=["fidelity", "kl_gap", "shrinkage"], sequences=24, context=64,
        prepend_bos=True, interventions=("eps_random",), allow_partial=True,
    )  # fmt: skip


def test_the_identity_changes_nothing_and_passes(trained, real_data):
    run = _judged(make_control("identity", trained), real_data)
    metrics = {m.name: m.value for case in run.cases for m in case.metrics}
    assert metrics["fidelity.kl"] <= 1e-6
    assert metrics["fidelity.explained_variance"] == pytest.approx(1)
    assert run.passed


@pytest.mark.parametrize("name", [name for name in CONTROLS if name != "identity"])
def test_a_negative_control_fails(name, trained, real_data):
    run = _judged(make_control(name, trained), real_data)
    assert overall(case.verdict for case in run.cases) is Verdict.FAIL


@pytest.mark.parametrize("name", CONTROLS)
def test_making_a_control_leaves_the_trained_sae_as_it_is(name, trained):
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    make_control(name, trained).encode(torch.ones(1, 64))
    assert all(torch.equal(before[key], value) for key, value in trained.state_dict().items())


def test_an_unknown_control_names_the_nearest(trained):
    with pytest.raises(SubjectError, match="did you mean 'identity'"):
        make_control("identiti", trained)
