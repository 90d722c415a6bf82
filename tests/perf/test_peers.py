"""The peers as we call them: the plain pass by hand, and a process that does not start."""

import sys
from pathlib import Path

import pytest
import torch

from perf.peers.full_passes import HuggingFacePasses
from perf.peers.lens import TokenStore
from perf.peers.plain import NOISY, RULES, plain_runner
from perf.peers.sae_bench import PeerUnavailable, installed, sae_bench_runner
from perf.settings import SIZES
from perf.workload import activations_at, make_model, make_sae, random_ids
from saebench.measures.names import INTERVENTIONS

SIZE = SIZES["smoke"]


@pytest.fixture(scope="module")
def world():
    model = make_model(SIZE, seed=0)
    ids = random_ids(SIZE, SIZE.sequences, SIZE.context, seed=0)
    x = activations_at(model, ids, SIZE.hook_layer)
    return model, ids, x, make_sae(SIZE, x, hook=SIZE.hook, seed=0)


def test_the_sae_fires_as_many_features_as_it_should(world):
    _, _, x, sae = world
    active = (sae.encode(x) != 0).sum(dim=-1).float().mean()
    assert active == pytest.approx(SIZE.active, rel=0.01)


def test_no_other_token_than_the_first_is_special(world):
    _, ids, _, _ = world
    assert (ids[:, 0] == SIZE.vocab - 1).all()
    assert (ids[:, 1:] < SIZE.vocab - 1).all()


def test_the_plain_way_makes_all_interventions_and_knows_which_are_noise():
    assert set(RULES) == set(INTERVENTIONS)
    assert len(NOISY) == 7


@torch.inference_mode()
def test_the_plain_kl_is_that_of_a_model_run_by_hand(world):
    """Zero at the second block's input: by hand, block by block, in float64, token by token."""
    model, ids, _, sae = world
    passes = HuggingFacePasses(model, SIZE.hook_layer)
    run = plain_runner(passes, ids, sae, ["zero"], batch=SIZE.batch)
    states = model.transformer(ids, output_hidden_states=True).hidden_states
    hidden = states[SIZE.hook_layer].clone()
    hidden[:, 1:] = 0
    for block in model.transformer.h[SIZE.hook_layer :]:
        hidden = block(hidden)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    log_q = model.lm_head(model.transformer.ln_f(hidden)).double().log_softmax(dim=-1)
    log_p = model.lm_head(states[-1]).double().log_softmax(dim=-1)
    kl = sum(
        float((p.exp() * (p - q)).sum())
        for p, q in zip(log_p[:, 1:].flatten(0, 1), log_q[:, 1:].flatten(0, 1), strict=True)
    )
    assert run().pooled["kl.zero"] == pytest.approx(kl / ids[:, 1:].numel(), rel=1e-5)


def test_the_store_hands_out_the_tokens_again_after_a_reset(world):
    _, ids, _, _ = world
    store = TokenStore(ids, batch=3)
    first = store.get_batch_tokens(3)
    store.reset_input_dataset()
    assert torch.equal(store.get_batch_tokens(3), first)
    with pytest.raises(ValueError, match="batches of 3"):
        store.get_batch_tokens(2)


def test_an_environment_that_pip_cannot_fill_says_why_and_is_not_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("perf.peers.sae_bench.NEEDED", ("./no_such-1.0-py3-none-any.whl",))
    with pytest.raises(PeerUnavailable, match="no_such"):
        installed(tmp_path / "venv")
    assert not (tmp_path / "venv" / "installed").exists()


def test_an_environment_is_used_again_until_what_is_wanted_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ran: list[list[str]] = []

    def run(command: list[str]) -> None:
        ran.append(command)
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / "python").touch()

    monkeypatch.setattr("perf.peers.sae_bench._run", run)
    assert installed(tmp_path) == installed(tmp_path) == tmp_path / "bin" / "python"
    assert len(ran) == 3
    monkeypatch.setattr("perf.peers.sae_bench.PEER", "sae-bench==9")
    installed(tmp_path)
    assert len(ran) == 6


def test_a_peer_whose_process_ends_says_why(tmp_path: Path):
    """Nothing lies in the directory, so that it ends whether sae_bench is installed here or not."""
    runner = sae_bench_runner(tmp_path, threads=1, batch=1, python=Path(sys.executable))
    with pytest.raises(PeerUnavailable, match=r"sae_bench|ids\.pt"), runner:
        pass
