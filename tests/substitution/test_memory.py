"""Batches are made to fit, and halved where they do not; the numbers stay the same."""

from typing import Any

import pytest
import torch
from families import assert_same_sums, make_host, make_subject, make_tokens

from saebench.errors import SubjectError
from saebench.measures.names import INTERVENTIONS
from saebench.substitution import batches as memory
from saebench.substitution.engine import Engine
from saebench.substitution.measurement import Measurement

N, T = 7, 12
HOOK = "blocks.1.hook_resid_pre"


class _Halving(torch.nn.Module):
    """An SAE that gives half back, misplaced, and has no memory for more than so many tokens."""

    def __init__(self, *, most: int = 10**9, error: Exception | None = None) -> None:
        super().__init__()
        self.most = most
        self.error = error or torch.OutOfMemoryError("CUDA out of memory")
        self.seen: list[int] = []

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        if len(x) > self.most:
            raise self.error
        return x

    def decode(self, features: torch.Tensor) -> torch.Tensor:
        return 0.5 * features.roll(1, dims=-1)


def _engine(**options: Any) -> Engine:
    host = make_host("llama")
    ids = torch.randint(2, host.config.vocab_size, (N, T), generator=torch.manual_seed(0))
    counted = (torch.arange(T) > 0).expand(N, T)
    return Engine(host, make_tokens(ids, counted), seed=3, **options)


def _measure(sae: _Halving, *, names: tuple[str, ...] = ("sae", "eps_random"), **options: Any):
    subject = make_subject(sae, HOOK, context=T)
    heard: list[int] = []
    found = _engine(**options).measure([(subject, names)], progress=heard.append)["sae"]
    assert isinstance(found, Measurement)
    return found, heard


def test_a_batch_that_runs_out_of_memory_is_halved_and_gives_the_same_sums():
    expected, _ = _measure(_Halving())
    sae = _Halving(most=3 * (T - 1))
    found, heard = _measure(sae)
    assert max(sae.seen) > sae.most
    assert sum(heard) == N * T
    assert_same_sums(found, expected, rtol=1e-5, atol=1e-9)


def test_once_halved_the_run_does_not_try_the_larger_batch_again():
    sae = _Halving(most=2 * (T - 1))
    _measure(sae, batch_size=4)
    # The bank of corpus statistics, of all 77 tokens, is reconstructed in parts before.
    assert sae.seen.count(4 * (T - 1)) == 1


def test_a_single_sequence_that_does_not_fit_is_the_users_to_know():
    with pytest.raises(torch.OutOfMemoryError):
        _measure(_Halving(most=1))


def test_an_error_that_is_not_of_memory_is_not_swallowed():
    with pytest.raises(SubjectError, match="shapes do not match"):
        _measure(_Halving(most=1, error=RuntimeError("shapes do not match")))


def test_little_free_memory_makes_batches_small_and_changes_nothing(monkeypatch):
    expected, _ = _measure(_Halving(), names=INTERVENTIONS)
    monkeypatch.setattr(memory, "_usable_bytes", lambda _: 4096)
    found, heard = _measure(_Halving(), names=INTERVENTIONS)
    assert len(heard) == N
    assert_same_sums(found, expected, rtol=1e-5, atol=1e-9)


def test_the_chosen_batch_never_exceeds_what_a_pass_takes():
    host = make_host("llama")
    at_once = memory.sequences_at_once(host, context=T, vectors=1)
    assert 1 <= at_once * T <= memory.TOKENS_A_PASS["cpu"]
