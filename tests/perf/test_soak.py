"""The soak run, in short: ``make soak`` is the long one."""

from dataclasses import replace

import pytest

from perf.soak import Lap, Work, all_work, grown, laps


def test_four_runs_in_a_row_give_the_same_numbers_and_leave_no_more_memory(tiny):
    work = [Work(sae, tiny.model, tiny.texts) for sae in (tiny.good, tiny.bad)]
    # Two to warm up: what is imported, compiled and cached once is there then.
    done = list(laps(work, runs=6, sequences=4, properties=["fidelity", "kl_gap", "shrinkage"]))
    assert all(lap.same for lap in done)
    assert done[-1].memory_bytes <= 1.05 * done[1].memory_bytes


def test_growth_is_seen():
    flat = [Lap(i, "x", 1000, 0.1, True) for i in range(10)]
    rising = [replace(lap, memory_bytes=1000 + 30 * lap.number) for lap in flat]
    assert grown(flat, warm=2) == 0
    assert grown(rising, warm=2) == pytest.approx(0.11, abs=0.02)


def test_the_zoo_and_the_real_saes_are_mixed(real_data):
    names = [work.sae for work in all_work()]
    assert names[0].startswith("demo:")
    assert "stories260K" in names[1]
    assert len(set(names)) == len(names)
