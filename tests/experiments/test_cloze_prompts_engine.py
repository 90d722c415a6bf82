"""Cloze answers against full plain passes, prompt by prompt and without padding."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from by_hand import hook_module
from families import BOS, EOS, VOCAB, assert_same_sums, host_of, make_host, make_sae, make_subject
from scipy.special import log_softmax
from torch import Tensor

from saebench.data.cloze_tokens import ClozeTokens
from saebench.experiments.cloze_prompts import ClozeEngine, ClozeMeasurement
from saebench.subjects.sae import Subject

CONTEXT = 64
PROMPTS = 24
HOOK = "blocks.1.hook_resid_pre"
BLOCKS = {"gpt2": "transformer.h", "llama": "model.layers"}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
both_families = pytest.mark.parametrize("family", BLOCKS)


def _greedy(model: Any, prompt: list[int], tokens: int) -> list[int]:
    """Decode greedily by whole plain passes."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(tokens):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@cache
def _rows(family: str) -> list[tuple[list[int], list[int]]]:
    """Return prompts with right answers, and with answers wrong at the first or last token."""
    generator = torch.Generator().manual_seed(3)
    rows = []
    for i in range(PROMPTS):
        prompt = [BOS, *torch.randint(3, VOCAB, (2 + 5 * i % 23,), generator=generator).tolist()]
        answer = _greedy(host_of(family).model, prompt, 1 + i % 3)
        if i % 4 in (1, 2):
            wrong = 0 if i % 4 == 1 else -1
            answer[wrong] = 3 + (answer[wrong] + 1) % (VOCAB - 3)
        rows.append((prompt, answer))
    rows[5][0][2] = EOS
    return rows


def _prompts(rows: list[tuple[list[int], list[int]]]) -> ClozeTokens:
    longest = max(len(p) + len(a) for p, a in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    counted = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, (p, a) in enumerate(rows):
        ids[i, : len(p) + len(a)] = torch.tensor(p + a)
        for t in range(1, len(p)):
            counted[i, t] = p[t] not in (BOS, EOS)
    length = torch.tensor([len(p) + len(a) for p, a in rows])
    answer = torch.tensor([len(a) for _, a in rows])
    return ClozeTokens(ids, length, answer, counted, cut=7)


def _subject(*, seed: int = 0, hook: str = HOOK, id: str = "sae") -> Subject:
    return make_subject(make_sae(seed=seed), hook, id=id)


def _measure(family: str, *subjects: Subject, prompts: ClozeTokens | None = None) -> Any:
    engine = ClozeEngine(host_of(family), prompts or _prompts(_rows(family)))
    return engine.measure(subjects, progress=lambda _: None)


@cache
def _measured(family: str) -> ClozeMeasurement:
    return _measure(family, _subject())["sae"]


@cache
def _by_hand(family: str, *, substituted: bool) -> list[dict[str, Any]]:
    """Run each prompt alone through the model in float64, hooked by hand."""
    model, sae, found = make_host(family).model.double(), make_sae().double(), []
    module = model.get_submodule(f"{BLOCKS[family]}.1")
    for prompt, answer in _rows(family):
        places = [t for t in range(1, len(prompt)) if prompt[t] not in (BOS, EOS)]
        seen: dict[str, Tensor] = {}

        def change(value: Tensor, places=places, seen=seen) -> Tensor:
            x = value.clone()
            seen |= {"x": x[0, places], "f": sae.encode(x[0, places])}
            seen["x_hat"] = sae.decode(seen["f"])
            if substituted:
                x[0, places] = seen["x_hat"]
            return x

        with torch.no_grad(), hook_module(module, change, output=False):
            logits = model(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0]
        found.append(_told(logits.numpy(), prompt, answer) | seen)
    return found


def _told(logits: np.ndarray, prompt: list[int], answer: list[int]) -> dict[str, Any]:
    before = [len(prompt) - 1 + i for i in range(len(answer))]
    log_p = log_softmax(logits, axis=-1)
    right = [int(logits[t].argmax()) == a for t, a in zip(before, answer, strict=True)]
    total = sum(log_p[t, a] for t, a in zip(before, answer, strict=True))
    return {"log_p": total, "first": right[0], "whole": all(right)}


@both_families
def test_clean_answers_are_right_where_greedy_decoding_gives_them(family):
    model, clean = host_of(family).model, _measured(family).clean
    for i, (prompt, answer) in enumerate(_rows(family)):
        greedy = _greedy(model, prompt, len(answer))
        assert clean.first[i] == (greedy[0] == answer[0])
        assert clean.whole[i] == (greedy == answer)
    assert 0 < clean.whole.sum() < clean.first.sum() < PROMPTS


@both_families
def test_clean_answers_are_right_where_transformers_generate_gives_them(family):
    model, clean = host_of(family).model, _measured(family).clean
    for i, (prompt, answer) in enumerate(_rows(family)[:8]):
        ids = torch.tensor([prompt])
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=2,
            max_new_tokens=len(answer), eos_token_id=None,
        )  # fmt: skip
        assert clean.whole[i] == (made[0, len(prompt) :].tolist() == answer)


@both_families
@pytest.mark.parametrize("side", ["clean", "changed"])
def test_log_probabilities_are_those_of_full_passes_in_float64(family, side):
    expected = _by_hand(family, substituted=side == "changed")
    found = getattr(_measured(family), side)
    # fp32 logits of size 10 against float64: 1e-6 each, through three blocks.
    np.testing.assert_allclose(
        found.log_probability, [e["log_p"] for e in expected], rtol=2e-5, atol=2e-5
    )
    assert found.first.tolist() == [e["first"] for e in expected]
    assert found.whole.tolist() == [e["whole"] for e in expected]


@both_families
def test_the_substitution_is_felt(family):
    found = _measured(family)
    assert np.abs(found.changed.log_probability - found.clean.log_probability).min() > 1e-4
    assert (found.changed.first != found.clean.first).any()


@both_families
def test_error_and_l0_are_means_over_each_prompts_counted_tokens(family):
    found = _measured(family)
    for i, e in enumerate(_by_hand(family, substituted=False)):
        error = ((e["x"] - e["x_hat"]) ** 2).sum(dim=-1).mean()
        # Sums of 32 squares in fp32 against float64.
        assert found.squared_error[i] == pytest.approx(float(error), rel=1e-5)
        assert found.l0[i] == pytest.approx(float((e["f"] != 0).sum(dim=-1).double().mean()))


@both_families
@pytest.mark.parametrize("tokens", [1, 60, 200])
def test_how_prompts_are_batched_changes_nothing(family, tokens, monkeypatch):
    monkeypatch.setattr("saebench.experiments.cloze_prompts.tokens_a_pass", lambda _: tokens)
    assert_same_sums(_measure(family, _subject())["sae"], _measured(family), **CLOSE)


@both_families
def test_the_order_of_prompts_changes_nothing_but_their_order(family):
    order = np.random.default_rng(0).permutation(PROMPTS)
    rows = [_rows(family)[i] for i in order]
    table = _measure(family, _subject(), prompts=_prompts(rows))["sae"].table()
    for channel, values in _measured(family).table().items():
        np.testing.assert_allclose(table[channel], values[order], **CLOSE)


@both_families
def test_saes_measured_together_are_measured_as_alone(family):
    subjects = [
        _subject(id="one"),
        _subject(id="two", seed=4),
        _subject(id="three", seed=5, hook="blocks.2.hook_resid_pre"),
    ]
    together = _measure(family, *subjects)
    for subject in subjects:
        assert_same_sums(together[subject.id], _measure(family, subject)[subject.id], **CLOSE)
    deltas = {round(float(m.table()["delta"].sum()), 6) for m in together.values()}
    assert len(deltas) == 3


@both_families
def test_what_stands_in_the_padding_changes_nothing(family):
    prompts = _prompts(_rows(family))
    padding = torch.arange(prompts.ids.shape[1])[None] >= prompts.length[:, None]
    other = replace(prompts, ids=prompts.ids.masked_fill(padding, 50))
    assert_same_sums(_measure(family, _subject(), prompts=other)["sae"], _measured(family), **CLOSE)


@both_families
@pytest.mark.parametrize("last", [32, 5, 1])
def test_features_are_active_where_they_fire_in_the_prompts_last_tokens(family, last, monkeypatch):
    monkeypatch.setattr("saebench.experiments.cloze_prompts.LAST_TOKENS", last)
    engine = ClozeEngine(host_of(family), _prompts(_rows(family)))
    subjects = [_subject(), _subject(id="other", seed=4)]
    found = engine.measure(subjects, progress=lambda _: None, active=["sae"])
    assert found["other"].active is None
    hand = _by_hand(family, substituted=False)
    for i, ((prompt, _), e) in enumerate(zip(_rows(family), hand, strict=True)):
        places = [t for t in range(1, len(prompt)) if prompt[t] not in (BOS, EOS)]
        within = [t >= len(prompt) - last for t in places]
        expected = (e["f"][torch.tensor(within)] != 0).any(dim=0)
        assert found["sae"].active[[i]].toarray()[0].tolist() == expected.tolist()


@both_families
def test_asking_for_active_features_changes_no_answer(family):
    engine = ClozeEngine(host_of(family), _prompts(_rows(family)))
    found = engine.measure([_subject()], progress=lambda _: None, active=["sae"])["sae"]
    assert_same_sums(found, _measured(family), **CLOSE)


@both_families
def test_progress_tells_every_token_of_every_batch(family, monkeypatch):
    monkeypatch.setattr("saebench.experiments.cloze_prompts.tokens_a_pass", lambda _: 60)
    heard: list[int] = []
    prompts = _prompts(_rows(family))
    ClozeEngine(host_of(family), prompts).measure([_subject()], progress=heard.append)
    assert len(heard) > 1
    assert int(prompts.length.sum()) <= sum(heard) <= prompts.ids.numel()
    assert _measured(family).cut == 7
