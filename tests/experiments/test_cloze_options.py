"""The choice between options, against full plain passes in float64, option by option."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from by_hand import hook_module
from families import FAMILIES, VOCAB, host_of, make_host, make_model, make_sae, make_subject
from scipy.special import log_softmax
from torch import Tensor

from saebench.data.cloze_tokens import Choice, ClozeTokens
from saebench.experiments.cloze_options import OptionEngine
from saebench.experiments.cloze_prompts import ClozeEngine
from saebench.subjects.sae import Subject

PROMPTS, OPTIONS = 6, 4
HOOKS = ("blocks.1.hook_resid_pre", "blocks.0.attn.hook_z", "blocks.2.hook_mlp_out")
every_family = pytest.mark.parametrize("family", FAMILIES)


@cache
def _rows() -> list[tuple[list[int], Choice | None]]:
    """Return prompts of many lengths, with options of one to five tokens; one offers none."""
    generator = torch.Generator().manual_seed(5)

    def drawn(n: int) -> list[int]:
        return torch.randint(3, VOCAB, (n,), generator=generator).tolist()

    rows: list[tuple[list[int], Choice | None]] = []
    for i in range(PROMPTS):
        tails = tuple(tuple(drawn(1 + (i + j) % 5)) for j in range(OPTIONS))
        rows.append(([0, *drawn(4 + 3 * i)], Choice(tails, i % OPTIONS) if i != 2 else None))
    rows.append(([0, *drawn(9)], Choice(((5,), (6,)), 1)))
    return rows


def _prompts() -> ClozeTokens:
    rows = [(prompt, choice.tails[choice.right] if choice else (7,)) for prompt, choice in _rows()]
    length = torch.tensor([len(p) + len(a) for p, a in rows])
    answer = torch.tensor([len(a) for _, a in rows])
    ids = torch.zeros(len(rows), int(length.max()), dtype=torch.int64)
    counted = torch.zeros(ids.shape, dtype=torch.bool)
    for i, (prompt, tail) in enumerate(rows):
        ids[i, : length[i]] = torch.tensor([*prompt, *tail])
        counted[i, 1 : len(prompt)] = True
    return ClozeTokens(ids, length, answer, counted, 0, tuple(c for _, c in _rows()))


def _subject(hook: str, id: str = "sae") -> Subject:
    return make_subject(make_sae(), hook, id=id)


@cache
def _scores(family: str, hook: str | None) -> list[np.ndarray | None]:
    """Return Σ ln p of each option, each in a whole pass of its own, in float64."""
    model = make_model(family).double()
    return [
        None if choice is None
        else np.array([_log_p(model, prompt, tail, hook, family) for tail in choice.tails])
        for prompt, choice in _rows()
    ]  # fmt: skip


@torch.no_grad()
def _log_p(model: Any, prompt: list[int], tail: tuple, hook: str | None, family: str) -> float:
    handle = _hooked(model, hook, len(prompt), family) if hook else None
    logits = model(input_ids=torch.tensor([[*prompt, *tail]]), use_cache=False).logits[0]
    if handle:
        handle.remove()
    log_p = log_softmax(logits.numpy(), axis=-1)
    return sum(log_p[len(prompt) - 1 + i, token] for i, token in enumerate(tail))


# The output projection of attention, and what the MLP adds to the stream.
ENDS = {
    "gpt2": ("transformer.h.{}.attn.c_proj", "transformer.h.{}.mlp"),
    "gpt_neox": ("gpt_neox.layers.{}.attention.dense", "gpt_neox.layers.{}.mlp"),
    "gemma2": (
        "model.layers.{}.self_attn.o_proj", "model.layers.{}.post_feedforward_layernorm"
    ),
} | dict.fromkeys(
    ("llama", "qwen2"), ("model.layers.{}.self_attn.o_proj", "model.layers.{}.mlp")
)  # fmt: skip


def _hooked(model: Any, hook: str, end: int, family: str) -> Any:
    """Replace the prompt's activations but the first by what the SAE gives, by a plain hook."""
    layer = int(hook.split(".")[1])
    path, output = host_of(family).block_paths[layer], False
    if hook.endswith("hook_z"):
        path = ENDS[family][0].format(layer)
    elif hook.endswith("hook_mlp_out"):
        path, output = ENDS[family][1].format(layer), True
    module = model.get_submodule(path)
    return hook_module(module, lambda x: _changed(x, end), output=output)


@cache
def _weights() -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in make_sae().state_dict().items()}


def _changed(x: Tensor, end: int) -> Tensor:
    w = _weights()
    out = x.clone()
    features = ((x[0, 1:end] - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    out[0, 1:end] = features @ w["W_dec"] + w["b_dec"]
    return out


def _found(family: str, *hooks: str) -> tuple[OptionEngine, dict[str, Any]]:
    engine = OptionEngine(host_of(family), _prompts())
    subjects = [_subject(hook, hook) for hook in hooks]
    return engine, engine.measure(subjects, progress=lambda _: None)


@every_family
def test_scores_are_those_of_whole_passes_in_float64(family: str):
    engine = OptionEngine(host_of(family), _prompts())
    for hook in HOOKS:
        site = engine._sites(_subject(hook))
        for i, (_, choice) in enumerate(_rows()):
            if choice is None:
                continue
            scorer = engine._scorer(i, choice, [site])
            for what, name in ((None, None), ((_subject(hook), *site), hook)):
                # fp32 against float64, sums of up to five ln p of about 5 nats.
                np.testing.assert_allclose(
                    scorer.log_p(what).numpy(), _scores(family, name)[i], rtol=2e-4
                )
    assert engine._cached  # these architectures keep keys and values


@every_family
@pytest.mark.parametrize("hook", HOOKS)
def test_the_answer_is_chosen_where_its_score_is_highest(family: str, hook: str):
    _, found = _found(family, hook)
    for i, (_, choice) in enumerate(_rows()):
        assert found[hook].offered[i] == (choice is not None)
        for side, name in (("clean", None), ("changed", hook)):
            scores = _scores(family, name)[i]
            expected = choice is not None and int(np.argmax(scores)) == choice.right
            assert getattr(found[hook], side)[i] == expected


def test_without_kept_keys_and_values_whole_passes_give_the_same(monkeypatch):
    from saebench.experiments import cloze_options as options

    _, kept = _found("llama", HOOKS[0])
    monkeypatch.setattr(options._Scorer, "cache_is_right", lambda _: False)
    _, whole = _found("llama", HOOKS[0])
    for side in ("offered", "clean", "changed"):
        np.testing.assert_array_equal(getattr(kept[HOOKS[0]], side), getattr(whole[HOOKS[0]], side))


@pytest.mark.parametrize("fault", ["none", "wrong"])
def test_a_cache_that_is_missing_or_wrong_is_not_used(fault: str, monkeypatch):
    host = make_host("llama")
    run = host.model.base_model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if fault == "none":
            return run(*args, **(kwargs | {"use_cache": False, "past_key_values": None}))
        return run(*args, **(kwargs | {"past_key_values": None}))

    monkeypatch.setattr(host.model.base_model, "forward", forward)
    engine = OptionEngine(host, _prompts())
    found = engine.measure([_subject(HOOKS[0])], progress=lambda _: None)["sae"]
    assert engine._cached is False
    expected = [
        c is not None and int(np.argmax(s)) == c.right
        for (_, c), s in zip(_rows(), _scores("llama", HOOKS[0]), strict=True)
        if c is None or s is not None
    ]
    assert found.changed.tolist() == expected


def test_saes_measured_together_are_measured_as_alone():
    _, together = _found("llama", *HOOKS)
    for hook in HOOKS:
        _, alone = _found("llama", hook)
        np.testing.assert_array_equal(together[hook].changed, alone[hook].changed)


def test_a_prompt_whose_options_are_single_tokens_does_not_vouch_for_the_cache(monkeypatch):
    from saebench.experiments import cloze_options as options

    engine = OptionEngine(host_of("llama"), _prompts())
    site = engine._sites(_subject(HOOKS[0]))
    choice = Choice(((5,), (6,)), 0)
    tried: list[bool] = []
    monkeypatch.setattr(options._Scorer, "cache_is_right", lambda _: bool(tried.append(True)))
    engine._scorer(0, choice, [site])
    assert not tried
    assert engine._cached is None


def test_prompts_without_options_measure_nothing():
    prompts = _prompts()
    bare = ClozeTokens(prompts.ids, prompts.length, prompts.answer, prompts.counted, 0)
    engine = OptionEngine(host_of("llama"), bare)
    assert engine.measure([_subject(HOOKS[0])], progress=lambda _: None) == {}


def test_the_cloze_engine_hands_them_on_and_counts_every_token():
    heard: list[int] = []
    prompts = _prompts()
    found = ClozeEngine(host_of("llama"), prompts).measure(
        [_subject(HOOKS[0])], progress=heard.append
    )["sae"]
    _, expected = _found("llama", HOOKS[0])
    table = found.table()
    np.testing.assert_array_equal(table["sae.options"], expected[HOOKS[0]].changed)
    np.testing.assert_array_equal(table["n.options"], expected[HOOKS[0]].offered)
    assert sum(heard) == prompts.tokens


def test_the_prompts_cross_entropy_is_that_of_its_own_tokens():
    model, prompts = make_model("llama").double(), _prompts()
    found = ClozeEngine(host_of("llama"), prompts).measure(
        [_subject(HOOKS[0])], progress=lambda _: None
    )["sae"]
    assert found.changed.ce is not None
    for i, (prompt, _) in enumerate(_rows()):
        for side, hook in ((found.clean, None), (found.changed, HOOKS[0])):
            handle = _hooked(model, hook, len(prompt), "llama") if hook else None
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt])).logits[0]
            if handle:
                handle.remove()
            log_p = log_softmax(logits.numpy(), axis=-1)
            ce = [-log_p[t, prompt[t + 1]] for t in range(1, len(prompt) - 1)]
            assert side.ce[i] == pytest.approx(np.mean(ce), rel=1e-4)
