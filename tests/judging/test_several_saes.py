"""Cases that need more than one SAE: pairs, peers and controls, from pytest and from Python."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import saebench
from saebench.errors import SubjectError
from saebench.experiments.pairs import PairEngine
from saebench.properties.controls import NEGATIVE
from saebench.records.verdict import Verdict
from saebench.substitution.engine import Engine

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
CROSS = ("propagation", "hard_tokens", "controls")
PAIR = "early→good"


@pytest.fixture(scope="module")
def early(tiny, tmp_path_factory) -> str:
    return tiny.early(tmp_path_factory.mktemp("saes") / "early")


@pytest.fixture(scope="module")
def run(tiny, early):
    """An early SAE, and two at one place behind it."""
    saes = [early, tiny.good, tiny.bad]
    return saebench.judge(saes, tiny.model, tiny.texts, sequences=24, properties=CROSS)


@pytest.fixture
def cross(gate_run):
    """The benchmarks of these properties alone, beside one of single SAEs."""
    for file in (gate_run.pytester.path / "benchmarks").iterdir():
        file.unlink()
    for name in (*CROSS, "shrinkage"):
        # Under another name: tests of the same name are collected here too.
        shutil.copy(
            BENCHMARKS / f"test_{name}.py",
            gate_run.pytester.path / "benchmarks" / f"test_x_{name}.py",
        )
    return gate_run


def _case(run, id):
    return next(case for case in run.cases if case.id == id)


def _values(case):
    return {m.name: m.value for m in case.metrics if m.value is not None}


def test_every_two_saes_at_different_places_have_a_case(run):
    pairs = [case for case in run.cases if case.property == "propagation"]
    assert [case.id for case in pairs] == ["propagation@early→good", "propagation@early→bad"]
    assert [case.params for case in pairs] == [
        {"first": "early", "second": "good"}, {"first": "early", "second": "bad"},
    ]  # fmt: skip
    assert all(case.fingerprint for case in pairs)


def test_a_worse_second_sae_has_other_numbers(run):
    good, bad = (_values(_case(run, f"propagation@early→{sae}")) for sae in ("good", "bad"))
    assert good["propagation.kl_together[sae]"] < bad["propagation.kl_together[sae]"]
    assert good["propagation.norm_change[sae]"] == pytest.approx(
        bad["propagation.norm_change[sae]"]
    )


def test_the_verdict_of_a_pair_is_no_saes_verdict(run):
    text = str(run)
    assert "early → good" in text
    assert "early  INCOMPLETE" in text  # of the other properties nothing was asked
    assert "good  INCOMPLETE" in text


def test_an_sae_alone_is_skipped_with_the_option_that_gives_another(tiny):
    run = saebench.judge(tiny.good, tiny.model, tiny.texts, sequences=4, properties=["propagation"])
    (case,) = run.cases
    assert (case.id, case.verdict) == ("propagation@good", Verdict.SKIPPED)
    assert "good is alone at its place" in case.reason
    assert "--sae SPEC" in case.reason


def test_saes_at_one_place_are_skipped_each(tiny):
    saes = [tiny.good, tiny.bad]
    run = saebench.judge(saes, tiny.model, tiny.texts, sequences=4, properties=["propagation"])
    assert [(c.id, c.verdict) for c in run.cases] == [
        ("propagation@good", Verdict.SKIPPED), ("propagation@bad", Verdict.SKIPPED),
    ]  # fmt: skip


def test_a_pair_on_different_tokens_is_skipped_with_the_option_that_makes_them_one(
    tiny, early, tmp_path
):
    longer = tiny.copy_of(tiny.good, tmp_path / "longer", metadata__context_size=16)
    saes = [early, str(longer)]
    run = saebench.judge(saes, tiny.model, tiny.texts, sequences=4, properties=["propagation"])
    (case,) = run.cases
    assert case.verdict is Verdict.SKIPPED
    assert "early on 12 tokens" in case.reason
    assert "longer on 16 tokens" in case.reason
    assert "--sae-context N" in case.reason
    same = saebench.judge(
        saes, tiny.model, tiny.texts, sequences=4, context=12, properties=["propagation"]
    )
    assert same.cases[0].metrics


def test_hard_tokens_compares_with_the_saes_of_other_places_only(run):
    others = {c.sae: set(c.series["other_layers"]) for c in run.cases if c.property == CROSS[1]}
    assert others == {"early": {"good", "bad"}, "good": {"early"}, "bad": {"early"}}


def test_an_sae_measured_on_other_tokens_is_left_out_and_named(tiny, early, tmp_path):
    longer = tiny.copy_of(tiny.good, tmp_path / "longer", metadata__context_size=16)
    saes = [early, tiny.good, str(longer)]
    run = saebench.judge(saes, tiny.model, tiny.texts, sequences=8, properties=["hard_tokens"])
    series = _case(run, "hard_tokens@early").series
    assert set(series["other_layers"]) == {"good"}
    assert series["left_out"] == {"longer": "measured on other tokens"}


def test_how_the_model_was_run_is_told_of_both_saes_of_a_pair(tiny, early):
    saes = [early, tiny.good]
    run = saebench.judge(saes, tiny.model, tiny.texts, sequences=4, properties=["propagation"])
    assert {sae.id: sae.hook_path for sae in run.saes} == dict.fromkeys(
        ("early", "good"), "resumed"
    )


def test_a_controls_case_has_the_identity_and_every_margin(run):
    values = _values(_case(run, "controls@good"))
    assert values["controls.identity_kl"] <= 1e-6
    assert values["controls.identity_explained_variance"] == pytest.approx(1)
    assert sum(".margin[" in name for name in values) == 16
    assert all(values[f"controls.margin[fidelity:{control}]"] > 0 for control in NEGATIVE)


def test_controls_are_measured_on_an_eighth_of_the_sequences_but_not_on_fewer_than_sixteen(run):
    metrics = _case(run, "controls@good").metrics
    assert {m.n.sequences for m in metrics} == {16}
    assert [d.sequences for d in run.datasets] == [24]


class _Plain(torch.nn.Module):
    """An SAE without a decoder matrix."""

    def encode(self, x):
        return torch.cat([x, -x], dim=-1).relu()

    def decode(self, features):
        return 0.9 * (features[:, :16] - features[:, 16:])


def test_controls_that_an_sae_has_not_are_named(tiny):
    run = saebench.judge(
        {"plain": _Plain()}, tiny.model, tiny.texts, hook="blocks.1.hook_resid_pre",
        context=12, sequences=8, properties=["controls"],
    )  # fmt: skip
    (case,) = run.cases
    assert case.verdict is Verdict.PASS
    sentences = "\n".join(case.series["sentences"])
    assert "random_init could not be measured: _Plain has no decoder matrix" in sentences
    assert {"controls.margin[fidelity:scaled]"} == {n for n in _values(case) if "fidelity:" in n}


def test_objects_are_given_by_name(tiny, early, run):
    from sae_lens import SAE

    saes = {"early": SAE.load_from_disk(early), "good": SAE.load_from_disk(tiny.good)}
    found = saebench.judge(saes, tiny.model, tiny.texts, sequences=24, properties=["propagation"])
    assert _values(found.cases[0]) == pytest.approx(_values(_case(run, f"propagation@{PAIR}")))


@pytest.mark.parametrize("saes", [[_Plain()], [], {}, ["x", _Plain()]], ids=str)
def test_a_list_that_holds_no_specs_is_refused(tiny, saes):
    with pytest.raises(SubjectError, match="dictionary"):
        saebench.judge(saes, tiny.model, tiny.texts)


def test_saes_given_in_any_order_give_the_same_pairs(tiny, early, run):
    found = saebench.judge(
        [tiny.good, early], tiny.model, tiny.texts, sequences=24, properties=["propagation"]
    )
    assert [case.id for case in found.cases] == [f"propagation@{PAIR}"]
    assert found.cases[0].fingerprint == _case(run, f"propagation@{PAIR}").fingerprint


def _judged(cross, tiny, early, *args):
    done = cross.judge("--sae", early, "--sae", tiny.good, "--sae", tiny.bad, *args)
    return done, {case["id"]: case for case in cross.result()["cases"]}


def test_pytest_has_one_test_for_each_pair(cross, tiny, early):
    saes = ("--sae", tiny.good, "--sae", early, "--sae", tiny.bad)
    done = cross.judge(*saes, "--collect-only", "-q", "-k", "propagation")
    found = [line.split("::")[1] for line in done.outlines if "::" in line]
    assert found == ["test_propagation[early->good]", "test_propagation[early->bad]"]


def test_pytest_and_python_give_the_same_numbers(cross, tiny, early, run):
    done, cases = _judged(cross, tiny, early, "-k", "not shrinkage")
    assert done.ret == pytest.ExitCode.OK
    assert set(cases) == {case.id for case in run.cases}
    for case in run.cases:
        found = {m["name"]: m["value"] for m in cases[case.id]["metrics"] if m["value"] is not None}
        assert found == pytest.approx(_values(case), rel=1e-6)
        assert cases[case.id]["fingerprint"] == case.fingerprint


CASES = [
    ("propagation and good", f"propagation@{PAIR}"),
    ("hard_tokens and good", "hard_tokens@good"),
    ("controls and early", "controls@early"),
]


@pytest.mark.parametrize(("chosen", "id"), CASES)
def test_a_case_selected_alone_has_the_values_of_the_whole_suite(
    cross, tiny, early, run, chosen, id
):
    done, cases = _judged(cross, tiny, early, "-k", chosen)
    assert list(cases) == [id]
    whole = _case(run, id)
    found = {m["name"]: m["value"] for m in cases[id]["metrics"] if m["value"] is not None}
    # Fewer SAEs make other stacks, which take other matrix kernels.
    assert found == pytest.approx(_values(whole), rel=1e-5, abs=1e-7)
    assert cases[id]["fingerprint"] == whole.fingerprint


@pytest.mark.parametrize(
    ("chosen", "loaded"),
    [
        ("propagation and good", {"early", "good"}),
        ("hard_tokens and good", {"early", "good"}),
        ("controls and good", {"good"}),
        ("shrinkage and bad", {"bad"}),
    ],
)
def test_a_selected_case_loads_the_saes_that_it_needs_and_no_other(
    cross, tiny, early, chosen, loaded
):
    _judged(cross, tiny, early, "-k", chosen)
    assert {sae["id"] for sae in cross.result()["saes"]} == loaded


def test_a_pair_selected_alone_measures_nothing_but_itself(cross, tiny, early, monkeypatch):
    measured = []
    monkeypatch.setattr(Engine, "measure", lambda *_, **__: pytest.fail("not asked for"))
    real = PairEngine.measure
    monkeypatch.setattr(
        PairEngine,
        "measure",
        lambda self, pairs, **k: measured.append(pairs) or real(self, pairs, **k),
    )
    _judged(cross, tiny, early, "-k", "propagation and good")
    (pairs,) = measured
    assert [(a.id, b.id) for a, b in pairs] == [("early", "good")]


def test_all_pairs_are_measured_in_one_go(cross, tiny, early, monkeypatch):
    calls = []
    real = PairEngine.measure
    monkeypatch.setattr(
        PairEngine, "measure", lambda *a, **k: calls.append(len(a[1])) or real(*a, **k)
    )
    _judged(cross, tiny, early, "-k", "propagation")
    assert calls == [2]


def test_one_sae_is_skipped_in_pytest_with_its_reason(cross, tiny):
    done = cross.judge("--sae", tiny.good, "-k", "propagation")
    done.assert_outcomes(skipped=1, deselected=3)
    done.stdout.fnmatch_lines(["SKIPPED propagation@good: propagation: good is alone*--sae SPEC*"])


def test_what_controls_show_is_told_below_the_tables(cross, tiny, early):
    done, _ = _judged(cross, tiny, early, "-k", "controls")
    done.stdout.fnmatch_lines(["controls: sparsity.l0 cannot tell it from *"])


def test_a_pairs_baseline_lies_with_its_second_sae(cross, tiny, early):
    only = cross.only("propagation")
    _judged(cross, tiny, early, "-k", "propagation", *only, "--sae-update-baselines")
    (file,) = cross.pytester.path.glob("baselines/*/*/good@*.json")
    stored = json.loads(file.read_text())["cases"]
    assert list(stored) == [f"propagation@{PAIR}"]
    assert stored[f"propagation@{PAIR}"]["sums"].endswith(",early")
    assert not list(cross.pytester.path.glob("baselines/*/*/early@*.json"))


def test_a_pairs_stored_sums_give_back_its_values(cross, tiny, early):
    from saebench.properties import find_property
    from saebench.store.baselines import read_baseline

    only = cross.only("propagation")
    _judged(cross, tiny, early, "-k", "propagation", *only, "--sae-update-baselines")
    (file,) = cross.pytester.path.glob("baselines/*/*/good@*.json")
    content = read_baseline(file)
    case = content["cases"][f"propagation@{PAIR}"]
    key = f"{case['sums']}/"
    sums = {n.removeprefix(key): a.sum() for n, a in content["arrays"].items()}
    for spec in find_property("propagation").metrics:
        expected = case["metrics"][spec.name]["value"]
        assert spec.formula(sums) == pytest.approx(expected, rel=1e-12)


def test_a_worker_judges_pairs_as_the_process_itself_does(cross, tiny, early):
    pytest.importorskip("xdist")
    chosen = ("-k", "propagation or hard_tokens")
    done, cases = _judged(cross, tiny, early, *chosen, "-n", "1")
    assert done.ret == 0
    shared = {id: case["fingerprint"] for id, case in cases.items()}
    _, alone = _judged(cross, tiny, early, *chosen)
    assert shared == {id: case["fingerprint"] for id, case in alone.items()}
    assert {s["hook_path"] for s in cross.result()["saes"]} == {"resumed"}


def test_every_measurement_says_where_its_time_went(tiny, early, tmp_path):
    run = saebench.judge(
        [early, tiny.good], tiny.model, tiny.texts, sequences=8, position=4, draw_position=5,
        draws=8, properties=["fidelity", "single_token", "propagation"],
    )  # fmt: skip
    measured = {cost.measured_on for cost in run.cost}
    assert measured == {"sequences", "pairs", "one-token-4+16", "draws-5x8-of-64"}
    assert all(cost.seconds["clean"] > 0 and cost.seconds["readout"] > 0 for cost in run.cost)
