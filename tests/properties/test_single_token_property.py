"""single_token and kl_gap[single]: formulas by loops, options, and what a selection runs."""

import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch

import saebench
from saebench.errors import OptionError
from saebench.experiments.base import SEQUENCES, ManyDraws, OneToken
from saebench.experiments.draws import DrawsMeasurement
from saebench.experiments.one_token import SingleMeasurement
from saebench.measures.sums import TokenSums
from saebench.options import Settings
from saebench.properties import find_property
from saebench.properties.kl_gap import BASELINES, FLOOR
from saebench.records.case_result import CaseResult
from saebench.records.metric import Metric
from saebench.records.verdict import Verdict
from saebench.store.environment import benchmarks_dir

N, WIDTH = 12, 17
NAMES = ("sae", *BASELINES)
NEAR = ("--sae-position", "4", "--sae-draw-position", "5", "--sae-draws", "7")


class _World:
    """Made-up values at each offset of each sequence; metrics are recomputed one by one."""

    def __init__(self, *, width: int = WIDTH, kl_scale: float = 1.0) -> None:
        rng = np.random.default_rng(0)
        self.scored = rng.random((N, width)) < 0.9
        self.scored[:, 0] = True
        self.scored[3] = False  # left out
        self.kl = {
            name: kl_scale * rng.gamma(1, 0.3 + 0.1 * i, (N, width)) for i, name in enumerate(NAMES)
        }

    def measurement(self) -> SingleMeasurement:
        width = self.scored.shape[1]
        sums = TokenSums(N, width, tuple(range(min(2, width) + 1)))
        mask, rows = torch.from_numpy(self.scored), slice(0, N)
        for count in ("n.scored", "n.targets"):
            sums.count(count, mask, rows=rows)
        sums.add("clean.ce", torch.ones(N, width), mask=mask, rows=rows)
        for name, values in self.kl.items():
            for channel in ("kl", "ce", "tv", "agrees", "exceeded"):
                sums.add(f"{name}.{channel}", torch.from_numpy(values), mask=mask, rows=rows)
            sums.tally(f"{name}.kl", torch.from_numpy(values[self.scored]))
        return SingleMeasurement(sums, NAMES, np.zeros(0), "prefix", position=32, cut=0, left_out=1)

    def mean(self, name: str, offset: int) -> float:
        kept = [self.kl[name][s, offset] for s in range(N) if self.scored[s, offset]]
        return sum(kept) / len(kept)


def _found(world: _World, name: str = "single_token", **params: Any) -> dict[str, Metric]:
    findings = find_property(name).findings(world.measurement(), params)
    return {metric.name: metric for metric in findings.metrics}


def test_metrics_of_offsets_are_their_formulas():
    world, metrics = _World(), _found(_World())
    for offset in (0, 1):
        sae = world.mean("sae", offset)
        assert metrics[f"single_token.kl[sae@{offset}]"].value == pytest.approx(sae)
        for b in BASELINES:
            kl = world.mean(b, offset)
            ratio = metrics[f"single_token.ratio[{b}@{offset}]"]
            assert ratio.value == pytest.approx(sae / kl)
            assert ratio.ci.low < ratio.value < ratio.ci.high
            difference = metrics[f"single_token.difference[{b}@{offset}]"]
            assert difference.value == pytest.approx(sae - kl)
    assert len(metrics) == 2 * (len(NAMES) + 2 * len(BASELINES))


def test_sequences_left_out_have_no_say_and_do_not_count():
    metric = _found(_World())["single_token.kl[sae@0]"]
    assert (metric.n.sequences, metric.n.tokens) == (N - 1, N - 1)


def test_below_the_floor_the_ratio_is_undefined_and_the_difference_stands_in():
    metrics = _found(_World(kl_scale=0.1 * FLOOR))
    ratio = metrics["single_token.ratio[eps_random@0]"]
    assert ratio.value is None
    assert "undefined" in ratio.note
    assert ratio.fallback.metric == "single_token.difference[eps_random@0]"
    assert metrics[ratio.fallback.metric].value is not None


def test_at_the_contexts_end_there_is_no_next_token():
    metrics = _found(_World(width=1))
    assert "single_token.ratio[eps_random@0]" in metrics
    assert not any(name.endswith("@1]") for name in metrics)


def test_curves_by_offset_are_means_over_sequences():
    world = _World()
    series = find_property("single_token").findings(world.measurement(), {}).series
    assert series["offsets"] == list(range(WIDTH))
    assert (series["position"], series["sequences_left_out"]) == (32, 1)
    for name in NAMES:
        expected = [world.mean(name, offset) for offset in range(WIDTH)]
        assert series["kl_by_offset"][name] == pytest.approx(expected)


def test_the_gap_of_scope_single_is_pooled_over_the_offsets():
    world, metrics = _World(), _found(_World(), "kl_gap", scope="single")
    kl = {name: world.kl[name][world.scored].mean() for name in NAMES}
    for b in BASELINES:
        assert metrics[f"kl_gap.ratio[{b}]"].value == pytest.approx(kl["sae"] / kl[b])
    series = find_property("kl_gap").findings(world.measurement(), {"scope": "single"}).series
    assert len(series["kl_by_offset"]["sae"]) == WIDTH
    assert set(series) == {"kl_by_offset", "ce_increase_by_offset", "kl_histogram"}


def _draws(sae: np.ndarray, draws: np.ndarray) -> DrawsMeasurement:
    return DrawsMeasurement(48, len(sae) + 1, np.arange(1, len(sae) + 1), sae, draws, "prefix")


def _drawn(sae: np.ndarray, draws: np.ndarray) -> tuple[dict[str, Metric], dict[str, Any]]:
    measurement = _draws(sae, draws)
    findings = find_property("single_token").findings(measurement, {"experiment": "draws"})
    return {metric.name: metric for metric in findings.metrics}, findings.series


def test_metrics_of_draws_are_those_of_a_loop_over_tokens():
    rng = np.random.default_rng(1)
    sae, draws = rng.gamma(2, 0.5, 40), rng.gamma(4, 0.1, (40, 30))
    metrics, series = _drawn(sae, draws)
    z = [(x - d.mean()) / d.std(ddof=1) for x, d in zip(sae, draws, strict=True)]
    assert metrics["single_token.z_median"].value == pytest.approx(np.median(z))
    assert metrics["single_token.z_above_2"].value == pytest.approx(np.mean(np.array(z) > 2))
    below = [(d < x).mean() for x, d in zip(sae, draws, strict=True)]
    assert metrics["single_token.percentile"].value == pytest.approx(np.mean(below))
    assert series["z"] == pytest.approx(z)
    assert series["percentile"] == pytest.approx(below)
    for metric in metrics.values():
        assert metric.ci.low <= metric.value <= metric.ci.high
        assert metric.n.sequences == 40


def test_a_few_tokens_show_all_their_draws():
    rng = np.random.default_rng(1)
    sae, draws = rng.gamma(2, 0.5, 40), rng.gamma(4, 0.1, (40, 30))
    _, series = _drawn(sae, draws)
    assert [sum(h["counts"]) for h in series["histograms"]] == [30] * 6
    z = dict(zip(series["sequence"], series["z"], strict=True))
    shown = [z[h["sequence"]] for h in series["histograms"]]
    assert (shown[0], shown[-1]) == (min(series["z"]), max(series["z"]))


def test_an_sae_without_error_has_no_z_and_no_error():
    metrics, series = _drawn(np.zeros(4), np.zeros((4, 9)))
    assert {m.value for m in metrics.values()} == {None}
    assert all("undefined" in (m.note or "") for m in metrics.values())
    assert series["z"] == [None] * 4
    json.dumps(series, allow_nan=False)


def test_cases_say_what_they_are_measured_on():
    settings = Settings(position=20, draw_position=21, draws=9, profile="smoke")
    single, gap = find_property("single_token"), find_property("kl_gap")
    assert gap.experiment_of({"scope": "all"}, settings) == SEQUENCES
    assert gap.experiment_of({"scope": "single"}, settings) == OneToken(20)
    assert single.experiment_of({}, settings) == OneToken(20)
    assert single.experiment_of({"position": 7}, settings) == OneToken(7)
    found = single.experiment_of({"experiment": "draws"}, settings)
    assert found == ManyDraws(21, 9, 16)


@pytest.mark.parametrize("position", [-1, "3", 2.0, True])
def test_what_is_no_position_is_refused(position):
    with pytest.raises(OptionError, match="whole number from 0 on"):
        find_property("single_token").experiment_of({"position": position}, Settings())


def test_an_unknown_experiment_names_the_nearest():
    with pytest.raises(OptionError, match="'drawz'; did you mean 'draws'"):
        find_property("single_token").interventions({"experiment": "drawz"})


@pytest.mark.parametrize("option", [{"draws": 1}, {"position": -1}, {"draw_position": -2}])
def test_impossible_settings_are_refused(option):
    with pytest.raises(OptionError, match="must be"):
        Settings(**option)


@pytest.fixture
def single_run(gate_run):
    """The benchmarks with single_token among them."""
    shutil.copy(benchmarks_dir() / "test_single_token.py", gate_run.pytester.path / "benchmarks")
    return gate_run


def _cases(gate_run: Any) -> dict[str, dict[str, Any]]:
    return {case["id"]: case for case in gate_run.result()["cases"]}


def test_each_case_alone_has_the_values_of_the_whole_suite(single_run, tiny):
    single_run.judge("--sae", tiny.bad, *NEAR)
    whole = _cases(single_run)
    for words in ("kl_gap and single", "single_token and offsets", "single_token and draws"):
        single_run.judge("--sae", tiny.bad, *NEAR, "-k", words)
        ((name, alone),) = _cases(single_run).items()
        assert alone["metrics"] == whole[name]["metrics"]
        assert alone["series"] == whole[name]["series"]
        assert alone["fingerprint"] == whole[name]["fingerprint"]
        assert alone["metrics"]


@pytest.fixture
def runs(monkeypatch) -> list[str]:
    """What is measured, in order."""
    from saebench.experiments import draws
    from saebench.experiments import one_token as single
    from saebench.substitution import engine

    heard: list[str] = []
    for made in (engine.Engine, single.SingleEngine, draws.DrawsEngine):
        measure = made.measure

        def watched(self: Any, *args: Any, measure: Any = measure, **kwargs: Any) -> Any:
            heard.append(type(self).__name__)
            return measure(self, *args, **kwargs)

        monkeypatch.setattr(made, "measure", watched)
    return heard


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("kl_gap", ["Engine", "SingleEngine"]),
        ("(kl_gap and single) or (single_token and offsets)", ["SingleEngine"]),
        ("single_token", ["SingleEngine", "DrawsEngine"]),
        ("single_token and draws", ["DrawsEngine"]),
        ("fidelity or shrinkage", ["Engine"]),
    ],
)
def test_a_selection_runs_what_it_needs_and_once(single_run, tiny, runs, words, expected):
    single_run.judge("--sae", tiny.good, "--sae", tiny.bad, *NEAR, "-k", words)
    assert runs == expected
    assert all(case["metrics"] for case in _cases(single_run).values())


def test_the_corpus_is_looked_at_once_for_all_cases(single_run, tiny, monkeypatch):
    from saebench.substitution.reference import ReferenceSums

    made: list[object] = []
    compute = ReferenceSums.compute
    monkeypatch.setattr(
        ReferenceSums, "compute", lambda self, device: made.append(1) or compute(self, device)
    )
    single_run.judge("--sae", tiny.good, *NEAR)
    assert len(made) == 1


def test_a_position_beyond_the_context_is_skipped_with_the_option(single_run, tiny):
    done = single_run.judge("--sae", tiny.good, "-k", "single_token or single")
    done.assert_outcomes(skipped=3, deselected=4)
    for case in _cases(single_run).values():
        assert case["verdict"] == "SKIPPED"
        assert "--sae-context" in case["reason"]
        assert "12 tokens" in case["reason"]


def test_positions_and_draws_are_part_of_the_fingerprint_of_what_they_shape(single_run, tiny):
    found = []
    for draws in ("7", "8"):
        single_run.judge("--sae", tiny.good, *NEAR[:4], "--sae-draws", draws)
        found.append({name: c["fingerprint"] for name, c in _cases(single_run).items()})
    same = {name for name in found[0] if found[0][name] == found[1][name]}
    assert set(found[0]) - same == {"single_token[experiment=draws]@good"}


def test_options_come_from_the_environment_and_pyproject_too(single_run, tiny, monkeypatch):
    monkeypatch.setenv("SAEBENCH_DRAWS", "9")
    single_run.pytester.makepyprojecttoml("[tool.saebench]\ndraw-position = 3\n")
    single_run.judge("--sae", tiny.good, "-k", "single_token and draws")
    (case,) = _cases(single_run).values()
    assert (case["series"]["draws"], case["series"]["position"]) == (9, 3)


def test_a_number_that_is_none_is_refused(single_run, tiny):
    assert "--sae-draws must be 2 or more" in single_run.refused(
        "--sae", tiny.good, "--sae-draws", "1"
    )


def test_own_benchmarks_may_ask_for_other_positions(single_run, tiny):
    single_run.pytester.makepyfile(
        **{
            "benchmarks/test_positions": """
            import pytest

            @pytest.mark.property(name="single_token")
            @pytest.mark.parametrize("position", [3, 8, 11])
            def test_positions(measure, gate, position):
                gate(measure("single_token", position=position))
            """
        }
    )
    single_run.judge("--sae", tiny.good, "-k", "positions").assert_outcomes(passed=3, deselected=7)
    found = [case["series"] for case in _cases(single_run).values()]
    assert [s["position"] for s in found] == [3, 8, 11]
    assert [len(s["offsets"]) for s in found] == [9, 4, 1]
    assert [s["offsets_beyond_context"] for s in found] == [8, 13, 16]


def test_a_rule_decides_the_case_that_reports_its_metric(single_run, tiny):
    rule = ("--sae-fail-on", "single_token.z_above_2<=-1")
    done = single_run.judge("--sae", tiny.good, *NEAR, *rule, "-k", "single_token")
    done.assert_outcomes(passed=1, failed=1, deselected=5)
    verdicts = {c["params"]["experiment"]: c["verdict"] for c in _cases(single_run).values()}
    assert verdicts == {"offsets": "NEW", "draws": "FAIL"}


def test_a_rule_that_no_selected_case_reports_is_refused(single_run, tiny):
    rule = ("--sae-fail-on", "single_token.z_median<=1", "-k", "offsets")
    text = single_run.refused("--sae", tiny.good, *NEAR, *rule)
    assert "no case of single_token that reports it is selected" in text


def test_a_threshold_for_a_case_that_does_not_exist_is_refused(single_run, tiny, tmp_path):
    """It would never be decided: nothing could fail it."""
    file = tmp_path / "limits.toml"
    rule = '{ rule = "kl_gap.ratio[eps_random]<=2", case = "scope=sinlge" }'
    file.write_text(f"schema_version = 1\n[kl_gap]\ngates = [ {rule} ]\n")
    text = single_run.refused("--sae", tiny.good, "--sae-thresholds", str(file))
    assert "'scope=sinlge'" in text
    assert "{'scope': 'single'}" in text


def test_the_shipped_limit_of_the_gap_decides_scope_all_alone(single_run, tiny):
    single_run.judge("--sae", tiny.good, *NEAR, "-k", "kl_gap")
    gates = {c["params"]["scope"]: len(c["gates"]) for c in _cases(single_run).values()}
    assert gates == {"all": 4, "single": 0}


def test_an_sae_whose_gates_pass_passes_although_nothing_decides_single_tokens(single_run, tiny):
    done = single_run.judge("--sae", tiny.good, *NEAR, *single_run.only())
    assert done.ret == 0
    assert single_run.result()["run"]["status"] == "PASS"
    done.stdout.fnmatch_lines(["good  PASS*", "*single_token?experiment=draws?*NEW*"])


def test_at_the_last_position_there_is_kl_and_no_ce(single_run, tiny):
    done = single_run.judge("--sae", tiny.bad, "--sae-position", "11", "-k", "kl_gap and single")
    (case,) = _cases(single_run).values()
    values = {m["name"]: m["value"] for m in case["metrics"]}
    assert done.ret == 0
    assert values["kl_gap.ratio[eps_random]"] is not None
    assert values["kl_gap.ce_ratio[eps_random]"] is None
    assert case["series"]["ce_increase_by_offset"]["sae"] == [None]


def test_packed_data_leave_sequences_out_where_a_document_begins(single_run, tiny):
    single_run.judge("--sae", tiny.good, *NEAR, "--sae-packing", "packed", "-k", "offsets")
    (case,) = _cases(single_run).values()
    left_out = case["series"]["sequences_left_out"]
    sizes = [m["n"] for m in case["metrics"] if m["name"].endswith("@0]")]
    assert left_out > 0
    assert {n["tokens"] for n in sizes} == {24 - left_out}
    # Each document of 24 tokens was cut into two sequences of 12: they are one observation.
    assert {n["sequences"] for n in sizes} == {12}


def _judged(tiny: Any, **options: Any) -> dict[str, CaseResult]:
    run = saebench.judge(
        tiny.bad, tiny.model, tiny.texts, sequences=24,
        properties=["single_token"], position=4, draw_position=5, **options,
    )  # fmt: skip
    return {case.params["experiment"]: case for case in run.cases}


def test_python_judges_both_experiments(tiny):
    found = _judged(tiny, draws=7)
    assert set(found) == {"offsets", "draws"}
    assert all(case.verdict is Verdict.NEW for case in found.values())
    assert found["draws"].series["draws"] == 7
    # Five quantiles of KL; of 24 tokens the last two are the same one.
    assert len(found["offsets"].series["examples"]) == 4


def test_the_smoke_profile_draws_fewer(tiny):
    series = _judged(tiny, profile="smoke")["draws"].series
    assert (series["draws"], len(series["z"])) == (50, 16)
    assert len(_judged(tiny)["draws"].series["kl_sae"]) == 24


def test_examples_have_words_and_probabilities_that_add_up(tiny):
    for example in _judged(tiny)["offsets"].series["examples"]:
        assert len(example["tokens"]) == 25
        assert set(example["probabilities"]) == {"clean", "sae", "eps_random"}
        assert 0 < sum(example["probabilities"]["clean"]) <= 1 + 1e-9
        assert example["kl"]["sae"] >= 0
        assert len(example["text"].split()) == 5


def test_results_and_baselines_are_stored_for_each_experiment(single_run, tiny):
    options = ("--sae-update-baselines", "-k", "single_token or kl_gap")
    done = single_run.judge("--sae", tiny.good, *NEAR, *options, *single_run.only("kl_gap"))
    (stored,) = (single_run.pytester.path / "baselines").rglob("good@*.json")
    cases = json.loads(stored.read_text())["cases"]
    sums = {case["sums"] for case in cases.values()}
    assert done.ret == 0
    assert len(cases) == 4
    assert len(sums) == 3  # kl_gap[single] and single_token[offsets] share theirs
