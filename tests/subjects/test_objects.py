"""SAE objects of sparsify and of sae_bench, as their own sources define them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from saebench.errors import SubjectError
from saebench.experiments.trial import hold_against_itself
from saebench.options import Overrides
from saebench.subjects.loading import wrap_sae

D, LATENTS, K = 8, 32, 4
HOOK = "blocks.1.hook_resid_post"


class EncoderOutput(NamedTuple):
    top_acts: Tensor
    top_indices: Tensor
    pre_acts: Tensor


@dataclass
class SparseCoderConfig:
    """sparsify 1.3.3, ``sparsify.config.SparseCoderConfig``."""

    activation: str = "topk"
    expansion_factor: int = 4
    normalize_decoder: bool = True
    num_latents: int = 0
    k: int = K
    multi_topk: bool = False
    skip_connection: bool = False
    transcode: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class SparseCoder(nn.Module):
    """The maths of sparsify 1.3.3's, which is no dependency."""

    def __init__(self, cfg: SparseCoderConfig, *, decoder: bool = True) -> None:
        super().__init__()
        self.cfg, self.d_in, self.num_latents = cfg, D, LATENTS
        drawn = torch.randn(2, LATENTS, D, generator=torch.Generator().manual_seed(4))
        self.encoder = nn.Linear(D, LATENTS)
        self.encoder.weight = nn.Parameter(drawn[0])
        self.W_dec = nn.Parameter(drawn[1]) if decoder else None
        self.b_dec = nn.Parameter(torch.linspace(-1, 1, D))
        self.W_skip = nn.Parameter(torch.eye(D).roll(1, 0)) if cfg.skip_connection else None

    def encode(self, x: Tensor) -> EncoderOutput:
        pre = self.encoder(x if self.cfg.transcode else x - self.b_dec).relu()
        if self.cfg.activation == "topk":
            return EncoderOutput(*pre.topk(self.cfg.k, sorted=False), pre)
        values, indices = pre.unflatten(-1, (self.cfg.k, -1)).max(dim=-1)
        return EncoderOutput(values, indices + torch.arange(0, LATENTS, LATENTS // K), pre)

    def decode(self, top_acts: Tensor, top_indices: Tensor) -> Tensor:
        assert self.W_dec is not None
        return (top_acts[..., None] * self.W_dec[top_indices]).sum(-2) + self.b_dec

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values, indices, _ = self.encode(x)
        skipped = 0 if self.W_skip is None else x @ self.W_skip.mT
        return self.decode(values, indices) + skipped, values


def _x() -> Tensor:
    return 2 * torch.randn(50, D, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation": "groupmax"},
        {"transcode": True},
        {"transcode": True, "skip_connection": True},
    ],
)
def test_a_sparse_coder_reconstructs_as_its_own_forward(changes):
    theirs = SparseCoder(SparseCoderConfig(**changes))
    hooks = Overrides(hook="blocks.1.mlp.hook_in", hook_out="blocks.1.hook_mlp_out")
    subject = wrap_sae(theirs, id="mine", overrides=hooks)
    found = subject.reconstruct(_x())
    torch.testing.assert_close(found.x_hat, theirs(_x())[0], rtol=1e-5, atol=1e-5)  # fp32 products
    assert torch.equal(found.l0, (theirs.encode(_x()).top_acts > 0).sum(-1).float())
    hold_against_itself(subject, _x())


@pytest.mark.parametrize("name", ["layers.3", "h.3.mlp", "layers_3"])
def test_sparsifys_own_name_of_a_module_says_where_a_sparse_coder_belongs(name):
    metadata = wrap_sae(SparseCoder(SparseCoderConfig()), id=name, overrides=Overrides()).metadata
    assert (metadata.hook, metadata.input_hook) == (name.replace("_", "."), None)
    assert metadata.module_path


def test_a_sparse_transcoder_needs_the_hook_that_it_predicts():
    coder = SparseCoder(SparseCoderConfig(transcode=True))
    with pytest.raises(SubjectError, match="hook_out="):
        wrap_sae(coder, id="x", overrides=Overrides(hook="blocks.1.mlp.hook_in"))
    metadata = wrap_sae(coder, id="layers.1.mlp", overrides=Overrides()).metadata
    assert (metadata.input_hook, metadata.hook) == ("layers.1.mlp.input", "layers.1.mlp")


def test_a_sparse_coder_without_a_hook_or_a_decoder_says_what_to_give():
    with pytest.raises(SubjectError, match="hook="):
        wrap_sae(SparseCoder(SparseCoderConfig()), id="x", overrides=Overrides())
    with pytest.raises(SubjectError, match="decoder=False"):
        wrap_sae(
            SparseCoder(SparseCoderConfig(), decoder=False), id="x", overrides=Overrides(hook=HOOK)
        )


def test_what_only_looks_like_a_sparse_coder_is_refused_with_the_difference():
    class Other(SparseCoder):
        def decode(self, top_acts: Tensor, top_indices: Tensor) -> Tensor:
            return 1.5 * super().decode(top_acts, top_indices)

    with pytest.raises(SubjectError, match="33% off"):
        wrap_sae(Other(SparseCoderConfig()), id="x", overrides=Overrides(hook=HOOK))


@dataclass
class CustomSAEConfig:
    """sae_bench 0.6.0, ``custom_saes.custom_sae_config``: what is not set is empty."""

    model_name: str
    d_in: int
    d_sae: int
    hook_layer: int
    hook_name: str
    context_size: int = None  # pyright: ignore[reportAssignmentType]
    hook_head_index: int | None = None
    architecture: str = ""
    activation_fn_kwargs = {}  # noqa: RUF012
    prepend_bos: bool = True
    normalize_activations: str = "none"
    model_from_pretrained_kwargs = {}  # noqa: RUF012
    dataset_path: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class ReluSAE(nn.Module):
    """The maths of sae_bench 0.6.0's ``BaseSAE`` and ``ReluSAE``, which is no dependency."""

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        drawn = torch.randn(2, D, LATENTS, generator=torch.Generator().manual_seed(4))
        self.W_enc, self.W_dec = nn.Parameter(drawn[0]), nn.Parameter(drawn[1].T.contiguous())
        self.b_enc, self.b_dec = nn.Parameter(torch.zeros(LATENTS)), nn.Parameter(torch.ones(D))
        self.cfg = cfg

    def encode(self, x: Tensor) -> Tensor:
        return self._kept(((x - self.b_dec) @ self.W_enc + self.b_enc).relu())

    def _kept(self, features: Tensor) -> Tensor:
        return features

    def decode(self, features: Tensor) -> Tensor:
        return features @ self.W_dec + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


class TopKSAE(ReluSAE):
    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self.register_buffer("k", torch.tensor(K, dtype=torch.int))

    def _kept(self, features: Tensor) -> Tensor:
        kept = features.topk(int(self.k), sorted=False, dim=-1)
        return torch.zeros_like(features).scatter_(-1, kept.indices, kept.values)


class BatchTopKSAE(ReluSAE):
    def _kept(self, features: Tensor) -> Tensor:
        return features * (features > 1.5)


def _cfg(**changes: Any) -> CustomSAEConfig:
    return CustomSAEConfig("pythia-70m-deduped", D, LATENTS, 1, HOOK, **changes)


@pytest.mark.parametrize("kind", [ReluSAE, TopKSAE, BatchTopKSAE])
@pytest.mark.parametrize("architecture", ["", "batch_topk", "standard_april_update"])
def test_sae_benchs_own_classes_are_judged_where_their_cfg_says(kind, architecture):
    theirs = kind(_cfg(architecture=architecture))
    subject = wrap_sae(theirs, id="mine", overrides=Overrides())
    assert subject.metadata.hook == HOOK
    assert subject.metadata.model_name == "pythia-70m-deduped"
    assert subject.metadata.training_context is None
    assert subject.architecture == (architecture or kind.__name__)
    assert (subject.d_in, subject.d_out, subject.d_sae) == (D, D, LATENTS)
    found = subject.reconstruct(_x())
    torch.testing.assert_close(found.x_hat, theirs(_x()), rtol=1e-5, atol=1e-5)  # fp32 products
    assert found.l1_unit is not None
    hold_against_itself(subject, _x())


@pytest.mark.parametrize(
    "cfg",
    [
        {"hook_name": HOOK, "context_size": 64},
        SimpleNamespace(hook_point=HOOK, context_size=64),
    ],
)
def test_any_cfg_that_names_a_hook_is_understood(cfg: Mapping[str, Any] | SimpleNamespace):
    metadata = wrap_sae(ReluSAE(cfg), id="mine", overrides=Overrides()).metadata
    assert (metadata.hook, metadata.training_context) == (HOOK, 64)


def test_a_cfg_that_names_no_hook_is_no_metadata():
    cfg = SimpleNamespace(hidden=3, to_dict=lambda: {"architecture": "mine", "hidden": 3})
    with pytest.raises(SubjectError, match="hook="):
        wrap_sae(ReluSAE(cfg), id="x", overrides=Overrides())
    assert wrap_sae(ReluSAE(cfg), id="x", overrides=Overrides(hook=HOOK)).d_sae == LATENTS
