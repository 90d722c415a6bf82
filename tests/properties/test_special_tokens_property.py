"""What the property says of made-up sums: ratios, notes, and when it warns."""

from typing import Any

import numpy as np
import pytest
import torch

from saebench.experiments.everywhere import EverywhereMeasurement
from saebench.measures.sums import TokenSums
from saebench.properties import find_property

N, T = 8, 6


def _measurement(usual: float, everywhere: float) -> EverywhereMeasurement:
    sums, rng = TokenSums(N, T), np.random.default_rng(0)
    mask = torch.ones(N, T, dtype=torch.bool)
    mask[:, 0] = False
    rest = mask.clone()
    rest[0, 1] = False
    noise = torch.from_numpy(rng.gamma(4, 0.25, (N, T)))
    rows = slice(0, N)
    sums.count("n.scored", mask, rows=rows)
    sums.count("n.rest", rest, rows=rows)
    sums.count("n.sinks", mask & ~rest, rows=rows)
    sums.add("usual.kl", usual * noise, mask=mask, rows=rows)
    sums.add("everywhere.kl", everywhere * noise, mask=mask, rows=rows)
    for prefix, which in (("", mask), ("rest.", rest)):
        sums.add(f"{prefix}squared_error", noise, mask=which, rows=rows)
        sums.add(f"{prefix}squared_deviation", 4 * noise, mask=which, rows=rows)
    return EverywhereMeasurement(sums, "resumed")


def _found(usual: float, everywhere: float) -> Any:
    return find_property("special_tokens").findings(_measurement(usual, everywhere), {})


def test_the_ratio_is_that_of_the_two_kls_and_ten_times_is_said_in_words():
    findings = _found(0.05, 1.0)
    metrics = {m.name: m for m in findings.metrics}
    assert metrics["special_tokens.kl_ratio"].value == pytest.approx(20)
    (said,) = findings.series["sentences"]
    assert "must not be substituted at position 0 and special tokens" in said
    assert "20 times as much" in said
    assert "many users' code substitutes everywhere" in said


def test_nine_times_is_no_warning():
    assert "sentences" not in _found(0.05, 0.45).series


def test_below_the_floor_the_ratio_is_undefined_and_a_large_kl_is_said_all_the_same():
    findings = _found(1e-6, 2.0)
    (ratio,) = [m for m in findings.metrics if m.name == "special_tokens.kl_ratio"]
    assert ratio.value is None
    assert "below 0.0001" in ratio.note
    (said,) = findings.series["sentences"]
    assert "times as much" not in said
    assert "sentences" not in _found(1e-6, 5e-4).series


def test_the_warning_is_seen_in_the_terminal_and_on_the_page():
    from dataclasses import replace

    from runs import make_case, make_run

    from saebench.records.verdict import Verdict
    from saebench.report.terminal import remarks

    (said,) = _found(0.05, 1.0).series["sentences"]
    case = make_case("s", "special_tokens", Verdict.NEW, gated=False)
    run = make_run(replace(case, series={"sentences": [said]}), saes=("s",))
    assert any(said in line for line in remarks(run))
