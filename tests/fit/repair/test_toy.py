"""One binary feature, whose shrinkage has an analytic answer (Wright & Sharkey 2024)."""

import pytest
import torch

from saebench.fit import Plan
from saebench.fit.loop import fit
from saebench.fit.repair import Method
from saebench.fit.repair.repair_tasks import BaselineTask, ScaledTask
from saebench.fit.repair.suppression import taken_off
from saebench.fit.stream import START, Place

G, L1, WIDTH = 2.0, 1.0, 4
DIRECTION = torch.nn.functional.normalize(torch.tensor([1.0, -2.0, 0.5, 1.0]), dim=0)


class Binary:
    """x = g·d with probability a half, else 0."""

    def batches(self, start=START):
        number = start.batch
        while True:
            generator = torch.Generator().manual_seed(number)
            on = torch.rand(256, 1, generator=generator) < 0.5
            number += 1
            yield on * G * DIRECTION, Place(0, number)


def shrunken():
    from sae_lens import StandardSAE, StandardSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    details = {"l1_coefficient": L1, "lp_norm": 1.0}
    metadata = SAEMetadata(training_architecture="standard", training_architecture_details=details)
    sae = StandardSAE(
        StandardSAEConfig(d_in=WIDTH, d_sae=1, apply_b_dec_to_input=False, metadata=metadata)
    )
    with torch.no_grad():
        sae.W_enc.copy_(0.8 * DIRECTION[:, None])
        sae.W_dec.copy_(0.9 * DIRECTION[None])
    task = BaselineTask(sae, G * DIRECTION[None])
    for name, parameter in task.module.named_parameters():
        parameter.requires_grad_(not name.endswith(("b_enc", "b_dec")))
    fit(task, Binary(), Plan(tokens=400_000, learning_rate=3e-3, tolerance=0))
    return task.finished()


def test_an_sae_of_one_binary_feature_shrinks_by_the_predicted_amount_and_scale_repairs_it():
    sae = shrunken()
    with torch.no_grad():
        strength = sae(G * DIRECTION[None]).norm().item()
    assert strength == pytest.approx(G - taken_off(L1), abs=0.01)
    task = ScaledTask(sae, Method.SCALE, G * DIRECTION[None])
    fit(task, Binary(), Plan(tokens=400_000, learning_rate=3e-3, tolerance=0))
    assert task.scaled.scale.item() == pytest.approx(G / (G - L1 / 2), rel=0.01)
    with torch.no_grad():
        assert task.finished()(G * DIRECTION[None]).norm().item() == pytest.approx(G, abs=0.01)
