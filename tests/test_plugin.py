"""Options, parametrisation and exit codes of the pytest plugin."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import pytest

from saebench.options import OPTIONS

IMPOSSIBLE = ("--sae-fail-on", "fidelity.kl<=-1")
# Four sequences leave the ratio's interval wide: its end lies on either side of this limit.
UNDECIDED = ("--sae-fail-on", "kl_gap.ratio[eps_random]<=1.2")


def _ids(done):
    return [line.split("::")[1] for line in done.outlines if "::" in line]


def test_exit_code_0_when_every_gate_passes(gate_run, tiny):
    done = gate_run.judge("--sae", tiny.good, *gate_run.only())
    assert done.ret == pytest.ExitCode.OK
    done.assert_outcomes(passed=4, skipped=1)
    assert gate_run.result()["run"]["status"] == "PASS"


def test_exit_code_1_when_a_gate_fails(gate_run, tiny):
    done = gate_run.judge("--sae", tiny.good, *IMPOSSIBLE)
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.assert_outcomes(passed=3, failed=1, skipped=1)
    done.stdout.fnmatch_lines(["FAIL: fidelity.kl = * is outside the limit of at most -1."])
    assert gate_run.result()["run"]["status"] == "FAIL"


def test_a_bad_sae_fails_with_the_shipped_thresholds(gate_run, tiny):
    done = gate_run.judge("--sae", tiny.bad)
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    verdicts = {case["property"]: case["verdict"] for case in gate_run.result()["cases"]}
    assert (verdicts["fidelity"], verdicts["shrinkage"]) == ("FAIL", "FAIL")


def test_an_undecided_gate_fails_by_default(gate_run, tiny):
    done = gate_run.judge("--sae", tiny.good, "-k", "kl_gap", *UNDECIDED)
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.stdout.fnmatch_lines(["INCONCLUSIVE: * more sequences would settle it."])


def test_an_undecided_gate_only_warns_where_asked_to(gate_run, tiny):
    options = ("-k", "kl_gap", *UNDECIDED, "--sae-inconclusive", "warn", *gate_run.only("kl_gap"))
    done = gate_run.judge("--sae", tiny.good, *options)
    assert done.ret == pytest.ExitCode.OK
    assert gate_run.result()["run"]["status"] == "INCONCLUSIVE"
    done.stdout.fnmatch_lines(["INCONCLUSIVE kl_gap*"])


def test_one_sequence_never_passes(gate_run, tiny):
    done = gate_run.judge("--sae", tiny.good, "--sae-sequences", "1")
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    decided = [c["verdict"] for c in gate_run.result()["cases"] if c["gates"]]
    assert set(decided) == {"INCONCLUSIVE"}
    assert len(decided) == 4


def test_exit_code_5_when_nothing_is_selected(gate_run, tiny):
    done = gate_run.judge("--sae", tiny.good, "-k", "nothing")
    assert done.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert not gate_run.json.exists()


def test_exit_code_4_for_an_unknown_option(gate_run, tiny):
    done = gate_run.judge("--sae", tiny.good, "--sae-sequencess", "3")
    assert done.ret == pytest.ExitCode.USAGE_ERROR


def test_exit_code_2_and_an_incomplete_file_when_interrupted(gate_run, tiny):
    gate_run.pytester.makepyfile(
        **{"benchmarks/test_zz": "def test_interrupted():\n    raise KeyboardInterrupt\n"}
    )
    done = gate_run.pytester.runpytest_subprocess(
        "benchmarks", "--sae", tiny.good, *tiny.options(), "--sae-json", gate_run.json, "-k",
        "sparsity or interrupted",
    )  # fmt: skip
    assert done.ret == pytest.ExitCode.INTERRUPTED
    assert gate_run.result()["run"]["complete"] is False


def test_a_run_that_stops_at_its_first_failure_is_not_complete(gate_run, tiny):
    done = gate_run.judge("--sae", tiny.bad, "-x")
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    assert gate_run.result()["run"]["complete"] is False
    assert len(gate_run.result()["cases"]) == 1


def test_every_sae_has_its_own_cases(gate_run, tiny):
    done = gate_run.judge("--sae", tiny.good, "--sae", tiny.bad, "--collect-only", "-q")
    found = {i for i in _ids(done) if i.startswith("test_shrinkage")}
    assert found == {"test_shrinkage[good]", "test_shrinkage[bad]"}
    assert len(_ids(done)) == 10


def test_a_glob_names_several_saes(gate_run, tiny, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(tiny.good, tmp_path / "saes" / name)
    pattern = str(tmp_path / "saes" / "*")
    done = gate_run.judge("--sae", pattern, "--collect-only", "-q", "-k", "shrinkage")
    assert _ids(done) == ["test_shrinkage[one]", "test_shrinkage[two]"]


def test_an_sae_given_twice_is_judged_once(gate_run, tiny, monkeypatch):
    monkeypatch.chdir(Path(tiny.good).parent)
    gate_run.pytester.chdir()
    relative = os.path.relpath(tiny.good, gate_run.pytester.path)
    specs = ("--sae", tiny.good, "--sae", tiny.good + "/", "--sae", relative)
    done = gate_run.judge(*specs, "--collect-only", "-q", "-k", "shrinkage")
    assert _ids(done) == ["test_shrinkage[good]"]


def test_a_selected_property_alone_is_judged(gate_run, tiny):
    gate_run.judge("--sae", tiny.good, "-k", "shrinkage").assert_outcomes(passed=1, deselected=4)


def test_a_property_is_selected_by_its_mark(gate_run, tiny):
    done = gate_run.judge("--sae", tiny.good, "-m", "property(name='fidelity')")
    done.assert_outcomes(passed=1, deselected=4)
    assert [c["property"] for c in gate_run.result()["cases"]] == ["fidelity"]


def test_one_selected_sae_alone_is_loaded_and_listed(gate_run, tiny):
    gate_run.judge("--sae", tiny.good, "--sae", tiny.bad, "-k", "good and shrinkage")
    assert [sae["id"] for sae in gate_run.result()["saes"]] == ["good"]


def test_a_case_selected_alone_has_the_values_of_the_whole_suite(gate_run, tiny):
    gate_run.judge("--sae", tiny.good)
    whole = gate_run.result()["cases"]
    for case in whole:
        words = (case["property"], *case["params"].values())
        gate_run.judge("--sae", tiny.good, "-k", " and ".join(words))
        (alone,) = gate_run.result()["cases"]
        assert alone["metrics"] == case["metrics"]
        assert alone["fingerprint"] == case["fingerprint"]


def _sequences(gate_run, tiny, *args):
    options = ("--sae-model", tiny.model, "--sae-dataset", tiny.texts, "-k", "shrinkage")
    gate_run.run("--sae", tiny.good, *options, *args)
    return gate_run.result()["datasets"][0]["sequences"]


def test_command_line_goes_over_environment_over_pyproject(gate_run, tiny, monkeypatch):
    gate_run.pytester.makepyprojecttoml("[tool.saebench]\nsequences = 5\n")
    assert _sequences(gate_run, tiny) == 5
    monkeypatch.setenv("SAEBENCH_SEQUENCES", "6")
    assert _sequences(gate_run, tiny) == 6
    assert _sequences(gate_run, tiny, "--sae-sequences", "7") == 7


def test_everything_can_be_said_in_pyproject(gate_run, tiny):
    table = {
        "sae": [tiny.good], "model": tiny.model, "dataset": tiny.texts, "sequences": 24,
        "fail-on": ["fidelity.kl<=-1"], "json": str(gate_run.json), "batch-size": 4,
    }  # fmt: skip
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
    gate_run.pytester.makepyprojecttoml("[tool.saebench]\n" + lines)
    done = gate_run.pytester.runpytest_inprocess("benchmarks")
    done.assert_outcomes(passed=3, failed=1, skipped=1)
    assert gate_run.result()["run"]["status"] == "FAIL"


def test_an_unknown_key_in_pyproject_is_refused(gate_run, tiny):
    gate_run.pytester.makepyprojecttoml("[tool.saebench]\nsequencess = 8\n")
    assert "did you mean 'sequences'" in gate_run.refused("--sae", tiny.good)


def test_a_broken_pyproject_is_no_internal_error(gate_run, tiny):
    (gate_run.pytester.path / "pyproject.toml").write_text("[tool.saebench\n")
    done = gate_run.judge("--sae", tiny.good)
    assert done.ret == pytest.ExitCode.USAGE_ERROR


def test_several_saes_come_from_the_environment(gate_run, tiny, monkeypatch):
    monkeypatch.setenv("SAEBENCH_SAE", f"{tiny.good}\n{tiny.bad}")
    done = gate_run.judge("--collect-only", "-q", "-k", "shrinkage")
    assert len(_ids(done)) == 2


def test_help_lists_every_option(gate_run):
    done = gate_run.pytester.runpytest_inprocess("--help")
    text = done.stdout.str()
    for option in OPTIONS:
        assert re.search(rf"^  {option.flag}(=|\s|$)", text, re.MULTILINE), option.flag


def test_junit_xml_carries_verdict_and_metrics(gate_run, tiny):
    gate_run.judge("--sae", tiny.good, "-k", "shrinkage", "--junitxml=out.xml")
    found = ET.parse(gate_run.pytester.path / "out.xml").iter("property")
    properties = {p.attrib["name"]: p.attrib["value"] for p in found}
    assert properties["saebench_verdict"] == "PASS"
    assert 0.9 < float(properties["shrinkage.l2_ratio"]) < 1.1


def test_the_result_file_validates_and_tells_what_was_judged(gate_run, tiny):
    from saebench.records.run import RESULT
    from saebench.store.json_files import json_schema

    gate_run.judge("--sae", tiny.good, *gate_run.only())
    found = gate_run.result()
    jsonschema.Draft202012Validator(json_schema(RESULT)).validate(found)
    assert found["run"]["complete"] is True
    assert found["datasets"][0]["documents_skipped"] == 0
    assert found["saes"][0]["hook"] == "blocks.1.hook_resid_pre"
    assert {"policies", "fingerprint"} <= set(found["datasets"][0])


def test_a_result_path_that_cannot_be_written_is_no_traceback(gate_run, tiny):
    done = gate_run.judge("--sae", tiny.good, "-k", "shrinkage", "--sae-json", "/proc/no/out.json")
    text = done.stdout.str() + done.stderr.str()
    assert "cannot be written" in text
    assert "INTERNALERROR" not in text
    assert "Traceback" not in text
    assert done.ret not in (pytest.ExitCode.OK, pytest.ExitCode.INTERNAL_ERROR)


def test_the_json_path_may_be_a_home_or_a_new_directory(gate_run, tiny):
    gate_run.judge("--sae", tiny.good, "-k", "shrinkage", "--sae-json", "new/dir/out.json")
    assert (gate_run.pytester.path / "new" / "dir" / "out.json").is_file()


@pytest.mark.parametrize("name", ["ünïcode 😀", "with space", "br[ack]et", "a:b"])
def test_an_sae_may_lie_at_an_unusual_path(gate_run, tiny, tmp_path, name):
    shutil.copytree(tiny.good, tmp_path / name)
    done = gate_run.judge("--sae", str(tmp_path / name), "-k", "shrinkage")
    assert done.ret == 0
    assert gate_run.result()["saes"][0]["id"] == name


def test_batch_size_does_not_change_a_value(gate_run, tiny):
    values = []
    for size in ("1", "5", "24"):
        gate_run.judge("--sae", tiny.good, "--sae-batch-size", size)
        cases = gate_run.result()["cases"]
        values.append({m["name"]: m["value"] for c in cases for m in c["metrics"] if m["value"]})
    assert values[1] == pytest.approx(values[0], rel=1e-4, abs=1e-6)
    assert values[2] == pytest.approx(values[0], rel=1e-4, abs=1e-6)


def test_interventions_limit_what_kl_gap_measures_beside_those_that_decide(gate_run, tiny):
    options = ("-k", "kl_gap", "--sae-interventions", "sae_norm, zero")
    gate_run.judge("--sae", tiny.good, *options)
    names = {m["name"] for m in gate_run.result()["cases"][0]["metrics"]}
    ratios = {n for n in names if n.startswith("kl_gap.ratio")}
    decide = ("eps_random", "cov_random", "real_difference", "error_shuffled")
    assert ratios == {f"kl_gap.ratio[{name}]" for name in (*decide, "sae_norm", "zero")}


def test_a_gate_on_an_intervention_left_out_is_an_error_not_a_pass(gate_run, tiny):
    rule = ("--sae-fail-on", "kl_gap.ratio[theta_random_x]<=100")
    options = ("-k", "kl_gap", "--sae-interventions", "zero", *rule)
    done = gate_run.judge("--sae", tiny.good, *options)
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    assert gate_run.result()["cases"][0]["verdict"] == "ERROR"


def test_own_benchmarks_may_use_measure_and_gate(gate_run, tiny):
    gate_run.pytester.makepyfile(
        **{
            "benchmarks/test_own": """
            import pytest

            @pytest.mark.property(name="shrinkage")
            def test_own(measure, gate):
                case = measure("shrinkage")
                assert case.metrics[0].name == "shrinkage.l2_ratio"
                gate(case)
            """
        }
    )
    gate_run.judge("--sae", tiny.good, "-k", "own").assert_outcomes(passed=1, deselected=5)


def test_a_usual_test_run_is_left_alone(pytester, monkeypatch):
    monkeypatch.setenv("SAEBENCH_SEQUENCES", "abc")
    pytester.makepyfile(
        test_usual="import pytest\n@pytest.fixture\ndef sae():\n    return 3\n"
        "def test_one(sae):\n    assert sae == 3\n"
    )
    done = pytester.runpytest_inprocess("--strict-markers")
    done.assert_outcomes(passed=1)
    assert not any("saebench" in line for line in done.outlines if "plugins:" not in line)


LISTING = """
import sys
def pytest_sessionfinish(session):
    heavy = {"torch", "sae_lens", "transformers", "transformer_lens", "scipy", "pandas"}
    print("HEAVY", sorted(heavy & set(sys.modules)))
"""


def test_collecting_loads_neither_torch_nor_sae_lens(gate_run, tiny):
    gate_run.pytester.makeconftest(LISTING)
    options = ("--collect-only", "-q", "-p", "no:xdist", "--sae", tiny.good)
    done = gate_run.pytester.runpytest_subprocess("benchmarks", *options, *tiny.options())
    assert done.ret == 0
    assert len(_ids(done)) == 5
    heavy = next(line for line in done.outlines if "HEAVY" in line)
    assert "torch" not in heavy
    assert "sae_lens" not in heavy


TIMED = """
import time
import pytest
before = time.process_time()
import saebench.plugin
print(time.process_time() - before)
"""


def test_importing_the_plugin_costs_a_test_run_less_than_50_milliseconds(tmp_path):
    """Processor time, the least of three interpreters: other processes do not lengthen it."""
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(tmp_path)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", TIMED]
    runs = [subprocess.check_output(command, env=environment, text=True) for _ in range(3)]
    assert min(map(float, runs)) < 0.05


@pytest.mark.usefixtures("few_documents_decide_in_processes")
def test_a_worker_judges_what_the_process_itself_does(gate_run, tiny):
    """Sharing out the cases over processes gives the same result file."""
    pytest.importorskip("xdist")
    specs = ("--sae", tiny.good, "--sae", tiny.bad, *tiny.options(), "-k", "not kl_gap")
    options = ("--sae-json", gate_run.json, "-n", "1")
    done = gate_run.pytester.runpytest_subprocess("benchmarks", *specs, *options)
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    shared = {c["id"]: c["verdict"] for c in gate_run.result()["cases"]}
    gate_run.judge("--sae", tiny.good, "--sae", tiny.bad, "-k", "not kl_gap")
    assert shared == {c["id"]: c["verdict"] for c in gate_run.result()["cases"]}
