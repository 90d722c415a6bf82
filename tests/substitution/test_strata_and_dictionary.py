"""Strata and dictionary health against loops; batches and shards change nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from families import WIDTH, host_of, make_sae, make_subject, make_tokens, random_ids
from hypothesis import given, settings
from hypothesis import strategies as st

from saebench.data.near_copies import clusters_of
from saebench.data.tokens import TokenSet
from saebench.experiments.codec import decode, encode
from saebench.measures.names import DENSE, DICTIONARY, STRATA, in_stratum
from saebench.substitution.engine import Engine
from saebench.substitution.feature_use import ALONG, DUPLICATED, ONE_SEQUENCE, OUTPUT
from saebench.substitution.measurement import Measurement
from saebench.substitution.token_strata import TYPES, deciles, type_of

N, T, SITE = 14, 16, "blocks.1.hook_resid_pre"
KEEP = (STRATA, DICTIONARY, "sae.kl")


def _tokens() -> TokenSet:
    ids = random_ids(N, T) % 12 + 3
    ids[9] = ids[2]
    return replace(make_tokens(ids), clusters=clusters_of(ids.numpy()))


def _sae():
    """Features of which some are copies, and one fires on very little."""
    sae = make_sae(WIDTH, copies=2)
    with torch.no_grad():
        sae.b_enc[20:50] = torch.linspace(-1.0, -12.0, 30)
        half = len(sae.W_dec) // 2
        sae.W_enc[:, half : half + 20] = sae.W_enc[:, :20]
        sae.W_dec[half : half + 20] = sae.W_dec[:20]
    return sae


def _part(rows: slice | None = None, batch_size: int | None = 4) -> Measurement:
    tokens = _tokens()
    engine = Engine(
        host_of("llama"), tokens if rows is None else tokens.part(rows),
        seed=0, batch_size=batch_size, corpus=tokens,
    )  # fmt: skip
    subject = make_subject(_sae(), SITE)
    measured = engine.measure([(subject, ("sae",))], progress=lambda _: None, keep={"sae": KEEP})[
        "sae"
    ]
    assert isinstance(measured, Measurement)
    return measured


@pytest.fixture(scope="module")
def whole() -> Measurement:
    return _part()


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    """Features of every token, from a plain pass of the model."""
    with torch.no_grad():
        out = host_of("llama").model(_tokens().ids, output_hidden_states=True)
        return _sae().encode(out.hidden_states[1]).detach()


def _kl(measurement: Measurement) -> np.ndarray:
    return measurement.per_token.values["sae.kl"].astype(float)


def test_strata_are_sums_of_a_loop_over_tokens(whole):
    tokens, kl = _tokens(), _kl(whole)
    text = whole.per_token.text
    by_id = deciles(np.bincount(tokens.ids[tokens.counted].numpy()))
    expected: dict[str, np.ndarray] = {}
    for s, t in zip(*np.nonzero(tokens.counted.numpy()), strict=True):
        id = int(tokens.ids[s, t])
        places = {"decile": by_id[id], "type": type_of(text(id)), "position": t * 16 // T}
        for group, index in places.items():
            for channel, value in (("sae.kl", kl[s, t]), ("n.scored", 1.0)):
                sums = expected.setdefault(in_stratum(channel, group, index), np.zeros(N))
                sums[s] += value
    table = {name: sums for name, sums in whole.table().items() if "#" in name}
    for name, sums in table.items():
        wanted = expected.get(name, np.zeros(N))
        np.testing.assert_allclose(sums, wanted, rtol=1e-5, atol=1e-9, err_msg=name)
    assert set(expected) <= set(table)


def test_token_ids_that_occur_often_have_sums_of_their_own(whole):
    tokens, kl, of = _tokens(), _kl(whole), whole.by_token
    counted = tokens.counted.numpy()
    assert of.ids
    for id in range(int(tokens.ids.max()) + 1):
        here = counted & (tokens.ids.numpy() == id)
        texts = {int(tokens.clusters[s]) for s in np.flatnonzero(here.any(axis=1))}
        assert (id in of.ids) == (here.sum() >= 20 and len(texts) >= 10)
        if id in of.ids:
            j = of.ids.index(id)
            np.testing.assert_array_equal(of.count.toarray()[:, j], here.sum(axis=1))
            expected = np.where(here, kl, 0).sum(axis=1)
            np.testing.assert_allclose(of.kl.toarray()[:, j], expected, rtol=1e-5, atol=1e-9)


def test_mass_in_one_text_is_that_of_a_loop_over_features(whole, features):
    tokens, norm = _tokens(), _sae().W_dec.detach().norm(dim=1)
    expected, mass = np.zeros(N), np.zeros(len(norm))
    for f in range(len(norm)):
        texts, sums = set(), np.zeros(N)
        for s, t in zip(*np.nonzero(tokens.counted.numpy()), strict=True):
            if features[s, t, f] != 0:
                texts.add(int(tokens.clusters[s]))
                sums[s] += float(features[s, t, f].abs() * norm[f])
        mass[f] = sums.sum()
        if len(texts) == 1:
            expected[min(texts)] += sums.sum()
    assert expected.sum() > 0
    np.testing.assert_allclose(whole.dictionary.mass, mass, rtol=1e-4)
    np.testing.assert_allclose(whole.table()[ONE_SEQUENCE], expected, rtol=1e-4, atol=1e-6)


def test_a_dense_token_has_half_as_many_active_features_as_dimensions(whole, features):
    counted, width = _tokens().counted, _sae().W_dec.shape[1]
    expected = np.zeros(N)
    for s, t in counted.nonzero().tolist():
        expected[s] += 2 * int((features[s, t] != 0).sum()) >= width
    assert expected.sum() > 0
    np.testing.assert_array_equal(whole.table()[DENSE], expected)


def test_the_strongest_direction_and_duplicates_are_those_of_numpy(whole, features):
    tokens, sae, table = _tokens(), _sae(), whole.table()
    size = (features.abs() * sae.W_dec.norm(dim=1)).detach().double().numpy()
    counted = tokens.counted.numpy()
    strongest = size[counted].sum(axis=0).argmax()
    moved = (features @ sae.W_dec).detach().double().numpy()
    row = sae.W_dec[strongest].detach().double().numpy()
    along = np.where(counted, (moved @ row / np.linalg.norm(row)) ** 2, 0)
    energy = np.where(counted, (moved**2).sum(axis=2), 0)
    assert whole.dictionary.strongest == strongest
    np.testing.assert_allclose(table[ALONG], along.sum(axis=1), rtol=1e-3)
    np.testing.assert_allclose(table[OUTPUT], energy.sum(axis=1), rtol=1e-3)
    copies = np.where(counted[..., None], size, 0)[..., whole.dictionary.duplicated]
    assert whole.dictionary.duplicated.any()
    np.testing.assert_allclose(table[DUPLICATED], copies.sum(axis=(1, 2)), rtol=1e-4)


@settings(deadline=None, max_examples=12)
@given(cuts=st.sets(st.integers(1, N - 1), max_size=3), size=st.integers(1, N))
def test_neither_batches_nor_shards_change_strata_and_dictionary(cuts, size):
    edges = [0, *sorted(cuts), N]
    parts = [_part(slice(a, b), size) for a, b in zip(edges, edges[1:], strict=False)]
    sent = [decode(encode(part)) for part in parts]
    merged, whole = Measurement.merged(sent).finished(), _part()
    names = [n for n in whole.table() if "#" in n or n.startswith(("mass.", "output."))]
    assert len(names) == 2 * 32 + 4
    for name in names:
        np.testing.assert_allclose(
            merged.table()[name], whole.table()[name], rtol=1e-4, atol=1e-6, err_msg=name
        )
    for name in ("kl", "count"):
        one, two = (getattr(m.by_token, name).toarray() for m in (merged, whole))
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-7)
    assert merged.by_token.texts == whole.by_token.texts
    for name in ("first", "last", "duplicated"):
        one, two = (getattr(m.dictionary, name) for m in (merged, whole))
        np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(merged.dictionary.mass, whole.dictionary.mass, rtol=1e-4)


def test_without_a_property_that_reads_them_nothing_is_stored():
    engine = Engine(host_of("llama"), _tokens(), seed=0)
    subject = make_subject(_sae(), SITE)
    found = engine.measure([(subject, ("sae",))], progress=lambda _: None)["sae"]
    assert found.dictionary is None
    assert found.by_token is None
    assert not [n for n in found.table() if "#" in n or n.startswith("mass.")]


@given(counts=st.lists(st.integers(0, 50), min_size=1, max_size=60))
def test_deciles_go_from_frequent_to_rare_in_shares_of_a_tenth(counts):
    counts = np.array(counts)
    groups = deciles(counts)
    order = np.argsort(-counts, kind="stable")
    assert (np.diff(groups[order]) >= 0).all()
    total = counts.sum()
    for group in range(9):
        inside = counts[groups <= group].sum()
        # A group ends within half of an id's occurrences of its tenth.
        assert (
            abs(inside - (group + 1) / 10 * total)
            <= counts.max() / 2 + total / 10 * (counts.max() > total / 10) + 1e-9
        )


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (" the", "word start"), ("Once", "word start"), ("ing", "continuation"),
        (" 42", "number"), ("7", "number"), (".", "punctuation"), (' "', "punctuation"),
        ("\n", "whitespace"), (" ", "whitespace"), ("▁", "whitespace"), ("\x00", "other"),
        ("▁the", "word start"), ("Ġthe", "word start"), ("'s", "continuation"),
    ],
)  # fmt: skip
def test_types_of_tokens(text, kind):
    assert TYPES[type_of(text)] == kind
