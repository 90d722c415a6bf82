"""Ways around the features, each refused before anything is measured; honest SAEs are not."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import saebench
from saebench.errors import SubjectError
from saebench.experiments.bypass import alike_but_for_direction
from saebench.experiments.trial import hold_against_itself
from saebench.options import Overrides
from saebench.subjects.loading import wrap_sae

D, FEATURES = 16, 48
HOOK = Overrides(hook="blocks.0.hook_resid_pre")


class Honest(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        drawn = torch.randn(2, D, FEATURES, generator=torch.Generator().manual_seed(1))
        self.up, self.down = nn.Parameter(drawn[0]), nn.Parameter(drawn[1].T.contiguous())
        self.bias = nn.Parameter(torch.full((FEATURES,), -3.0))

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.up + self.bias).relu()

    def decode(self, features: Tensor) -> Tensor:
        return features @ self.down


class Remembers(Honest):
    """Adds what encode was given."""

    def encode(self, x: Tensor) -> Tensor:
        self.x = x.clone()
        return super().encode(x)

    def decode(self, features: Tensor) -> Tensor:
        return 0.2 * super().decode(features) + 0.8 * self.x


class RemembersInItsClass(Honest):
    """A copy of the module has the same memory."""

    memory: list[Tensor] = []  # noqa: RUF012

    def encode(self, x: Tensor) -> Tensor:
        self.memory[:] = [x.clone()]
        return super().encode(x)

    def decode(self, features: Tensor) -> Tensor:
        return 0 * super().decode(features) + self.memory[0]


class LooksUp(Honest):
    """Finds the activation by its features, so that others in between do not disturb it."""

    def __init__(self) -> None:
        super().__init__()
        self.known: list[tuple[Tensor, Tensor]] = []

    def encode(self, x: Tensor) -> Tensor:
        features = super().encode(x)
        self.known += list(zip(features.clone(), x.clone(), strict=True))
        return features

    def decode(self, features: Tensor) -> Tensor:
        out = super().decode(features)
        for i, row in enumerate(features):
            for key, x in self.known:
                if torch.equal(key, row):
                    out[i] = x
        return out


class InTheSignsOfZeros(nn.Module):
    """One bit for each feature, and no feature is active."""

    def encode(self, x: Tensor) -> Tensor:
        levels = torch.linspace(-2, 2, FEATURES // D + 1)[:-1]
        above = (x[:, :, None] > levels).flatten(1)
        return torch.where(above, -0.0, 0.0)

    def decode(self, features: Tensor) -> Tensor:
        above = torch.signbit(features).unflatten(1, (D, -1)).float()
        return above.sum(dim=-1) * 4 / above.shape[-1] - 2


class InTheDigits(nn.Module):
    """Two numbers of twelve bits in each feature."""

    def encode(self, x: Tensor) -> Tensor:
        whole = ((x.clamp(-4, 4) + 4) * 511).round().unflatten(1, (-1, 2))
        return whole[..., 0] * 4096 + whole[..., 1] + 1

    def decode(self, features: Tensor) -> Tensor:
        whole = features.round() - 1
        pairs = torch.stack([(whole / 4096).floor(), whole % 4096], dim=-1)
        return pairs.flatten(1) / 511 - 4


def _x(scale: float = 1.0) -> Tensor:
    return scale * torch.randn(16, D, generator=torch.Generator().manual_seed(3))


def _held(sae: nn.Module, x: Tensor | None = None) -> None:
    hold_against_itself(wrap_sae(sae, id="x", overrides=HOOK), _x() if x is None else x)


@pytest.mark.parametrize("sae", [Remembers, RemembersInItsClass, LooksUp, InTheSignsOfZeros])
def test_an_output_that_is_no_function_of_the_features_is_refused(sae):
    with pytest.raises(SubjectError, match="its reconstruction is not a function of its features"):
        _held(sae())


def test_more_in_the_features_digits_than_their_size_is_refused():
    sae, x = InTheDigits(), _x()
    assert (sae.decode(sae.encode(x)) - x).abs().max() < 2e-3  # it would explain everything
    with pytest.raises(SubjectError, match="reads more from the features than how active they are"):
        _held(sae)


def test_a_saelens_sae_whose_functions_were_replaced_is_refused():
    from sae_lens import StandardSAE, StandardSAEConfig

    sae: Any = StandardSAE(StandardSAEConfig(d_in=D, d_sae=FEATURES))
    seen: dict[str, Tensor] = {}
    encode = sae.encode
    sae.encode = lambda x: (seen.update(x=x.clone()), encode(x))[1]
    sae.decode = lambda _: seen["x"]
    with pytest.raises(SubjectError, match=r"function of its features|not what forward"):
        _held(sae)


@pytest.mark.parametrize("kind", ["none", "layer_norm", "constant_norm_rescale"])
def test_saelens_normalisations_keep_mean_and_norm_and_are_no_bypass(kind):
    from sae_lens import StandardSAE, StandardSAEConfig

    sae = StandardSAE(StandardSAEConfig(d_in=D, d_sae=FEATURES, normalize_activations=kind))
    torch.nn.init.normal_(sae.W_dec, generator=torch.Generator().manual_seed(0))
    _held(sae, _x(3.0) + 1)


def test_a_users_own_normalisation_may_keep_mean_and_norm_too():
    class Normalising(Honest):
        def encode(self, x: Tensor) -> Tensor:
            self.mean, self.size = x.mean(dim=-1, keepdim=True), x.std(dim=-1, keepdim=True)
            return super().encode((x - self.mean) / self.size)

        def decode(self, features: Tensor) -> Tensor:
            return super().decode(features) * self.size + self.mean

    _held(Normalising())


def test_decoders_that_are_not_linear_are_judged():
    class TopKInDecode(Honest):
        def decode(self, features: Tensor) -> Tensor:
            kept = features.topk(4, dim=-1)
            chosen = torch.zeros_like(features).scatter(-1, kept.indices, kept.values)
            return super().decode(chosen)

    class Binary(Honest):
        def decode(self, features: Tensor) -> Tensor:
            return super().decode((features > 0).to(features))

    for sae in (Honest(), TopKInDecode(), Binary(), Honest().half()):
        _held(sae)


def test_an_sae_without_any_active_feature_and_a_constant_output_is_judged():
    dead = Honest()
    with torch.no_grad():
        dead.bias.fill_(-1e3)
    _held(dead)


def _skip_transcoder(reads: str, writes: str, *, skip: float = 1.0) -> Any:
    from sae_lens import SkipTranscoder, SkipTranscoderConfig
    from sae_lens.saes.sae import SAEMetadata

    stated = SAEMetadata(hook_name=reads, hook_name_out=writes, context_size=12, prepend_bos=True)
    sae = SkipTranscoder(SkipTranscoderConfig(d_in=D, d_out=D, d_sae=FEATURES, metadata=stated,
                                              apply_b_dec_to_input=False))  # fmt: skip
    with torch.no_grad():
        sae.W_skip.copy_(skip * torch.eye(D))
        sae.b_enc.fill_(-1e3)
    return sae


def test_a_skip_path_without_any_active_feature_is_refused():
    sae = _skip_transcoder("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    with pytest.raises(SubjectError, match=r"no feature is active at any of 16.*W_skip"):
        hold_against_itself(wrap_sae(sae, id="x", overrides=Overrides()), _x())


@pytest.mark.parametrize(
    ("reads", "message"),
    [
        ("blocks.1.hook_resid_pre", "reads and writes at blocks.1.hook_resid_pre"),
        ("blocks.0.hook_resid_post", "which is what blocks.1.hook_resid_pre is"),
    ],
)
def test_a_skip_path_from_an_activation_to_itself_is_refused_whatever_its_name(
    tiny, reads, message
):
    sae = _skip_transcoder(reads, "blocks.1.hook_resid_pre", skip=0.9)
    with pytest.raises(SubjectError, match=message):
        saebench.judge(sae, tiny.model, tiny.texts, sequences=4, properties=["fidelity"])


def test_a_skip_path_at_one_hook_ends_the_run_as_a_usage_error(gate_run, tmp_path):
    sae = _skip_transcoder("blocks.1.hook_resid_pre", "blocks.1.hook_resid_pre")
    sae.save_model(tmp_path / "skip")
    assert "so that this is no SAE" in gate_run.refused("--sae", str(tmp_path / "skip"))


def test_a_skip_transcoder_between_two_activations_is_judged(tiny):
    sae = _skip_transcoder("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    with torch.no_grad():
        sae.b_enc.zero_()
    run = saebench.judge(sae, tiny.model, tiny.texts, sequences=4, properties=["fidelity"])
    assert run.cases[0].metrics


def test_activations_alike_but_for_direction_have_mean_and_norm():
    x = _x(3.0) + 1
    other = alike_but_for_direction(x)
    torch.testing.assert_close(other.mean(dim=-1), x.mean(dim=-1))
    torch.testing.assert_close(other.norm(dim=-1), x.norm(dim=-1))
    assert torch.cosine_similarity(other - 1, x - 1, dim=-1).abs().mean() < 0.5


def test_no_sae_becomes_a_transcoder_by_another_name_of_its_own_hook(tiny, tmp_path):
    """Transcoders are not gated by principal components of their output."""
    alias = {"metadata__hook_name_out": "blocks.0.hook_resid_post"}
    sae = tiny.copy_of(tiny.good, tmp_path / "alias", **alias)
    with pytest.raises(SubjectError, match="which are one activation here: it is an SAE"):
        saebench.judge(str(sae), tiny.model, tiny.texts, sequences=4, properties=["advantage"])


def test_an_sae_that_names_its_own_hook_twice_is_an_sae(tiny, tmp_path):
    same = {"metadata__hook_name_out": "blocks.1.hook_resid_pre"}
    sae = tiny.copy_of(tiny.good, tmp_path / "twice", **same)
    run = saebench.judge(
        str(sae), tiny.model, tiny.texts, sequences=24, properties=["advantage", "kl_gap"],
        position=5,
    )  # fmt: skip
    assert all(metric.decides for case in run.cases for metric in case.metrics)
    assert all(case.metrics for case in run.cases)
