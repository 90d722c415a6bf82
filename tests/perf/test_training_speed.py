"""The cost of a training step at a real model's places: on the tiny world it runs and adds up."""

import json

import torch

from perf.training import main


def test_each_place_is_measured_against_its_plain_passes(tiny, tmp_path, capsys):
    out = tmp_path / "found.json"
    hooks = ["blocks.0.hook_resid_mid", "blocks.1.hook_resid_pre"]
    assert main(
        ["--model", tiny.model, "--dataset", tiny.texts, "--hook", *hooks, "--context", "12",
         "--rows", "2", "--repeats", "1", "--threads", str(torch.get_num_threads()), "-o", str(out)]
    ) == 0  # fmt: skip
    found = json.loads(out.read_text())
    assert [each["hook"] for each in found] == hooks
    assert all(
        each["step"] > 0 and each["plain"] > 0 and 0 < each["tokens"] <= 22 for each in found
    )
    assert "A step may take 1.3 times the plain passes" in capsys.readouterr().out
