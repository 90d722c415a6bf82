"""A repair that is killed, and the same command run again."""

import signal
import subprocess
import sys
import time

import pytest

CODE = "import sys; from saebench.cli import main; sys.exit(main())"
OPTIONS = ("repair", "demo:l2-shrunken", "--method", "decoder", "--tokens", "600000")
OPTIONS += ("--sequences", "32", "--tolerance", "0")


def _command(out, *more):
    return [sys.executable, "-W", "ignore", "-c", CODE, *OPTIONS, "-o", str(out), *more]


@pytest.mark.slow
def test_a_killed_repair_that_is_resumed_ends_with_the_bits_of_one_that_was_not(tmp_path):
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    subprocess.run(_command(uninterrupted), check=True, capture_output=True)
    process = subprocess.Popen(_command(killed), stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "killed.checkpoint"
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not killed.exists()
    subprocess.run(_command(killed, "--resume"), check=True, capture_output=True)
    weights = [(out / "sae_weights.safetensors").read_bytes() for out in (uninterrupted, killed)]
    assert weights[0] == weights[1]
    assert not checkpoint.exists()
