"""Before and after, in pairs: rows against plain numpy, and against saebench.judge."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from saebench.fit.repair.before_after import (
    GAP,
    PERPLEXITY,
    ROWS,
    compared,
    dead_features,
    gate_changes,
)
from saebench.records.case_result import CaseResult, GateResult
from saebench.records.metric import CLUSTER, Direction, Metric, SampleSize
from saebench.records.verdict import Verdict

N = 64
NAMES = {spec.name: spec for spec in ROWS}


def table(*, shift=0.0, seed=0):
    """Per-sequence sums whose differences between two tables are small against their spread."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(50, 100, N).astype(float)
    hard = rng.gamma(2.0, 0.5, N)
    noise = np.random.default_rng(int(1000 * abs(shift)) + 5).normal(0, 0.01, N)
    return {
        "n.targets": targets,
        "n.scored": targets + 1,
        "clean.ce": 1.5 * hard * targets,
        "sae.ce": (1.6 * hard + shift + noise) * targets,
        "l0": 6 * targets,
        "squared_error": (2 + hard + shift) * targets,
    }


def total(values, channel):
    return values[channel].sum()


def test_perplexity_is_exp_of_the_pooled_cross_entropy():
    before, after = table(), table(shift=-0.05)
    row = compared(PERPLEXITY, before, after)
    one, two = (np.exp(total(t, "sae.ce") / total(t, "n.targets")) for t in (before, after))
    assert (row.before.value, row.after.value) == pytest.approx((one, two))
    assert row.change.value == pytest.approx(two - one)
    assert row.share.value == pytest.approx(two / one - 1)


def test_the_gap_is_to_the_clean_models_perplexity_and_its_share_what_is_recovered():
    before, after = table(), table(shift=-0.05)
    row = compared(GAP, before, after)
    clean = np.exp(total(before, "clean.ce") / total(before, "n.targets"))
    one, two = (np.exp(total(t, "sae.ce") / total(t, "n.targets")) - clean for t in (before, after))
    assert (row.before.value, row.after.value) == pytest.approx((one, two))
    assert row.share.value == pytest.approx((two - one) / one)


def test_the_change_is_paired_and_so_narrower_than_its_sides():
    row = compared(PERPLEXITY, table(), table(shift=-0.05))
    assert row.change.high < 0
    own = row.before.high - row.before.low
    assert row.change.high - row.change.low < own / 5
    assert row.before.low < row.before.value < row.before.high


def test_what_did_not_change_changed_by_nothing():
    row = compared(NAMES["sparsity.l0"], table(), table())
    assert (row.change.value, row.change.low, row.change.high) == (0, 0, 0)
    assert row.share.value == 0


def test_a_gap_of_nothing_has_no_share():
    same = table()
    same["sae.ce"] = same["clean.ce"]
    row = compared(GAP, same, same)
    assert row.share.value is None
    assert row.change.value == 0


def test_one_sequence_has_values_and_no_interval():
    row = compared(PERPLEXITY, *({c: v[:1] for c, v in t.items()} for t in (table(), table())))
    assert row.before.value is not None
    assert (row.before.low, row.change.low) == (None, None)


def _case(sae, **verdicts):
    gates = tuple(
        GateResult(rule, rule, 1.0, None, "", None, verdict, "")
        for rule, verdict in verdicts.items()
    )
    return CaseResult(f"p@{sae}", sae, "p", {}, Verdict.PASS, "", 0.0, "", gates=gates)


def test_gates_that_were_decided_for_both_are_listed():
    cases = [
        _case("before", a=Verdict.FAIL, b=Verdict.PASS, c=Verdict.PASS),
        _case("after", a=Verdict.PASS, b=Verdict.PASS),
    ]
    changes = [(g.rule, g.before, g.after) for g in gate_changes(cases)]
    assert changes == [("a", "FAIL", "PASS"), ("b", "PASS", "PASS")]


def test_dead_features_are_counted_out_of_all():
    share = {"before": 0.25, "after": None}
    cases = [
        replace(_case(sae), property="sparsity", metrics=(_dead_share(value),))
        for sae, value in share.items()
    ]
    row = dead_features(SimpleNamespace(cases=cases), {"before": 48, "after": 48})
    assert (row.before.value, row.after.value, row.change.value) == (12, 0, -12)
    assert row.share.value == -1


def _dead_share(value):
    size = SampleSize(8, 80)
    return Metric("sparsity.dead", 1, value, "share", Direction.LOWER, size)


def test_the_two_are_judged_as_the_gate_judges_them(tiny, tmp_path):
    import saebench
    from saebench.cli import main
    from saebench.store.json_files import read_repair

    out, judged = tmp_path / "out", _judged_apart(tiny, tmp_path)
    command = ["repair", tiny.bad, "--method", "decoder", "--sae-model", tiny.model, "--tokens"]
    command += ["2000", "--batch-tokens", "64", "--learning-rate", "0.01", "-o", str(out)]
    assert main([*command, "--sae-dataset", judged[0], "--judge-dataset", judged[1]]) == 0
    record = read_repair(out / "repair.json")
    for side, sae in (("before", tiny.bad), ("after", str(out))):
        run = saebench.judge(sae, tiny.model, judged[1], properties=["fidelity", "kl_gap",
                             "shrinkage", "sparsity"], interventions=("eps_random",))  # fmt: skip
        values = {m.name: m.value for case in run.cases for m in case.metrics}
        for name in set(NAMES) & set(values):
            assert getattr(record.row(name), side).value == pytest.approx(values[name], rel=1e-4)
        dead = record.row("dead_features")
        assert getattr(dead, side).value == round(values["sparsity.dead"] * record.before.d_sae)
        assert {n for n in NAMES if n not in values} == {"perplexity", "perplexity_gap"}


def _judged_apart(tiny, tmp_path):
    from pathlib import Path

    lines = Path(tiny.texts).read_text().splitlines(keepends=True)
    paths = [tmp_path / name for name in ("train.jsonl", "heldout.jsonl")]
    paths[0].write_text("".join(lines[:28]))
    paths[1].write_text("".join(lines[28:]))
    return [str(path) for path in paths]


def test_texts_that_are_judged_on_several_times_make_no_change_surer():
    before, after = table(), table(shift=-0.05)
    repeat = {CLUSTER: np.tile(np.arange(N, dtype=float), 3)}
    often = [{c: np.tile(v, 3) for c, v in t.items()} | repeat for t in (before, after)]
    once, again = (
        compared(NAMES["fidelity.mse"], before, after),
        compared(NAMES["fidelity.mse"], *often),
    )
    for kind in ("before", "after", "change", "share"):
        ends = [(getattr(row, kind).low, getattr(row, kind).high) for row in (once, again)]
        assert ends[1] == pytest.approx(ends[0], rel=1e-6)
