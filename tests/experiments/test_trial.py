"""Each SAE is held against itself before the run: forward, again, and alone."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from saebench.errors import SubjectError
from saebench.experiments.trial import hold_against_itself
from saebench.options import Overrides
from saebench.subjects.loading import wrap_sae

D, FEATURES, K = 8, 48, 3
HOOK = Overrides(hook="blocks.0.hook_resid_pre")


class Relu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        drawn = torch.randn(2, D, FEATURES, generator=torch.Generator().manual_seed(1))
        self.up, self.down = nn.Parameter(drawn[0]), nn.Parameter(drawn[1].T.contiguous())

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.up).relu()

    def decode(self, features: Tensor) -> Tensor:
        return features @ self.down

    def forward(self, x: Tensor) -> Any:
        return self.decode(self.encode(x))


def _largest(features: Tensor) -> Tensor:
    kept = features.topk(K, dim=-1)
    return torch.zeros_like(features).scatter(-1, kept.indices, kept.values)


class TopKInForwardAlone(Relu):
    """As deeplens-sae 0.1.1 does it."""

    def forward(self, x: Tensor) -> Any:
        z_pre = self.encode(x)
        z = _largest(z_pre)
        return self.decode(z), z, z_pre


class TopK(Relu):
    def encode(self, x: Tensor) -> Tensor:
        return _largest(super().encode(x))


def _held(sae: nn.Module) -> None:
    x = torch.randn(16, D, generator=torch.Generator().manual_seed(3))
    hold_against_itself(wrap_sae(sae, id="x", overrides=HOOK), x)


def test_an_sae_that_is_topk_in_forward_alone_is_refused_with_the_difference():
    with pytest.raises(SubjectError, match=r"decode\(encode\(x\)\) is not what forward") as caught:
        _held(TopKInForwardAlone())
    sae, x = TopKInForwardAlone(), torch.randn(16, D, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        whole = sae(x)[0]
        off = (sae.decode(sae.encode(x)) - whole).norm() / whole.norm()
    assert f"{float(off):.1%}" in str(caught.value)


class _Output(dict):
    pass


@pytest.mark.parametrize(
    "given",
    [
        lambda y, _: y,
        lambda y, f: (y, f),
        lambda y, f: [y, f],
        lambda y, f: _Output(sae_out=y, features=f),
        lambda y, f: (f, y),  # does not begin with a reconstruction
        lambda y, _: y.sum(),  # a loss
        lambda *_: None,
    ],
)
def test_a_forward_that_agrees_or_gives_no_reconstruction_is_no_reason_to_refuse(given):
    class Agreeing(TopK):
        def forward(self, x: Tensor) -> Any:
            features = self.encode(x)
            return given(self.decode(features), features)

    _held(Agreeing())


@pytest.mark.parametrize("given", [lambda y: y, lambda y: (y, None), lambda y: _Output(x_hat=y)])
def test_a_forward_that_differs_is_refused_in_whatever_it_is_wrapped(given):
    class Differing(TopK):
        def forward(self, x: Tensor) -> Any:
            return given(1.01 * super().forward(x))

    with pytest.raises(SubjectError, match="differ by 1.0%"):
        _held(Differing())


def test_a_forward_that_wants_more_than_activations_is_not_asked():
    class Training(TopK):
        def forward(self, x: Tensor, target: Tensor) -> Any:
            return (x - target).sum()

    _held(Training())


def test_an_sae_that_draws_at_random_is_refused():
    class Noisy(Relu):
        def encode(self, x: Tensor) -> Tensor:
            return super().encode(x) * torch.rand(FEATURES)

        forward = None  # pyright: ignore[reportAssignmentType]

    with pytest.raises(SubjectError, match="differently each time"):
        _held(Noisy())


def test_batch_topk_without_its_threshold_is_refused():
    class BatchTopK(Relu):
        def encode(self, x: Tensor) -> Tensor:
            features = super().encode(x)
            least = features.flatten().topk(K * len(x)).values[-1]
            return torch.where(features >= least, features, 0)

    with pytest.raises(SubjectError, match="depends on the others in its batch"):
        _held(BatchTopK())


def test_saelens_error_term_is_no_part_of_its_reconstruction():
    from sae_lens import StandardSAE, StandardSAEConfig

    sae = StandardSAE(StandardSAEConfig(d_in=D, d_sae=FEATURES))
    torch.nn.init.normal_(sae.W_dec, generator=torch.Generator().manual_seed(0))
    with pytest.warns(DeprecationWarning, match="use_error_term"):
        sae.use_error_term = True
    _held(sae)
