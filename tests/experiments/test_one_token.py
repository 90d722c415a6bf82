"""One token substituted, against full plain passes in float64 that write that position alone."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from by_hand import D_HEAD, NAMES, ByHand, Place
from families import (
    BOS,
    EOS,
    WIDTH,
    Identity,
    assert_same_sums,
    host_of,
    make_sae,
    make_subject,
    make_tokens,
    random_ids,
)
from scipy.special import rel_entr
from torch import Tensor, nn

from saebench.data.tokens import TokenSet
from saebench.errors import NonFiniteValue, NotApplicable
from saebench.experiments.draws import DrawsEngine, DrawsMeasurement
from saebench.experiments.one_token import SingleEngine, SingleMeasurement
from saebench.experiments.windows import Places
from saebench.measures.names import in_bin
from saebench.subjects.hooks import find_site
from saebench.subjects.sae import Subject
from saebench.substitution.engine import Engine
from saebench.substitution.noise import NoiseSource
from saebench.substitution.prefix import PrefixPasses

N, T, SEED = 5, 48, 11
POSITION, OFFSETS = 24, 16  # beyond gemma2's sliding window of 16
LEFT_OUT, MASKED = 1, (3, POSITION + 5)  # a sequence with EOS at t; a BOS at a later offset
SITES = [
    Place("gpt2", "blocks.0.hook_resid_pre", None, "transformer.h.0", "input"),
    Place("gpt2", "blocks.1.hook_mlp_out", None, "transformer.h.1.mlp", "output"),
    Place("gpt2", "blocks.1.hook_resid_mid", None, "transformer.h.1.attn", "middle"),
    Place("gpt2", "blocks.1.mlp.hook_post", None, "transformer.h.1.mlp.c_proj", "input"),
    Place("llama", "blocks.1.hook_resid_pre", None, "model.layers.1", "input"),
    Place("llama", "blocks.2.hook_resid_post", None, "model.layers.2", "output"),
    Place("llama", "blocks.1.attn.hook_z", 2, "model.layers.1.self_attn.o_proj", "input"),
    Place("llama", "blocks.1.hook_resid_mid", None, "model.layers.1.self_attn", "middle"),
    Place("gpt_neox", "blocks.1.hook_resid_pre", None, "gpt_neox.layers.1", "input"),
    Place("gpt_neox", "blocks.1.hook_attn_out", None, "gpt_neox.layers.1.attention", "output"),
    Place("gemma2", "blocks.1.hook_resid_pre", None, "model.layers.1", "input"),
    Place("gemma2", "blocks.1.hook_attn_out", None, "model.layers.1.post_attention_layernorm",
     "output"),
    Place("qwen2", "blocks.0.hook_resid_post", None, "model.layers.0", "output"),
    Place("qwen2", "blocks.1.attn.hook_z", 1, "model.layers.1.self_attn.o_proj", "input"),
]  # fmt: skip
every_site = pytest.mark.parametrize("site", SITES, ids=lambda s: f"{s.family}-{s.hook}")
RESID = SITES[4]
# Where KL and TV are small the logits' roundings are not: some 1e-7 for each token.
CLOSE = {"rtol": 1e-5, "atol": 2e-6}


def _tokens() -> TokenSet:
    ids = random_ids(N, T)
    ids[LEFT_OUT, POSITION], ids[MASKED] = EOS, BOS
    return make_tokens(ids)


def _sae(site: Place, *, seed: int = 0) -> Any:
    width = find_site(host_of(site.family), site.hook, head=site.head).width
    return make_sae(width, seed=seed)


def _subject(sae: nn.Module, site: Place, *, id: str = "sae") -> Subject:
    return make_subject(sae, site.hook, id=id, head=site.head, context=T)


def _places(site: Place, tokens: TokenSet | None = None) -> Places:
    return Places(Engine(host_of(site.family), tokens or _tokens(), seed=SEED))


def _measure(
    site: Place, *subjects: Subject, names: Sequence[str] = NAMES,
    tokens: TokenSet | None = None, batch_size: int | None = None, position: int = POSITION,
) -> dict[str, Any]:  # fmt: skip
    engine = SingleEngine(_places(site, tokens), batch_size=batch_size)
    return engine.measure(
        [(s, names) for s in subjects], position=position, offsets=OFFSETS, progress=lambda _: None
    )


@cache
def _measured(site: Place) -> SingleMeasurement:
    return _measure(site, _subject(_sae(site), site))["sae"]


def _draw(
    site: Place, *subjects: Subject, draws: int = 6, sequences: int = N,
    batch_size: int | None = None, tokens: TokenSet | None = None,
) -> dict[str, Any]:  # fmt: skip
    engine = DrawsEngine(_places(site, tokens), batch_size=batch_size)
    return engine.measure(
        subjects, position=POSITION, draws=draws, sequences=sequences, progress=lambda _: None
    )


@cache
def _drawn(site: Place, draws: int = 6) -> DrawsMeasurement:
    return _draw(site, _subject(_sae(site), site), draws=draws)["sae"]


class _AtPosition(ByHand):
    """Substitutions of the token at the position alone."""

    def __init__(self, place: Place) -> None:
        super().__init__(place, _sae(place), _tokens(), seed=SEED)
        self.clean = [self.run(s) for s in range(N)]

    @property
    def measured(self) -> list[int]:
        return [s for s in range(N) if bool(self.tokens.counted[s, POSITION])]

    def substituted(self, s: int, x_prime: Tensor) -> np.ndarray:
        return self.run_with(s, {POSITION: x_prime})

    def at(self, s: int) -> int:
        """Return the row of the substituted token among all counted ones."""
        here = (self.every.sequence == s) & (self.every.position == POSITION)
        return int(here.nonzero()[0])

    def readout(self, name: str) -> dict[str, np.ndarray]:
        """Return KL, CE, TV and agreement by sequence and offset, by loops over tokens."""
        shape = (N, OFFSETS + 1)
        found = {c: np.zeros(shape) for c in ("kl", "ce", "tv", "agrees")}
        x_prime = self.changed(name)
        for s in self.measured:
            log_q = self.substituted(s, x_prime[self.at(s)])
            for k in range(OFFSETS + 1):
                t = POSITION + k
                if not self.tokens.counted[s, t]:
                    continue
                p, q = np.exp(self.clean[s][t]), np.exp(log_q[t])
                found["kl"][s, k] = rel_entr(p, q).sum()
                found["tv"][s, k] = 0.5 * np.abs(p - q).sum()
                found["agrees"][s, k] = p.argmax() == q.argmax()
                found["ce"][s, k] = -log_q[t, self.tokens.ids[s, t + 1]]
        return found


@cache
def _brute_force(site: Place) -> _AtPosition:
    return _AtPosition(site)


@every_site
@pytest.mark.parametrize("name", NAMES)
def test_every_channel_is_that_of_full_plain_passes_in_float64(site, name):
    expected, found = _brute_force(site).readout(name), _measured(site)
    assert found.path == "prefix"
    # A final RMSNorm undoes a change of length: sae_norm after the last block is the identity.
    nothing = name == "sae_norm" and site.hook == "blocks.2.hook_resid_post"
    assert (expected["kl"].sum() < 1e-9) if nothing else (expected["kl"].sum() > 1e-3)
    for channel, values in expected.items():
        # fp32 against float64; 1e-6 of KL is zero.
        for by, axis in ((found.sums.by_sequence, 1), (found.sums.by_position, 0)):
            np.testing.assert_allclose(
                by[f"{name}.{channel}"], values.sum(axis=axis), rtol=1e-4, atol=1e-6
            )


@every_site
def test_offsets_0_and_1_are_kept_apart(site):
    expected, found = _brute_force(site).readout("sae")["kl"], _measured(site)
    for offset in (0, 1):
        by_sequence = found.sums.by_sequence[in_bin("sae.kl", offset)]
        np.testing.assert_allclose(by_sequence, expected[:, offset], rtol=1e-4, atol=1e-6)


def test_a_sequence_with_a_special_token_at_the_position_is_left_out_and_counted():
    found, tokens = _measured(RESID), _tokens()
    scored = tokens.counted[:, POSITION : POSITION + OFFSETS + 1].sum(dim=1)
    scored[LEFT_OUT] = 0
    assert found.sums.by_sequence["n.scored"].tolist() == scored.tolist()
    assert int(scored[MASKED[0]]) == OFFSETS
    assert found.left_out == 1
    assert len(found.table()["sae.kl"]) == N - 1


def test_exceeded_counts_the_tokens_at_which_the_saes_kl_is_larger():
    brute, found = _brute_force(RESID), _measured(RESID)
    above = brute.readout("sae")["kl"] > brute.readout("eps_random")["kl"]
    assert found.sums.total("eps_random.exceeded") == above.sum()


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
def test_the_batch_size_changes_nothing(batch_size):
    found = _measure(RESID, _subject(make_sae(), RESID), batch_size=batch_size)["sae"]
    assert_same_sums(found, _measured(RESID), **CLOSE)  # other batches take other kernels
    drawn = _draw(RESID, _subject(make_sae(), RESID), batch_size=batch_size)["sae"]
    np.testing.assert_allclose(drawn.draws, _drawn(RESID).draws, rtol=1e-5)


def test_saes_measured_together_are_measured_as_alone():
    places = [RESID, RESID, SITES[6]]
    some = [
        _subject(make_sae(WIDTH if site.head is None else D_HEAD, seed=i), site, id=str(i))
        for i, site in enumerate(places)
    ]
    together, drawn = _measure(RESID, *some), _draw(RESID, *some)
    for subject in some:
        assert_same_sums(together[subject.id], _measure(RESID, subject)[subject.id], **CLOSE)
        alone = _draw(RESID, subject)[subject.id]
        np.testing.assert_allclose(drawn[subject.id].draws, alone.draws, rtol=1e-5)
    assert together["0"].sums.total("sae.kl") != together["1"].sums.total("sae.kl")


def test_fewer_interventions_give_the_same_values():
    names = ("sae", "cov_random", "mean")
    few = _measure(RESID, _subject(make_sae(), RESID), names=names)["sae"]
    for name in names:
        expected = _measured(RESID).sums.by_sequence[f"{name}.kl"]
        np.testing.assert_allclose(few.sums.by_sequence[f"{name}.kl"], expected, rtol=1e-5)


@pytest.mark.parametrize("position", [T - 1, T - 2, T - 10])
def test_the_window_ends_with_the_context(position):
    found = _measure(RESID, _subject(make_sae(), RESID), position=position)["sae"]
    assert list(found.offsets) == list(range(T - position))
    assert found.cut == OFFSETS + 1 - (T - position)
    assert found.sums.total("n.scored") > 0
    assert found.sums.by_sequence["n.targets"].sum() < found.sums.by_sequence["n.scored"].sum()


def test_a_position_beyond_the_context_does_not_apply():
    with pytest.raises(NotApplicable, match=r"position 48 .* have 48 tokens.*--sae-context"):
        _measure(RESID, _subject(make_sae(), RESID), position=T)


def test_position_0_does_not_apply_unless_it_counts():
    subject, tokens = _subject(make_sae(), RESID), _tokens()
    with pytest.raises(NotApplicable, match="position 0 .*--sae-score-bos"):
        _measure(RESID, subject, position=0)
    every = replace(tokens, counted=torch.ones_like(tokens.counted))
    found = _measure(RESID, subject, position=0, tokens=every)["sae"]
    assert found.path == "prefix"
    assert found.left_out == 0
    assert found.sums.by_position["sae.kl"].all()


@every_site
def test_the_identity_changes_nothing(site):
    names = [n for n in NAMES if n not in ("zero", "mean", "pca[5]")]
    found = _measure(site, _subject(Identity(), site), names=names)["sae"]
    for name in names:
        assert found.sums.total(f"{name}.kl") / found.sums.total("n.scored") <= 1e-6, name
    drawn = _draw(site, _subject(Identity(), site))["sae"]
    assert not drawn.standing().defined.any()


def test_a_failed_intervention_is_named_and_spares_the_others():
    class Silent(Identity):
        def decode(self, features: Tensor) -> Tensor:
            return torch.zeros_like(features)

    found = _measure(RESID, _subject(Silent(), RESID))["sae"]
    assert set(found.failures) == {"norm_corrected", "theta_random_x", "theta_random_sae"}
    assert f"sequence 0, position {POSITION}" in str(found.failures["norm_corrected"])
    expected = found.sums.total("zero.kl")
    assert found.sums.total("sae.kl") == pytest.approx(expected, rel=1e-6)


class _EveryDraw:
    """ε-random KL at the position itself, by one full plain pass in float64 for each draw."""

    def __init__(self, brute: _AtPosition) -> None:
        self.brute = brute

    def kl(self, s: int, draw: int) -> float:
        brute, at = self.brute, self.brute.at(s)
        x, radius = brute.every.x[at], brute.every.radius[at]
        here = torch.tensor([s]), torch.tensor([POSITION])
        noise = NoiseSource(SEED, "eps_random").normal(*here, d=len(x), draw=draw)[0].double()
        log_q = brute.substituted(s, x + radius * noise / noise.norm())[POSITION]
        p = np.exp(brute.clean[s][POSITION])
        return float(rel_entr(p, np.exp(log_q)).sum())


@every_site
def test_every_draw_is_a_full_plain_pass_in_float64(site):
    brute, found = _brute_force(site), _drawn(site)
    every = _EveryDraw(brute)
    assert found.path == "prefix"
    assert found.sequence.tolist() == brute.measured
    expected = [[every.kl(s, draw) for draw in range(6)] for s in brute.measured]
    np.testing.assert_allclose(found.draws, expected, rtol=1e-4, atol=1e-7)
    sae = brute.readout("sae")["kl"][brute.measured, 0]
    np.testing.assert_allclose(found.sae, sae, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("draws", [2, 3, 17])
def test_a_draw_does_not_depend_on_how_many_there_are(draws):
    few = min(draws, 6)
    found = _drawn(RESID, draws).draws[:, :few]
    np.testing.assert_allclose(found, _drawn(RESID).draws[:, :few], rtol=1e-5)


def test_the_first_draw_is_the_intervention_itself():
    single = _measure(RESID, _subject(make_sae(), RESID))["sae"].table()
    kl = single[in_bin("eps_random.kl", 0)]
    np.testing.assert_allclose(_drawn(RESID).draws[:, 0], kl, rtol=1e-5)


def test_draws_look_at_the_first_sequences_only():
    found = _draw(RESID, _subject(make_sae(), RESID), sequences=3)["sae"]
    assert found.sequence.tolist() == [0, 2]
    assert (found.sequences, found.left_out) == (3, 1)
    np.testing.assert_allclose(found.draws, _drawn(RESID).draws[:2], rtol=1e-5)


def test_what_is_no_number_is_an_error_and_its_table_has_none():
    found = _drawn(RESID)
    draws = found.draws.copy()
    draws[2, 1] = np.inf
    broken = replace(found, draws=draws)
    with pytest.raises(NonFiniteValue, match="eps_random.kl is not finite at 1 of 4.*sequence 3"):
        broken.need()
    assert broken.table()["n.drawn"].tolist() == [1, 1, 0, 1]
    assert all(np.isfinite(values).all() for values in broken.table().values())


def test_examples_are_what_full_passes_say_next():
    brute, found = _brute_force(RESID), _measured(RESID)
    kl = found.table()[in_bin("sae.kl", 0)]
    shown = [e.kl["sae"] for e in found.examples]
    assert shown == sorted(shown)
    assert shown[-1] == pytest.approx(kl.max(), rel=1e-5)
    for e in found.examples:
        log_p = brute.clean[e.sequence][POSITION]
        top = np.argsort(-log_p)[:25]
        assert e.tokens == tuple(f" w{i}" for i in top)
        assert e.text.endswith(f" w{int(_tokens().ids[e.sequence, POSITION])}")
        said = {"clean": log_p} | {
            name: brute.substituted(e.sequence, brute.changed(name)[brute.at(e.sequence)])[POSITION]
            for name in ("sae", "eps_random")
        }
        for name, log in said.items():
            np.testing.assert_allclose(e.probabilities[name], np.exp(log[top]), rtol=1e-3)


def test_progress_hears_of_every_position_and_every_draw():
    heard: list[int] = []
    subject = _subject(make_sae(), RESID)
    SingleEngine(_places(RESID), batch_size=2).measure(
        [(subject, ("sae",))], position=POSITION, offsets=OFFSETS, progress=heard.append
    )
    assert sum(heard) == N * (OFFSETS + 1)
    heard.clear()
    DrawsEngine(_places(RESID), batch_size=2).measure(
        [subject], position=POSITION, draws=3, sequences=N, progress=heard.append
    )
    assert sum(heard) == 3 * (N - 1)


def test_prefix_keys_are_shown_once_for_all_draws(monkeypatch):
    """500 draws must not run the prefix 500 times: rows of the pass are one position long."""
    lengths: list[int] = []
    resume = PrefixPasses.resume

    def watched(self: PrefixPasses, window: Any, site: Any, changed: Tensor) -> Tensor:
        lengths.append(changed.shape[2])
        return resume(self, window, site, changed)

    monkeypatch.setattr(PrefixPasses, "resume", watched)
    _draw(RESID, _subject(make_sae(), RESID), draws=50)
    assert set(lengths) == {1}
    assert len(lengths) < 10
