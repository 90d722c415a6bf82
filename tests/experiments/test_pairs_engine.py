"""Pairs of SAEs against full passes in float64, hooked by hand at both places."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from by_hand import hook_module
from families import (
    BOS,
    EOS,
    WIDTH,
    assert_same_sums,
    host_of,
    make_model,
    make_sae,
    make_subject,
    make_tokens,
    random_ids,
)
from scipy.special import log_softmax, rel_entr
from torch import Tensor

from saebench.data.tokens import TokenSet
from saebench.experiments.pairs import PairEngine
from saebench.subjects.sae import Subject
from saebench.substitution.engine import Engine
from saebench.substitution.gathering import site_of
from saebench.substitution.measurement import PairMeasurement
from saebench.substitution.noise import NoiseSource

N, T, SEED = 5, 14, 11
BLOCKS = {"gpt2": "transformer.h", "llama": "model.layers"}
INSIDE = {"gpt2": ("attn", "mlp"), "llama": ("self_attn", "mlp")}
PAIRS = [
    ("llama", "blocks.0.hook_resid_pre", "blocks.2.hook_resid_pre"),
    ("llama", "blocks.1.hook_attn_out", "blocks.1.hook_mlp_out"),
    ("gpt2", "blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out"),
    ("gpt2", "blocks.0.hook_mlp_out", "blocks.1.hook_attn_out"),
]
every_pair = pytest.mark.parametrize("pair", PAIRS, ids=lambda p: "-".join(p))


def _tokens() -> TokenSet:
    ids = random_ids(N, T)
    ids[1, 7], ids[2, 3] = BOS, EOS
    return make_tokens(ids)


def _subject(hook: str, seed: int, id: str) -> Subject:
    return make_subject(make_sae(seed=seed), hook, id=id, context=T)


def _measure(
    family: str, *pairs: tuple[Subject, Subject], batch_size: int | None = 2
) -> dict[tuple[str, str], PairMeasurement]:
    engine = PairEngine(host_of(family), _tokens(), seed=SEED, batch_size=batch_size)
    return engine.measure(pairs, progress=lambda _: None)


@cache
def _measured(pair: tuple) -> PairMeasurement:
    family, first, second = pair
    subjects = _subject(first, 0, "one"), _subject(second, 1, "two")
    return _measure(family, subjects)["one", "two"]


class _ByHand:
    """Full plain passes in float64, one a sequence, with plain hooks at both places."""

    def __init__(self, family: str, *hooks: str) -> None:
        self.model = make_model(family).double()
        self.tokens = _tokens()
        self.saes = [make_sae(seed=seed).double() for seed in (0, 1)]
        self.hooks = hooks
        self.places = [self._place(family, hook) for hook in hooks]

    def _place(self, family: str, hook: str) -> tuple[Any, bool]:
        _, layer, name = hook.split(".")
        block = self.model.get_submodule(f"{BLOCKS[family]}.{layer}")
        if name == "hook_resid_pre":
            return block, False
        attention, mlp = INSIDE[family]
        return block.get_submodule(attention if name == "hook_attn_out" else mlp), True

    @torch.no_grad()
    def run(self, s: int, *changes: Callable[[Tensor], Tensor]) -> np.ndarray:
        """Return ln P of every position with a change at each place."""
        handles = [
            hook_module(module, change, output=output)
            for (module, output), change in zip(self.places, changes, strict=True)
        ]
        logits = self.model(input_ids=self.tokens.ids[s][None], use_cache=False).logits[0]
        for handle in handles:
            handle.remove()
        return log_softmax(logits.numpy(), axis=-1)

    def version(self, name: str, which: int, s: int, seen: dict[str, float]) -> Any:
        """Return the change at one place; it writes down what the SAE there sees."""
        at = np.flatnonzero(self.tokens.counted[s])
        sae, hook = self.saes[which], self.hooks[which]

        def change(x: Tensor) -> Tensor:
            out = x.clone()
            for t in at:
                here = x[0, t]
                features = sae.encode(here[None])
                x_hat = sae.decode(features)[0]
                for what, value in (
                    ("squared_error", float(((here - x_hat) ** 2).sum())),
                    ("l0", int((features != 0).sum())),
                    ("norm", float(here.norm())),
                ):
                    seen[what] = seen.get(what, 0) + value
                if name == "sae":
                    out[0, t] = x_hat
                elif name == "eps_random":
                    out[0, t] = here + (here - x_hat).norm() * self.noise(hook, s, int(t))
            return out

        return change

    def noise(self, hook: str, s: int, t: int) -> Tensor:
        place = torch.tensor([s]), torch.tensor([t])
        drawn = NoiseSource(SEED, f"eps_random@{hook}").normal(*place, d=WIDTH)[0].double()
        return drawn / drawn.norm()

    def kl(self, s: int, log_q: np.ndarray) -> float:
        log_p = self.run(s, _unchanged, _unchanged)
        at = np.flatnonzero(self.tokens.counted[s])
        return sum(rel_entr(np.exp(log_p[t]), np.exp(log_q[t])).sum() for t in at)


def _unchanged(x: Tensor) -> Tensor:
    return x


@cache
def _expected(pair: tuple) -> dict[str, np.ndarray]:
    """Return every channel's per-sequence sums."""
    hand, found = _ByHand(*pair), {}
    for s in range(N):
        row: dict[str, float] = {}
        for name in ("clean", "sae", "eps_random"):
            seen: dict[str, float] = {}
            first = hand.version(name, 0, s, {})
            alone = hand.run(s, first, hand.version("clean", 1, s, seen))
            row |= {f"{name}.{what}": value for what, value in seen.items()}
            if name != "clean":
                second = hand.version(name, 1, s, {})
                row[f"{name}.kl_first"] = hand.kl(s, alone)
                row[f"{name}.kl_second"] = hand.kl(s, hand.run(s, _unchanged, second))
                row[f"{name}.kl_together"] = hand.kl(s, hand.run(s, first, second))
        for channel, value in row.items():
            found.setdefault(channel, np.zeros(N))[s] = value
    return found


@every_pair
def test_every_channel_is_that_of_full_plain_passes_in_float64(pair):
    table, expected = _measured(pair).table(), _expected(pair)
    assert set(table) == {*expected, "n.scored"}
    for channel, values in expected.items():
        assert values.all(), channel
        np.testing.assert_allclose(table[channel], values, rtol=1e-4, err_msg=channel)


@every_pair
def test_both_together_are_neither_one_alone_nor_their_sum(pair):
    table = {channel: values.sum() for channel, values in _measured(pair).table().items()}
    for name in ("sae", "eps_random"):
        both = table[f"{name}.kl_together"]
        others = (table[f"{name}.kl_first"], table[f"{name}.kl_second"])
        assert abs(both / sum(others) - 1) > 1e-3
        assert both not in others


def test_one_alone_is_what_the_engine_measures_of_one_sae():
    family, first, second = PAIRS[0]
    table = _measured(PAIRS[0]).table()
    engine = Engine(host_of(family), _tokens(), seed=SEED, batch_size=2)
    for which, (hook, seed) in {"first": (first, 0), "second": (second, 1)}.items():
        subject = _subject(hook, seed, "sae")
        alone = engine.measure([(subject, ("sae",))], progress=lambda _: None)["sae"].table()
        np.testing.assert_allclose(table[f"sae.kl_{which}"], alone["sae.kl"], rtol=1e-5)
        if which == "second":
            for what in ("squared_error", "l0", "norm"):
                np.testing.assert_allclose(table[f"clean.{what}"], alone[what], rtol=1e-5)


def test_random_errors_at_two_places_are_independent():
    """One draw for both would make two errors into one of twice the size."""
    place = torch.arange(400), torch.zeros(400, dtype=torch.int64)
    hooks = ("blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre")
    one, two = (NoiseSource(SEED, f"eps_random@{hook}").normal(*place, d=16) for hook in hooks)
    cosine = torch.cosine_similarity(one, two, dim=-1)
    # Of random directions in 16 dimensions: mean 0, deviation 1/4, of the mean 1/80.
    assert abs(float(cosine.mean())) < 4 / 80
    assert 0.2 < float(cosine.std()) < 0.3


@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_the_batch_size_changes_nothing(batch_size):
    family, first, second = PAIRS[0]
    pair = _subject(first, 0, "one"), _subject(second, 1, "two")
    found = _measure(family, pair, batch_size=batch_size)["one", "two"]
    assert_same_sums(found, _measured(PAIRS[0]), rtol=1e-4)


def _three() -> Sequence[Subject]:
    hooks = ("blocks.0.hook_resid_pre", "blocks.1.hook_mlp_out", "blocks.2.hook_resid_pre")
    return [_subject(hook, seed, f"sae{seed}") for seed, hook in enumerate(hooks)]


def test_pairs_measured_together_are_measured_as_alone():
    a, b, c = _three()
    pairs = [(a, b), (a, c), (b, c)]
    together = _measure("llama", *pairs)
    assert list(together) == [("sae0", "sae1"), ("sae0", "sae2"), ("sae1", "sae2")]
    for pair in pairs:
        ids = (pair[0].id, pair[1].id)
        assert_same_sums(together[ids], _measure("llama", pair)[ids], rtol=1e-4)


def test_the_clean_pass_and_the_first_saes_pass_are_shared(monkeypatch):
    """Three pairs of three SAEs: one clean pass, one pass a single SAE, one a pair."""
    from saebench.substitution.passes import Passes

    calls: list[str] = []
    for name in ("clean", "resume_keeping"):
        real = getattr(Passes, name)
        monkeypatch.setattr(
            Passes, name, lambda *a, _r=real, _n=name, **k: calls.append(_n) or _r(*a, **k)
        )
    a, b, c = _three()
    engine = PairEngine(host_of("llama"), _tokens(), seed=SEED, batch_size=N)
    for subject in (a, b, c):
        engine._passes.is_exact(site_of(host_of("llama"), subject))
    calls.clear()
    engine.measure([(a, b), (a, c), (b, c)], progress=lambda _: None)
    assert (calls.count("clean"), calls.count("resume_keeping")) == (1, 3 + 3)


def test_masked_tokens_are_neither_substituted_nor_counted():
    found = _measured(PAIRS[0])
    counted = _tokens().counted
    assert found.table()["n.scored"].tolist() == counted.sum(dim=1).tolist()
    assert found.sums.by_position["sae.kl_together"][0] == 0


def test_a_sequence_of_special_tokens_alone_counts_nothing():
    tokens = _tokens()
    counted = tokens.counted.clone()
    counted[2] = False
    engine = PairEngine(host_of("llama"), replace(tokens, counted=counted), seed=SEED, batch_size=1)
    pair = _subject(PAIRS[0][1], 0, "one"), _subject(PAIRS[0][2], 1, "two")
    table = engine.measure([pair], progress=lambda _: None)["one", "two"].table()
    assert table["n.scored"][2] == table["sae.kl_together"][2] == 0
    whole = _measured(PAIRS[0]).table()["sae.kl_together"]
    np.testing.assert_allclose(
        np.delete(table["sae.kl_together"], 2), np.delete(whole, 2), rtol=1e-4
    )


def test_progress_hears_of_every_token():
    heard: list[int] = []
    engine = PairEngine(host_of("llama"), _tokens(), seed=0, batch_size=2)
    engine.measure([tuple(_three()[:2])], progress=heard.append)
    assert sum(heard) == N * T
