"""A distribution outside the package adds a property and an SAE format, and both are judged.

A property with a probe and a table renderer belong into ``lab`` too, each with a test here.
"""

import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from distributions import Site
from safetensors.numpy import load_file

import saebench
from saebench.zoo import corpus, shelf

LAB = Path(__file__).parent / "lab"
SAE = "l2-standard"


@pytest.fixture
def lab(site: Site) -> None:
    site.install_project(LAB, "saebench_lab")


@pytest.fixture
def sae(tmp_path: Path) -> str:
    """One of the demo's SAEs in the laboratory's format."""
    directory = tmp_path / "theirs"
    directory.mkdir()
    config = json.loads((shelf.sae_path(SAE) / "cfg.json").read_text())
    facts = {key: config[key] for key in ("d_in", "d_sae", "metadata")}
    (directory / "lab.json").write_text(json.dumps(facts | {"architecture": "lab"}))
    np.savez(directory / "lab.npz", **load_file(shelf.sae_path(SAE) / "sae_weights.safetensors"))
    return str(directory)


@pytest.fixture
def texts(tmp_path: Path) -> str:
    path = tmp_path / "stories.jsonl"
    stories = islice(corpus.documents(corpus.split_seed("heldout")), 64)
    path.write_text("".join(json.dumps({"text": story}) + "\n" for story in stories))
    return str(path)


@pytest.fixture
def lab_run(pytester: pytest.Pytester, tiny, lab, sae: str, texts: str):
    """Run the laboratory's benchmark file on its SAE, with its thresholds."""
    shutil.copytree(LAB / "benchmarks", pytester.path / "benchmarks")
    arguments = ["--sae", sae, "--sae-model", str(shelf.model_path()), "--sae-dataset", texts]
    arguments += ["--sae-sequences", "16", "--sae-thresholds", str(LAB / "thresholds.toml")]

    def run(*more: str) -> tuple[pytest.RunResult, dict]:
        done = pytester.runpytest_inprocess(
            "benchmarks", "-p", "no:cacheprovider", "--sae-json", "out.json", *arguments, *more
        )
        return done, json.loads((pytester.path / "out.json").read_text())

    return run


def test_its_property_is_measured_on_an_sae_of_its_format_and_decided(lab_run):
    done, result = lab_run()
    assert done.ret == pytest.ExitCode.OK
    done.assert_outcomes(passed=1)
    assert result["saes"][0]["architecture"] == "lab"
    [case] = result["cases"]
    assert (case["property"], case["verdict"]) == ("unexplained", "PASS")
    assert case["gates"][0]["rule"] == "unexplained.variance<=0.5"


def test_its_thresholds_fail_what_is_beyond_them(lab_run):
    done, result = lab_run("--sae-fail-on", "unexplained.variance<=0.001")
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    assert result["cases"][0]["verdict"] == "FAIL"


def test_its_numbers_are_those_of_saebenchs_own_format_and_property(lab, sae: str, texts: str):
    def measured(sae: str, name: str) -> dict[str, float]:
        run = saebench.judge(sae, str(shelf.model_path()), texts, properties=[name], sequences=16)
        return {metric.name: metric.value for metric in run.cases[0].metrics}

    ours = measured(str(shelf.sae_path(SAE)), "fidelity")["fidelity.explained_variance"]
    theirs = measured(sae, "unexplained")["unexplained.variance"]
    assert theirs == pytest.approx(1 - ours, rel=1e-6)
