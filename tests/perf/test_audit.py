"""The audit of the gate: which metrics, which order, what the table says."""

from types import SimpleNamespace

import numpy as np
import pytest

from perf.audit import Audited, Deciding, deciding_metrics, in_order, main, markdown
from saebench.compare.differences import SideCase
from saebench.properties import find_property, metric_names

KL = Deciding("fidelity.kl", "fidelity", {})


def _checkpoint(kl: float) -> SimpleNamespace:
    rng = np.random.default_rng(0)
    table = {"sae.kl": kl * rng.gamma(50, 1 / 50, 40), "n.scored": np.ones(40)}
    spec = next(s for s in find_property("fidelity").metrics if s.name == KL.metric)
    metric = SimpleNamespace(value=float(table["sae.kl"].mean()), ci=None, version=spec.version)
    return SimpleNamespace(cases={"fidelity": SideCase(None, {KL.metric: metric}, table)})


@pytest.mark.parametrize(
    ("values", "expected"),
    [([4.0, 3.0, 2.0, 1.0], (6, 6)), ([4.0, 3.0, 2.0, 5.0], (6, 3)), ([1.0, 1.0], (0, 0))],
)
def test_pairs_told_apart_are_in_order_where_the_later_one_is_better(values, expected):
    sides = {str(i): _checkpoint(kl) for i, kl in enumerate(values)}
    assert in_order(sides, KL) == expected


def test_it_is_about_the_metrics_that_decide():
    found = {each.metric: each for each in deciding_metrics()}
    assert {"advantage.kl_ratio", "fidelity.context_recovered", "sparsity.l0"} <= set(found)
    assert set(found) <= metric_names()
    assert "sparsity.duplicate_mass" not in found  # reported
    assert found["advantage.kl_ratio"].kind == "advantage[k=matched]"


@pytest.mark.parametrize(
    ("seeds", "decided", "ordered", "holds"),
    [(0.01, 10, 1.0, True), (0.03, 10, 1.0, False), (0.01, 10, 0.9, False), (0.0, 0, 0.0, True)],
)
def test_a_metric_holds_that_noise_hardly_moves_and_that_follows_training(
    seeds, decided, ordered, holds
):
    found = Audited("fidelity.kl", seeds, 0.1, 1.0, decided, ordered)
    assert found.holds is holds
    assert f"| {'yes' if holds else 'no'} |\n" in markdown([found])


@pytest.mark.slow
def test_it_trains_measures_and_writes_its_table(tmp_path, capsys):
    assert main(["--smoke", "-o", str(tmp_path / "audit.md")]) == 0
    text = (tmp_path / "audit.md").read_text(encoding="utf-8")
    assert all(f"| {each.metric} |" in text for each in deciding_metrics())
    assert "the gate audited" in capsys.readouterr().out
