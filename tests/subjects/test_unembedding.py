"""The last step is read off the model's own logits, and unknown ones are not guessed."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import make_model

from saebench.errors import HostError
from saebench.subjects.host import Host
from saebench.subjects.unembedding import LastStep, find_last_step

Z = 8 * torch.randn(6, 40, generator=torch.Generator().manual_seed(0))


def _config(**numbers: Any) -> Any:
    return SimpleNamespace(to_dict=lambda: numbers)


def _found(logits: torch.Tensor, **numbers: Any) -> LastStep | None:
    return find_last_step(Z, logits, _config(**numbers), tolerance=1e-4)


def test_a_scale_is_found_by_the_configurations_number():
    assert _found(Z * 0.0625, logit_scale=0.0625) == LastStep(scale=0.0625)


def test_a_divisor_is_found_too():
    assert _found(Z / 6, logits_scaling=6) == LastStep(scale=1 / 6)


def test_a_scale_that_no_configuration_names_is_fitted():
    step = _found(Z * 0.3)
    assert step is not None
    assert step.scale == pytest.approx(0.3, rel=1e-6)


def test_a_cap_with_a_scale_is_found():
    step = _found(30 * torch.tanh(Z * 2 / 30), output_logit_soft_cap=30.0, logit_scale=2.0)
    assert step == LastStep(scale=2.0, cap=30.0)


def test_a_cap_that_the_model_does_not_use_is_not_used():
    assert _found(Z.clone(), final_logit_softcapping=30.0) == LastStep()


def test_in_half_precision_a_cap_is_not_taken_for_nothing():
    """At these sizes a cap of 100 moves logits by less than the tolerance of bfloat16."""
    logits = (100 * torch.tanh(Z / 100)).bfloat16().float()
    step = find_last_step(Z, logits, _config(final_logit_softcapping=100.0), tolerance=5e-2)
    assert step == LastStep(cap=100.0)


def test_what_is_no_known_step_is_none():
    assert _found(Z.square()) is None


@pytest.mark.parametrize("step", [LastStep(), LastStep(0.5), LastStep(cap=5.0), LastStep(2.0, 9.0)])
def test_the_gradient_goes_back_through_the_step(step: LastStep):
    z = Z.double().requires_grad_()
    logits = z * step.scale
    logits = logits if step.cap is None else step.cap * torch.tanh(logits / step.cap)
    slope = torch.randn_like(logits)
    (logits * slope).sum().backward()
    torch.testing.assert_close(step.back_(slope.clone(), logits.detach()), z.grad)


def test_a_host_whose_logits_are_something_else_is_refused():
    model = make_model("llama")
    model.lm_head.register_forward_hook(lambda *a: a[2].square())
    with pytest.raises(HostError, match="logits are not its output embedding"):
        Host(model, None, name="odd")
