"""A distribution outside the package adds properties, a probe, an SAE format and a renderer."""

import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from distributions import Site
from safetensors.numpy import load_file
from transformers import GPT2LMHeadModel

import saebench
from saebench.cli import main
from saebench.errors import OptionError
from saebench.experiments.prepare import prepare
from saebench.options import Settings
from saebench.store.json_files import write_record
from saebench.subjects.references import find_subjects
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


def test_its_probe_is_the_brute_force_loop_over_the_model(lab, texts: str):
    settings = Settings(model=str(shelf.model_path()), dataset=texts, sequences=8)
    (bench,) = prepare(settings, find_subjects([f"demo:{SAE}"]))
    (subject,) = bench.subjects
    model = GPT2LMHeadModel.from_pretrained(shelf.model_path()).eval()
    counted, moved = bench.tokens.counted, []

    def replace(_, args):
        changed = args[0].clone()
        changed[counted] = subject.sae.decode(subject.sae.encode(args[0][counted]))
        return (changed, *args[1:])

    with torch.no_grad():
        for hooked in (False, True):
            handle = model.transformer.h[2].register_forward_pre_hook(replace) if hooked else None
            moved.append(model.transformer(bench.tokens.ids).last_hidden_state[counted])
            if handle is not None:
                handle.remove()
    expected = float((moved[1] - moved[0]).norm(dim=-1).double().mean())
    assert _shift(texts) == pytest.approx(expected, rel=1e-4)


def test_its_probe_is_measured_in_shards_too(lab, texts: str, tmp_path: Path):
    sharded = _shift(texts, run_dir=tmp_path / "shards", shard_sequences=3)
    assert sharded == pytest.approx(_shift(texts), rel=1e-5)


def test_a_probe_that_gives_no_value_for_each_token_is_named(lab, texts: str, monkeypatch):
    from saebench_lab import probes

    monkeypatch.setattr(probes, "hidden_shift", probes.one_number)
    with pytest.raises(OptionError, match=r"probe 'hidden_shift' .*expected one value for each"):
        _shift(texts)


def test_its_renderer_writes_a_format_of_saebench_export(lab, tmp_path: Path):
    run = saebench.judge(f"demo:{SAE}", properties=["sparsity"], sequences=4)
    write_record(run, tmp_path / "run.json")
    out = tmp_path / "lines.txt"
    assert (
        main(["export", str(tmp_path / "run.json"), "--format", "lab-lines", "-o", str(out)]) == 0
    )
    assert out.read_text().startswith(f"sparsity@{SAE}: ")


def _shift(texts: str, **options: object) -> float | None:
    run = saebench.judge(f"demo:{SAE}", None, texts, properties=["shift"], sequences=8, **options)
    (metric,) = run.cases[0].metrics
    return metric.value
