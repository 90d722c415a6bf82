"""A training that is killed, and the same command run again."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from saebench.cli import main

CODE = "import sys; from saebench.cli import main; sys.exit(main())"


def _command(options, out, *more):
    return [sys.executable, "-W", "ignore", "-c", CODE, *options, "-o", str(out), *more]


def _killed(command, checkpoint):
    """Kill a training once it has written a checkpoint and begun to go on."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_a_killed_training_that_is_resumed_ends_with_the_bits_of_one_that_was_not(tiny, tmp_path):
    options = (
        "train", "--model", tiny.model, "--dataset", tiny.texts, "--objective", "non-intrusive",
        "--hook", "blocks.1.hook_resid_pre", "--context", "12", "--batch-rows", "2", "--tokens",
        "8000", "--sparsity", "topk:4", "--init", "random",
    )  # fmt: skip
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    assert main([*options, "-o", str(uninterrupted)]) == 0
    checkpoint = tmp_path / "killed.checkpoint"
    _killed(_command(options, killed), checkpoint)
    assert not killed.exists()
    assert main([*options, "-o", str(killed), "--resume"]) == 0
    for file in ("sae_weights.safetensors", "host_patch.safetensors"):
        one, two = load_file(uninterrupted / file), load_file(killed / file)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert not checkpoint.exists()


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_ends_with_the_bits_of_one_that_was_not(tmp_path):
    options = (
        "train-sweep", "--hook", "blocks.1.hook_resid_pre", "--sparsity", "topk:8", "--objectives",
        "standard", "frozen", "--tokens", "40000", "--context", "64", "--sequences", "16",
    )  # fmt: skip
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    subprocess.run(_command(options, uninterrupted), check=True, capture_output=True)
    place = "tokens/blocks.1.hook_resid_pre/topk-8/frozen"
    _killed(_command(options, killed), killed / f"{place}.checkpoint")
    assert not (killed / place).exists()
    subprocess.run(_command(options, killed), check=True, capture_output=True)
    file = Path(place) / "sae_weights.safetensors"
    one, two = (load_file(out / file) for out in (uninterrupted, killed))
    assert all(torch.equal(one[name], two[name]) for name in one)
