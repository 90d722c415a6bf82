"""The engine against a brute-force loop of full plain passes in float64, and its invariances."""

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
    host_of,
    make_host,
    make_sae,
    make_subject,
    make_tokens,
    random_ids,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr
from torch import Tensor, nn

from saebench.data.tokens import TokenSet
from saebench.errors import MeasurementError
from saebench.subjects.sae import Subject
from saebench.substitution import engine as engine_module
from saebench.substitution.batches import DeferredChecks
from saebench.substitution.engine import Engine
from saebench.substitution.gathering import site_of
from saebench.substitution.measurement import Measurement
from saebench.substitution.passes import Passes

N, T, SEED = 6, 16, 11
SITES = [
    Place("llama", "blocks.1.hook_resid_pre", None, "model.layers.1", "input"),
    Place("llama", "blocks.2.hook_resid_post", None, "model.layers.2", "output"),
    Place("llama", "blocks.1.attn.hook_z", 2, "model.layers.1.self_attn.o_proj", "input"),
    Place("gpt2", "blocks.0.hook_resid_pre", None, "transformer.h.0", "input"),
    Place("gpt2", "blocks.1.hook_mlp_out", None, "transformer.h.1.mlp", "output"),
]
every_site = pytest.mark.parametrize("site", SITES, ids=lambda s: f"{s.family}-{s.hook}")
RESID = SITES[0]


def _tokens() -> TokenSet:
    ids = random_ids(N, T)
    ids[1, 7], ids[2, 3], ids[3, T - 1] = BOS, EOS, BOS
    return make_tokens(ids)


def _subject(sae: nn.Module, site: Place, *, id: str = "sae") -> Subject:
    return make_subject(sae, site.hook, id=id, head=site.head)


def _sae(site: Place) -> Any:
    return make_sae(WIDTH if site.head is None else D_HEAD)


def _measure(
    site: Place, *subjects: Subject, names: Sequence[str] = NAMES,
    tokens: TokenSet | None = None, batch_size: int | None = 4,
) -> dict[str, Measurement]:  # fmt: skip
    engine = Engine(host_of(site.family), tokens or _tokens(), seed=SEED, batch_size=batch_size)
    return engine.measure([(s, names) for s in subjects], progress=lambda _: None)


@cache
def _measured(site: Place) -> Measurement:
    return _measure(site, _subject(_sae(site), site))["sae"]


def _readout(brute: ByHand, name: str) -> dict[str, np.ndarray]:
    """Return per-sequence sums of KL, CE, TV and agreement, by loops over tokens."""
    sums = {c: np.zeros(N) for c in ("kl", "ce", "tv", "agrees")}
    tokens = brute.tokens
    rows = brute.changed(name).split(tokens.counted.sum(dim=1).tolist())
    for s in range(N):
        counted = np.flatnonzero(tokens.counted[s]).tolist()
        log_p = brute.run(s)
        log_q = brute.run_with(s, dict(zip(counted, rows[s], strict=True)))
        for t in counted:
            p, q = np.exp(log_p[t]), np.exp(log_q[t])
            sums["kl"][s] += rel_entr(p, q).sum()
            sums["tv"][s] += 0.5 * np.abs(p - q).sum()
            sums["agrees"][s] += p.argmax() == q.argmax()
            if t + 1 < T:
                sums["ce"][s] -= log_q[t, tokens.ids[s, t + 1]]
    return sums


@cache
def _brute_force(site: Place) -> ByHand:
    return ByHand(site, _sae(site), _tokens(), seed=SEED)


@every_site
@pytest.mark.parametrize("name", NAMES)
def test_every_channel_is_that_of_full_plain_passes_in_float64(site, name):
    expected = _readout(_brute_force(site), name)
    table = _measured(site).table()
    # A final RMSNorm undoes a change of length: sae_norm after the last block is the identity.
    nothing = name == "sae_norm" and site.hook == "blocks.2.hook_resid_post"
    assert (expected["kl"].sum() < 1e-9) if nothing else (expected["kl"].sum() > 0.1)
    for channel in ("kl", "ce", "tv", "agrees"):
        # The bound for fp32 against float64, on each sequence's sum; 1e-6 of KL is zero.
        np.testing.assert_allclose(
            table[f"{name}.{channel}"], expected[channel], rtol=1e-4, atol=2e-5 if nothing else 0
        )


@every_site
def test_counts_are_those_of_the_masks_written_out(site):
    table, tokens = _measured(site).table(), _tokens()
    scored = [sum(bool(tokens.counted[s, t]) for t in range(T)) for s in range(N)]
    targets = [sum(bool(tokens.counted[s, t]) for t in range(T - 1)) for s in range(N)]
    assert table["n.scored"].tolist() == scored
    assert table["n.targets"].tolist() == targets
    assert sum(scored) == N * (T - 1) - 3


@every_site
def test_explained_variance_and_mse_are_numpys_over_all_tokens(site):
    brute, sums = _brute_force(site), _measured(site).sums
    x, x_hat = brute.x.numpy(), brute.x_hat.detach().numpy()
    error = ((x - x_hat) ** 2).sum()
    deviation = ((x - x.mean(axis=0)) ** 2).sum()
    assert sums.total("squared_error") == pytest.approx(error, rel=1e-4)
    explained = 1 - sums.total("squared_error") / sums.total("squared_deviation")
    assert explained == pytest.approx(1 - error / deviation, rel=1e-4)


@every_site
def test_features_are_counted_as_in_float64(site):
    brute, found = _brute_force(site), _measured(site)
    features = brute.features.detach().numpy()
    # A feature within 1e-6 of zero may fire in one precision only; none does here.
    assert found.sums.total("l0") == np.count_nonzero(features)
    assert found.fired.tolist() == np.count_nonzero(features, axis=0).tolist()
    assert found.sums.total("l1") == pytest.approx(np.abs(features).sum(), rel=1e-4)
    norms = np.linalg.norm(brute.sae.W_dec.detach().numpy(), axis=1)
    assert found.sums.total("l1_unit") == pytest.approx((np.abs(features) @ norms).sum(), rel=1e-4)


@every_site
def test_exceeded_counts_the_tokens_at_which_the_saes_kl_is_larger(site):
    measured = _measured(site).sums
    for name in NAMES[1:]:
        share = measured.total(f"{name}.exceeded") / measured.total("n.scored")
        assert 0 <= share <= 1
    assert "sae.exceeded" not in measured.by_sequence


@every_site
def test_sums_by_position_and_by_sequence_are_sums_of_the_same_tokens(site):
    sums = _measured(site).sums
    for channel, values in sums.by_sequence.items():
        if channel != "squared_deviation":
            # Two orders of adding the same float64 numbers.
            assert sums.by_position[channel].sum() == pytest.approx(values.sum(), rel=1e-10)


@every_site
def test_the_identity_changes_nothing(site):
    names = [n for n in NAMES if n not in ("zero", "mean", "pca[5]")]
    found = _measure(site, _subject(Identity(), site), names=names)["sae"]
    for name in names:
        # docs/metrics.md: KL ≤ 1e-6 on the mean. norm_corrected and the angles round x.
        mean = found.sums.total(f"{name}.kl") / found.sums.total("n.scored")
        assert mean <= 1e-6, name
    assert found.sums.total("sae.kl") == 0
    assert found.sums.total("squared_error") == 0
    assert found.sums.total("squared_deviation") > 0


def _assert_same(one: Measurement, other: Measurement, *, rtol: float) -> None:
    assert one.table().keys() == other.table().keys()
    for channel, values in one.table().items():
        np.testing.assert_allclose(
            values.sum(), other.table()[channel].sum(), rtol=rtol, err_msg=channel
        )


@given(batch_size=st.integers(1, N))
@settings(deadline=None, max_examples=6)
def test_the_batch_size_changes_nothing(batch_size):
    found = _measure(RESID, _subject(make_sae(), RESID), batch_size=batch_size)["sae"]
    # Other batch sizes take other matrix kernels: 1e-6 is some roundings of fp32.
    _assert_same(found, _measured(RESID), rtol=1e-6)


def _permuted(tokens: TokenSet, order: Sequence[int]) -> TokenSet:
    return replace(tokens, ids=tokens.ids[list(order)], counted=tokens.counted[list(order)])


@given(order=st.permutations(range(N)), batch_size=st.integers(1, 4))
@settings(deadline=None, max_examples=6)
def test_the_order_of_sequences_changes_nothing_but_their_order(order, batch_size):
    names = ("sae", "norm_corrected", "sae_norm", "zero", "mean")
    found = _measure(
        RESID, _subject(make_sae(), RESID), names=names,
        tokens=_permuted(_tokens(), order), batch_size=batch_size,
    )["sae"]  # fmt: skip
    for name in names:
        expected = _measured(RESID).table()[f"{name}.kl"][list(order)]
        # A sequence's own sum has fewer tokens to average roundings over: ten times 1e-6.
        np.testing.assert_allclose(found.table()[f"{name}.kl"], expected, rtol=1e-5)


def test_saes_measured_together_are_measured_as_alone():
    one, two = (
        _subject(make_sae(), RESID, id="one"),
        _subject(make_sae(seed=5), RESID, id="two"),
    )
    site = SITES[1]
    third = _subject(make_sae(seed=6), site, id="three")
    together = _measure(RESID, one, two, third)
    for subject in (one, two, third):
        alone = _measure(RESID, subject)[subject.id]
        _assert_same(together[subject.id], alone, rtol=1e-6)  # stacks take other kernels
    assert together["one"].sums.total("sae.kl") != together["two"].sums.total("sae.kl")


def test_fewer_interventions_give_the_same_values():
    names = ("sae", "cov_random", "mean")
    few = _measure(RESID, _subject(make_sae(), RESID), names=names)["sae"]
    every = _measured(RESID)
    assert few.interventions == names
    for name in names:
        assert few.sums.total(f"{name}.kl") == pytest.approx(
            every.sums.total(f"{name}.kl"), rel=1e-6
        )  # stacks take other kernels


def test_a_failed_intervention_is_named_and_spares_the_others():
    class Silent(Identity):
        def decode(self, features: Tensor) -> Tensor:
            return torch.zeros_like(features)

    found = _measure(RESID, _subject(Silent(), RESID))["sae"]
    assert set(found.failures) == {"norm_corrected", "theta_random_x", "theta_random_sae"}
    assert "sequence 0, position 1" in str(found.failures["norm_corrected"])
    assert found.sums.total("sae.kl") == pytest.approx(found.sums.total("zero.kl"), rel=1e-6)


@pytest.mark.parametrize("made", ["silent", "huge", "usual"])
def test_checks_deferred_to_the_end_of_a_batch_give_what_immediate_checks_give(made, monkeypatch):
    class Silent(Identity):
        def decode(self, features: Tensor) -> Tensor:
            return torch.zeros_like(features)

    # On a GPU checks are deferred; this makes a CPU defer them too.
    sae = Silent() if made == "silent" else make_sae()
    host = make_host("llama")
    if made == "huge":
        host.model.model.norm.weight.data.mul_(1000)  # logits that fp32 cannot compare
    runs, seen = [], []

    class Noted(DeferredChecks):
        def any(self) -> bool:
            seen.append(super().any())
            return seen[-1]

    for deferred in (False, True):
        monkeypatch.setattr(
            engine_module,
            "DeferredChecks",
            lambda **_: Noted(deferred=deferred),  # noqa: B023
        )
        engine = Engine(host, _tokens(), seed=SEED, batch_size=4)
        jobs = [(_subject(sae, RESID), NAMES)]
        runs.append(engine.measure(jobs, progress=lambda _: None)["sae"])
    assert any(seen) == (made != "usual")
    expected, found = runs
    assert found.failures.keys() == expected.failures.keys()
    assert found.interventions == expected.interventions
    assert found.table().keys() == expected.table().keys()
    for channel, values in expected.table().items():
        assert np.isfinite(values).all()
        np.testing.assert_array_equal(found.table()[channel], values, err_msg=channel)


def test_masked_tokens_are_neither_substituted_nor_scored():
    tokens = _tokens()
    counted = tokens.counted.clone()
    counted[:, 5:] = False
    found = _measure(RESID, _subject(make_sae(), RESID), tokens=replace(tokens, counted=counted))[
        "sae"
    ]
    every = _measured(RESID)
    for position in range(5):  # causal: what comes later changes nothing before
        assert found.sums.by_position["sae.kl"][position] == pytest.approx(
            every.sums.by_position["sae.kl"][position], rel=1e-5
        )
    assert not found.sums.by_position["sae.kl"][5:].any()
    assert found.sums.by_position["sae.kl"][1:5].all()


def test_the_sparse_decode_gives_what_the_dense_decode_gives():
    subject = _subject(make_sae(copies=64), RESID)
    assert subject.d_sae == 4096
    assert subject._sparse
    dense = _subject(make_sae(copies=64), RESID)
    dense._sparse = False
    found, expected = _measure(RESID, subject)["sae"], _measure(RESID, dense)["sae"]
    _assert_same(found, expected, rtol=1e-5)  # 2000 fp32 additions in another order


def test_more_sequences_than_the_reference_set_centre_on_their_own_mean(monkeypatch):
    monkeypatch.setattr("saebench.substitution.engine.REFERENCE_SEQUENCES", 2)
    found = _measure(RESID, _subject(make_sae(), RESID), names=("sae",))["sae"]
    x = _brute_force(RESID).x.numpy()
    deviation = ((x - x.mean(axis=0)) ** 2).sum()
    assert found.sums.total("squared_deviation") == pytest.approx(deviation, rel=1e-5)


def test_each_sequences_deviations_are_from_the_runs_own_mean():
    found = _measure(RESID, _subject(make_sae(), RESID), names=("sae",))["sae"]
    x = _brute_force(RESID).x.numpy()
    by_token = ((x - x.mean(axis=0)) ** 2).sum(axis=1)
    counts = _tokens().counted.sum(dim=1).numpy()
    expected = [part.sum() for part in np.split(by_token, counts.cumsum()[:-1])]
    np.testing.assert_allclose(found.table()["squared_deviation"], expected, rtol=1e-4)


def _alike() -> TokenSet:
    """Sequences of which every token but the first, the same in all, counts."""
    return make_tokens(random_ids(N, T, seed=3))


@pytest.mark.parametrize("site", [RESID, SITES[3]], ids=lambda s: s.hook)
def test_what_is_the_same_in_every_sequence_is_run_once_and_gives_the_same(site, monkeypatch):
    names = ("zero", "mean", "sae", "cov_random", "real_difference")
    subject = _subject(make_sae(), site)
    once = _measure(site, subject, names=names, tokens=_alike())["sae"]
    monkeypatch.setattr(Passes, "is_all", lambda *_: False)
    each = _measure(site, subject, names=names, tokens=_alike())["sae"]
    assert each.table().keys() == once.table().keys()
    for channel, values in each.table().items():
        np.testing.assert_allclose(once.table()[channel], values, rtol=1e-5, err_msg=channel)


def test_sequences_that_begin_otherwise_do_not_share_a_pass():
    tokens = _alike()
    tokens.ids[1, 0] = 7
    subject = _subject(make_sae(), RESID)
    found = _measure(RESID, subject, names=("zero",), tokens=tokens)["sae"]
    for s in range(2):
        alone = make_tokens(tokens.ids[[s]], tokens.counted[[s]])
        expected = _measure(RESID, subject, names=("zero",), tokens=alone)["sae"]
        kl = expected.sums.total("zero.kl")
        assert found.table()["zero.kl"][s] == pytest.approx(kl, rel=1e-5)


def test_a_shared_pass_runs_one_sequence(monkeypatch):
    host, seen = host_of("llama"), []
    inner = host.final_hidden
    monkeypatch.setattr(host, "final_hidden", lambda ids: seen.append(len(ids)) or inner(ids))
    engine = Engine(host, _alike(), seed=0, batch_size=N)
    engine._passes.is_all(site_of(host, _subject(make_sae(), RESID)))
    seen.clear()
    engine.measure([(_subject(make_sae(), RESID), ("sae", "zero"))], progress=lambda _: None)
    assert seen == [N, N, 1]  # clean, sae, zero


def test_progress_hears_of_every_token():
    heard: list[int] = []
    engine = Engine(host_of("llama"), _tokens(), seed=0, batch_size=4)
    engine.measure([(_subject(make_sae(), RESID), ("sae",))], progress=heard.append)
    assert sum(heard) == N * T


KEPT = ("sae.kl", "eps_random.kl", "cosine", "norm", "l0")


def _kept(batch_size: int = 4) -> Measurement:
    engine = Engine(host_of("llama"), _tokens(), seed=SEED, batch_size=batch_size)
    wanted = [(_subject(make_sae(), RESID), ("sae", "eps_random"))]
    return engine.measure(wanted, progress=lambda _: None, keep={"sae": KEPT})["sae"]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_values_kept_token_by_token_add_up_to_the_sums(batch_size):
    found = _kept(batch_size)
    assert set(found.per_token.values) == set(KEPT)
    for channel, values in found.per_token.values.items():
        # fp32 values, added in float64.
        np.testing.assert_allclose(values.sum(axis=1), found.table()[channel], rtol=1e-6)
        assert not values[~found.per_token.counted].any()


def test_values_kept_are_those_of_full_passes_in_float64():
    brute, found = _brute_force(RESID), _kept().per_token
    x, x_hat = brute.x.numpy(), brute.x_hat.detach().numpy()
    cosine = (x * x_hat).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(x_hat, axis=1)
    np.testing.assert_allclose(found.values["cosine"][found.counted], cosine, rtol=1e-5)
    active = np.count_nonzero(brute.features.detach().numpy(), axis=1)
    assert found.values["l0"][found.counted].tolist() == active.tolist()
    assert np.array_equal(found.ids, _tokens().ids.numpy())


def test_nothing_is_kept_token_by_token_that_was_not_asked_for():
    assert _measured(RESID).per_token is None


def test_a_batch_whose_tokens_do_not_count_leaves_nothing():
    tokens = _tokens()
    counted = tokens.counted.clone()
    counted[:4] = False
    subject = _subject(make_sae(), RESID)
    found = _measure(RESID, subject, tokens=replace(tokens, counted=counted), names=("sae",))["sae"]
    every = _measured(RESID).sums.by_sequence["sae.kl"]
    np.testing.assert_allclose(found.sums.by_sequence["sae.kl"][4:], every[4:], rtol=1e-5)
    assert not found.sums.by_sequence["sae.kl"][:4].any()


def test_where_no_token_counts_there_is_nothing_to_measure():
    tokens = replace(_tokens(), counted=torch.zeros(N, T, dtype=torch.bool))
    found = _measure(RESID, _subject(make_sae(), RESID), tokens=tokens, names=("sae",))["sae"]
    assert isinstance(found, MeasurementError)
