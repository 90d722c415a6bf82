"""Sums that join: nothing depends on how the tokens were cut into batches and shards."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from saebench.measures.sums import TokenSums

CONTEXT = 7


def _data(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n, CONTEXT, generator=generator, dtype=torch.float64)
    return values, torch.rand(n, CONTEXT, generator=generator) < 0.7


def _add(sums: TokenSums, values: Tensor, mask: Tensor, rows: slice) -> None:
    sums.add("v", values[rows], mask=mask[rows], rows=rows)
    sums.count("n", mask[rows], rows=rows)
    sums.tally("v", values[rows][mask[rows]].abs())


def _whole(n: int) -> tuple[TokenSums, Tensor, Tensor]:
    values, mask = _data(n)
    sums = TokenSums(n, CONTEXT)
    _add(sums, values, mask, slice(0, n))
    return sums, values, mask


def _assert_equal(a: TokenSums, b: TokenSums) -> None:
    # The order of float64 additions is all that may differ.
    for name in ("v", "n"):
        np.testing.assert_allclose(a.by_sequence[name], b.by_sequence[name], rtol=1e-12)
        np.testing.assert_allclose(a.by_position[name], b.by_position[name], rtol=0, atol=1e-12)
    assert np.array_equal(a.histograms["v"].counts, b.histograms["v"].counts)


def test_sums_are_those_of_a_loop_over_tokens():
    sums, values, mask = _whole(4)
    for s in range(4):
        expected = sum(float(values[s, t]) for t in range(CONTEXT) if mask[s, t])
        assert abs(sums.by_sequence["v"][s] - expected) < 1e-12  # order of additions
    for t in range(CONTEXT):
        expected = sum(float(values[s, t]) for s in range(4) if mask[s, t])
        assert abs(sums.by_position["v"][t] - expected) < 1e-12
    assert sums.total("n") == int(mask.sum())


@given(n=st.integers(1, 12), cuts=st.sets(st.integers(1, 11)), order=st.randoms())
def test_batches_may_be_cut_and_ordered_in_any_way(n, cuts, order):
    whole, values, mask = _whole(n)
    edges = [0, *sorted(c for c in cuts if c < n), n]
    batches = [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]
    order.shuffle(batches)
    sums = TokenSums(n, CONTEXT)
    for rows in batches:
        _add(sums, values, mask, rows)
    _assert_equal(sums, whole)


def _parts(n: int, cuts: set[int], *, keep: tuple[str, ...] = ()) -> list[TokenSums]:
    values, mask = _data(n)
    edges = [0, *sorted(c for c in cuts if c < n), n]
    parts = []
    for start, stop in pairwise(edges):
        rows = slice(start, stop)
        part = TokenSums(stop - start, CONTEXT, keep=keep, first=start)
        _add(part, values[rows], mask[rows], slice(0, stop - start))
        parts.append(part)
    return parts


@given(n=st.integers(1, 12), cuts=st.sets(st.integers(1, 11)))
def test_consecutive_parts_join_to_the_whole(n, cuts):
    whole, _, _ = _whole(n)
    joined = TokenSums.joined(_parts(n, cuts))
    assert joined.sequences == n
    assert np.array_equal(joined.by_sequence["v"], whole.by_sequence["v"])
    _assert_equal(joined, whole)


@given(n=st.integers(2, 12), cuts=st.sets(st.integers(1, 11), min_size=1))
def test_parts_joined_in_groups_are_the_whole_too(n, cuts):
    whole, _, _ = _whole(n)
    first, *rest = _parts(n, cuts)
    joined = TokenSums.joined([first, TokenSums.joined(rest)]) if rest else first
    _assert_equal(joined, whole)


def test_joining_copies_and_a_channel_that_a_part_lacks_is_zero_there():
    empty, (other,) = TokenSums(2, CONTEXT), _parts(3, set())
    before = other.by_sequence["v"].copy()
    joined = TokenSums.joined([empty, other])
    joined.by_sequence["v"] += 1
    assert np.array_equal(other.by_sequence["v"], before)
    assert joined.by_sequence["v"].tolist() == [1.0, 1.0, *(before + 1)]


def test_masked_values_do_not_count_even_when_they_are_nan():
    sums = TokenSums(1, 2)
    values = torch.tensor([[1.0, float("nan")]])
    sums.add("v", values, mask=torch.tensor([[True, False]]), rows=slice(0, 1))
    assert sums.total("v") == 1.0


def test_a_curve_is_the_mean_at_each_position_and_none_where_nothing_counted():
    sums = TokenSums(2, 3)
    mask = torch.tensor([[False, True, True], [False, True, False]])
    values = torch.tensor([[9.0, 1.0, 5.0], [9.0, 2.0, 9.0]])
    sums.add("v", values, mask=mask, rows=slice(0, 2))
    sums.count("n", mask, rows=slice(0, 2))
    assert sums.curve("v", per="n") == [None, 1.5, 5.0]


def test_fp32_values_are_summed_in_float64():
    sums = TokenSums(1, 3)
    values = torch.tensor([[1e8, 1.0, 1.0]], dtype=torch.float32)
    sums.add("v", values, mask=torch.ones(1, 3, dtype=torch.bool), rows=slice(0, 1))
    assert sums.total("v") == 100_000_002.0  # in fp32: 1e8


@given(n=st.integers(1, 9), size=st.integers(1, 4), limit=st.integers(1, 70))
def test_values_kept_token_by_token_are_those_of_the_first_sequences(n, size, limit):
    values, mask = _data(n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("saebench.measures.sums.KEPT_TOKENS", limit)
        sums = TokenSums(n, CONTEXT, keep=("v",))
        for start in range(0, n, size):
            _add(sums, values, mask, slice(start, min(start + size, n)))
    kept = min(n, max(1, limit // CONTEXT))
    expected = np.where(mask, values, 0)[:kept].astype(np.float32)
    assert np.array_equal(sums.by_token["v"], expected)
    assert set(sums.by_token) == {"v"}


@given(n=st.integers(1, 9), cuts=st.sets(st.integers(1, 8)), limit=st.integers(1, 70))
def test_kept_values_of_parts_join_to_those_of_the_first_sequences(n, cuts, limit):
    values, mask = _data(n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("saebench.measures.sums.KEPT_TOKENS", limit)
        joined = TokenSums.joined(_parts(n, cuts, keep=("v",)))
    kept = min(n, max(1, limit // CONTEXT))
    expected = np.where(mask, values, 0)[:kept].astype(np.float32)
    assert np.array_equal(joined.by_token["v"], expected)
