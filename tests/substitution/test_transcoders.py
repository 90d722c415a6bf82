"""Transcoders: read at one place, compared and substituted at another."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from families import WIDTH, make_host, make_model, make_tokens, random_ids
from scipy.special import log_softmax, rel_entr
from torch import Tensor

from saebench.data.cloze_tokens import ClozeTokens
from saebench.data.tokens import TokenSet
from saebench.errors import HookError
from saebench.experiments.cloze_prompts import ClozeEngine
from saebench.options import Overrides
from saebench.subjects.loading import wrap_sae
from saebench.subjects.sae import Subject
from saebench.substitution.engine import Engine

N, T = 5, 12
NAMES = ("sae", "eps_random", "error_shuffled", "zero", "norm_corrected")
IN, OUT = "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"
MLPS = {
    "gpt2": ("transformer.h.1.mlp", "transformer.h.1.mlp"),
    "llama": ("model.layers.1.mlp", "model.layers.1.mlp"),
    # What gemma2 adds to the stream is the MLP's output after a norm.
    "gemma2": ("model.layers.1.mlp", "model.layers.1.post_feedforward_layernorm"),
}
KINDS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
every_family = pytest.mark.parametrize("family", MLPS)


def _transcoder(kind: str = "transcoder", *, hook_in: str = IN, d_in: int = WIDTH) -> Any:
    from sae_lens.registry import get_sae_class
    from sae_lens.saes.sae import SAEMetadata

    stated = SAEMetadata(hook_name=hook_in, hook_name_out=OUT, context_size=T, prepend_bos=True)
    made, config = get_sae_class(kind)
    sae = made(config(d_in=d_in, d_out=WIDTH, d_sae=3 * WIDTH, apply_b_dec_to_input=False,
                      metadata=stated))  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator) / 4
            parameter.copy_(drawn.abs() if name == "threshold" else drawn)
    return sae


def _subject(kind: str = "transcoder", **changes: Any) -> Subject:
    return wrap_sae(_transcoder(kind, **changes), id="sae", overrides=Overrides())


def _tokens() -> TokenSet:
    return make_tokens(random_ids(N, T))


@cache
def _measured(family: str, kind: str = "transcoder") -> Any:
    engine = Engine(make_host(family), _tokens(), seed=3, batch_size=2)
    return engine.measure([(_subject(kind), NAMES)], progress=lambda _: None)["sae"]


class _ByHand:
    """One sequence through the model in float64, its MLP's output replaced by what is given."""

    def __init__(self, family: str, *, reads: str | None = None) -> None:
        self.model = make_model(family).double()
        paths = (reads or MLPS[family][0], MLPS[family][1])
        self.reads, self.writes = (self.model.get_submodule(path) for path in paths)

    @torch.no_grad()
    def run(self, ids: Tensor, change: Any) -> tuple[np.ndarray, Tensor, Tensor]:
        """Return log p, the MLP's input, and the clean activation that is replaced."""
        seen: dict[str, Tensor] = {}

        def before(_: Any, args: tuple) -> None:
            seen["in"] = args[0][0]

        def after(_: Any, __: Any, out: Tensor) -> Tensor:
            seen["out"] = out[0]
            return change(seen["in"], out)

        handles = [
            self.reads.register_forward_pre_hook(before),
            self.writes.register_forward_hook(after),
        ]
        logits = self.model(input_ids=ids[None], use_cache=False).logits[0]
        for handle in handles:
            handle.remove()
        return log_softmax(logits.numpy(), axis=-1), seen["in"], seen["out"]


def _predicted(kind: str, x: Tensor) -> Tensor:
    """Return y = W_dec·relu(pre where pre > θ) + b_dec + W_skip·x, in float64."""
    w = {name: tensor.double() for name, tensor in _transcoder(kind).state_dict().items()}
    pre = x @ w["W_enc"] + w["b_enc"]
    features = torch.where(pre > w.get("threshold", torch.tensor(0.0)), pre.relu(), 0.0)
    y = features @ w["W_dec"] + w["b_dec"]
    return y + x @ w["W_skip"].T if "W_skip" in w else y


NORMS = {
    "gpt2": "transformer.h.1.ln_2",
    "llama": "model.layers.1.post_attention_layernorm",
    "gemma2": "model.layers.1.pre_feedforward_layernorm",
}


def _normalised(family: str, x: Tensor) -> Tensor:
    """Return the residual stream normalised, before the norm's weights."""
    x = x - x.mean(dim=-1, keepdim=True) if family == "gpt2" else x
    return x / (x.square().mean(dim=-1, keepdim=True) + EPS[family]).sqrt()


EPS = {"gpt2": 1e-5, "llama": 1e-6, "gemma2": 1e-6}


@every_family
@pytest.mark.parametrize("hook", ["blocks.1.hook_mlp_in", "blocks.1.ln2.hook_normalized"])
def test_the_usual_inputs_are_the_stream_before_and_after_its_norm(family, hook):
    hand = _ByHand(family, reads=NORMS[family])
    subject = _subject(hook_in=hook)
    engine = Engine(make_host(family), _tokens(), seed=3, batch_size=2)
    found = engine.measure([(subject, ("sae",))], progress=lambda _: None)["sae"].table()

    def given(x: Tensor) -> Tensor:
        return x if hook.endswith("hook_mlp_in") else _normalised(family, x)

    for s, ids in enumerate(_tokens().ids):
        clean, _, _ = hand.run(ids, lambda _, out: out)
        changed, _, _ = hand.run(ids, lambda x, out: _replaced(given(x), out, slice(1, None)))
        kl = rel_entr(np.exp(clean[1:]), np.exp(changed[1:])).sum()
        np.testing.assert_allclose(found["sae.kl"][s], kl, rtol=1e-4)


def _replaced(x_in: Tensor, out: Tensor, places: slice, kind: str = "transcoder") -> Tensor:
    changed = out.clone()
    changed[0, places] = _predicted(kind, x_in[places])
    return changed


@every_family
@pytest.mark.parametrize("kind", KINDS)
def test_the_outputs_activation_is_replaced_by_what_is_predicted_from_the_input(family, kind):
    hand, places = _ByHand(family), slice(1, None)
    expected = {"kl": np.zeros(N), "squared_error": np.zeros(N), "norm": np.zeros(N)}
    for s, ids in enumerate(_tokens().ids):
        clean, x_in, x_out = hand.run(ids, lambda _, out: out)
        changed, _, _ = hand.run(ids, lambda x, out: _replaced(x, out, places, kind))
        error = x_out[1:] - _predicted(kind, x_in[1:])
        expected["kl"][s] = rel_entr(np.exp(clean[1:]), np.exp(changed[1:])).sum()
        expected["squared_error"][s] = error.square().sum()
        expected["norm"][s] = x_out[1:].norm(dim=-1).sum()
    table = _measured(family, kind).table()
    assert expected["kl"].min() > 1e-3
    for name, channel in (("kl", "sae.kl"), ("squared_error",) * 2, ("norm",) * 2):
        np.testing.assert_allclose(table[channel], expected[name], rtol=1e-4)


@every_family
def test_other_interventions_start_from_the_outputs_activation(family):
    """Zero ablation, and errors of the same size, know nothing of the input."""
    hand, expected = _ByHand(family), np.zeros(N)
    for s, ids in enumerate(_tokens().ids):
        clean, _, _ = hand.run(ids, lambda _, out: out)
        zeroed, _, _ = hand.run(ids, lambda _, out: torch.cat([out[:, :1], 0 * out[:, 1:]], dim=1))
        expected[s] = rel_entr(np.exp(clean[1:]), np.exp(zeroed[1:])).sum()
    found = _measured(family)
    np.testing.assert_allclose(found.table()["zero.kl"], expected, rtol=1e-4)
    assert not found.failures
    assert all(found.table()[f"{name}.kl"].min() > 0 for name in NAMES)


@every_family
def test_the_skip_path_alone_has_the_features_mean_effect_in_their_place(family):
    kind, hand, places = "skip_transcoder", _ByHand(family), slice(1, None)
    given = [hand.run(ids, lambda _, out: out)[1][1:] for ids in _tokens().ids]
    skip = _transcoder(kind).W_skip.detach().double()
    features = torch.cat([_predicted(kind, x) - x @ skip.T for x in given]).mean(dim=0)
    expected = np.zeros(N)
    for s, ids in enumerate(_tokens().ids):

        def alone(x: Tensor, out: Tensor) -> Tensor:
            changed = out.clone()
            changed[0, places] = x[places] @ skip.T + features
            return changed

        clean, changed = (hand.run(ids, c)[0] for c in (lambda _, out: out, alone))
        expected[s] = rel_entr(np.exp(clean[1:]), np.exp(changed[1:])).sum()
    engine = Engine(make_host(family), _tokens(), seed=3, batch_size=2)
    wanted = [
        (_subject(kind), ("sae", "skip_only")),
    ]
    found = engine.measure(wanted, progress=lambda _: None)["sae"]
    np.testing.assert_allclose(found.table()["skip_only.kl"], expected, rtol=1e-4)
    assert found.transcodes


def test_an_sae_without_a_skip_path_has_no_skip_to_measure():
    engine = Engine(make_host("llama"), _tokens(), seed=3, batch_size=2)
    found = engine.measure([(_subject(), ("sae", "skip_only"))], progress=lambda _: None)["sae"]
    assert found.interventions == ("sae",)


def test_an_sae_and_a_transcoder_measured_together_are_measured_as_alone():
    from sae_lens import StandardSAE, StandardSAEConfig

    sae = wrap_sae(
        StandardSAE(StandardSAEConfig(d_in=WIDTH, d_sae=8)), id="other",
        overrides=Overrides(hook="blocks.2.hook_resid_pre"),
    )  # fmt: skip
    engine = Engine(make_host("llama"), _tokens(), seed=3, batch_size=2)
    both = engine.measure([(_subject(), NAMES), (sae, ("sae",))], progress=lambda _: None)
    np.testing.assert_array_equal(
        both["sae"].table()["sae.kl"], _measured("llama").table()["sae.kl"]
    )


def test_the_input_may_be_of_another_width():
    hook = "model.layers.1.mlp.down_proj.input"
    engine = Engine(make_host("llama"), _tokens(), seed=3)
    subject = _subject(hook_in=hook, d_in=48)
    found = engine.measure([(subject, ("sae",))], progress=lambda _: None)["sae"]
    assert (subject.d_in, subject.d_out) == (48, WIDTH)
    assert np.isfinite(found.table()["sae.kl"]).all()


@pytest.mark.parametrize(
    ("hook_in", "d_in", "said"),
    [
        ("model.layers.1.mlp.down_proj.input", WIDTH, "d_in is 32, but .* is 48 wide"),
        ("blocks.1.attn.hook_pattern", WIDTH, "--sae-hook model.layers.3.mlp.input"),
        ("blocks.9.mlp.hook_in", WIDTH, "input hook: .*has 3 blocks"),
    ],
)
def test_an_input_that_does_not_fit_is_an_error(hook_in: str, d_in: int, said: str):
    engine = Engine(make_host("llama"), _tokens(), seed=3)
    with pytest.raises(HookError, match=said):
        engine.measure([(_subject(hook_in=hook_in, d_in=d_in), ("sae",))], progress=lambda _: None)


def test_an_output_of_another_width_is_an_error():
    sae = _transcoder()
    sae.cfg.metadata.hook_name_out = "model.layers.1.mlp.gate_proj"
    subject = wrap_sae(sae, id="sae", overrides=Overrides())
    with pytest.raises(HookError, match="d_out is 32, but .* is 48 wide"):
        Engine(make_host("llama"), _tokens(), seed=3).measure(
            [(subject, ("sae",))], progress=lambda _: None
        )


def test_on_cloze_prompts_too_the_output_is_replaced():
    ids, answer = random_ids(1, T), torch.tensor([1])
    counted = torch.ones(1, T, dtype=torch.bool)
    counted[0, [0, T - 1]] = False
    prompts = ClozeTokens(ids, torch.tensor([T]), answer, counted, 0)
    engine = ClozeEngine(make_host("llama"), prompts)
    found = engine.measure([_subject()], progress=lambda _: None)["sae"]
    places = slice(1, T - 1)
    log_p, _, _ = _ByHand("llama").run(ids[0], lambda x, out: _replaced(x, out, places))
    assert found.changed.log_probability[0] == pytest.approx(log_p[T - 2, ids[0, -1]], rel=1e-4)
