"""The loop of a fit: resuming, NaN, convergence."""

import pytest
import torch

from saebench.errors import NonFiniteValue, OptionError, StoreError
from saebench.fit import Plan
from saebench.fit.loop import fit
from saebench.fit.saving import Checkpoint
from saebench.fit.stream import START, Place

PLAN = Plan(tokens=4000, check_tokens=500, tolerance=0)


class Line:
    """Fits y = w·x to y = 3x."""

    def __init__(self, poison=None):
        self.module = torch.nn.Linear(4, 1, bias=False)
        torch.nn.init.ones_(self.module.weight)
        self._poison, self._steps = poison, 0

    def loss(self, batch):
        self._steps += 1
        loss = (self.module(batch) - 3 * batch.sum(1, keepdim=True)).square().mean()
        return loss * float("nan") if self._steps == self._poison else loss

    def check(self):
        with torch.no_grad():
            return float((self.module.weight - 3).square().sum())


class Noise:
    def batches(self, start=START):
        at = start.batch
        while True:
            at += 1
            x = torch.randn(100, 4, generator=torch.Generator().manual_seed(at))
            yield x, Place(0, at)


def test_a_resumed_fit_ends_with_the_same_bits(tmp_path):
    uninterrupted, checkpoint = Line(), Checkpoint(tmp_path / "c", identity={"seed": 0})
    fit(uninterrupted, Noise(), PLAN)
    with pytest.raises(NonFiniteValue):
        fit(Line(poison=23), Noise(), PLAN, checkpoint=checkpoint)
    resumed = Line()
    state = fit(resumed, Noise(), PLAN, checkpoint=checkpoint, resume=True)
    assert state.tokens == PLAN.tokens
    assert torch.equal(resumed.module.weight, uninterrupted.module.weight)


def test_a_nan_stops_the_fit_and_the_checkpoint_is_the_last_good_state(tmp_path):
    checkpoint = Checkpoint(tmp_path / "c", identity={})
    with pytest.raises(NonFiniteValue, match="after 2,200 tokens"):
        fit(Line(poison=23), Noise(), PLAN, checkpoint=checkpoint)
    state = checkpoint.read()
    assert state["state"]["tokens"] == 2000
    assert torch.isfinite(state["module"]["weight"]).all()


def test_a_fit_that_no_longer_improves_ends_early():
    plan = Plan(tokens=1_000_000, learning_rate=0.05, check_tokens=1000, decay_share=0.01)
    task = Line()
    task.check = lambda: 1.0
    state = fit(task, Noise(), plan)
    assert state.converged
    assert state.tokens < 20_000


def test_a_checkpoint_of_another_fit_is_refused_naming_what_differs(tmp_path):
    Checkpoint(tmp_path / "c", identity={"seed": 0}).write({})
    with pytest.raises(OptionError, match="begun with seed 0, now it is 1"):
        Checkpoint(tmp_path / "c", identity={"seed": 1}).read()


def test_a_damaged_checkpoint_is_refused(tmp_path):
    (tmp_path / "c").write_bytes(b"half")
    with pytest.raises(StoreError, match="no checkpoint that can be read"):
        Checkpoint(tmp_path / "c", identity={}).read()
