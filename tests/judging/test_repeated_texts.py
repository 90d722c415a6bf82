"""The same texts several times over: no interval is narrower for it, whatever the property."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import saebench
from saebench.records.metric import CLUSTER
from saebench.records.run import Run
from saebench.records.verdict import Verdict
from saebench.store.sums_file import CaseSums, RunSums, dump_sums, parse_sums

DISTINCT, TIMES = 20, 4
# In the file's order, so that the texts that differ come in the same order however often.
OPTIONS = {"position": 4, "draw_position": 5, "draws": 12, "context": 12, "training_context": 3,
           "order": "file"}  # fmt: skip


def _written(tiny, path: Path, texts, times):
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts * times))
    return str(path)


def _prompts(tiny, path: Path, texts, times):
    # One word is in every prompt: helpfulness needs a feature that is active on 20 of them.
    rows = [{"text": " ".join(["w0", *text.split()[:10]])} for text in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * times))
    return str(path)


def _texts(tiny):
    return [json.loads(line)["text"] for line in Path(tiny.texts).read_text().splitlines()]


def _judged(tiny, root: Path, times: int, **options) -> Run:
    texts = _texts(tiny)[:DISTINCT]
    given = {"sequences": DISTINCT * times, "prompts": DISTINCT * times} | OPTIONS | options
    given.setdefault("sae", tiny.bad)
    return saebench.judge(
        given.pop("sae"), tiny.model,
        _written(tiny, root / f"{times}.jsonl", texts, times),
        cloze=_prompts(tiny, root / f"cloze{times}.jsonl", texts, times), **given,
    )  # fmt: skip


@pytest.fixture(scope="module")
def both(tiny, tmp_path_factory):
    root = tmp_path_factory.mktemp("repeated")
    saes = [tiny.bad, tiny.early(root / "early")]
    return tuple(_judged(tiny, root, times, sae=saes) for times in (1, TIMES))


def _widths(run: Run) -> dict[tuple[str, str], float]:
    return {
        (case.id, m.name): m.ci.high - m.ci.low
        for case in run.cases for m in case.metrics if m.ci is not None
    }  # fmt: skip


def test_no_interval_of_any_property_rests_on_more_than_the_texts_that_differ(both):
    about = {case.property for case in both[1].cases if case.verdict is not Verdict.SKIPPED}
    assert {"fidelity", "kl_gap", "single_token", "propagation", "hard_tokens"} <= about
    assert {"cloze", "helpfulness", "controls", "context_length"} <= about
    methods = {m.name: m.ci.method for c in both[1].cases for m in c.metrics if m.ci is not None}
    rests_on = {n: int(re.search(r"\d+", method)[0]) for n, method in methods.items()}
    assert {n: on for n, on in rests_on.items() if on > DISTINCT} == {}
    assert sum("that differ of 80" in method for method in methods.values()) > 50


def test_what_has_no_noise_in_it_has_the_very_interval_of_the_texts_that_differ(both):
    once, often = (_metrics(run, "fidelity") for run in both)
    for name in ("fidelity.kl", "fidelity.ce_increase", "fidelity.cosine"):
        ends = [(m.value, m.ci.low, m.ci.high) for m in (once[name], often[name])]
        assert ends[1] == pytest.approx(ends[0], rel=1e-4)
        assert often[name].n.sequences == DISTINCT
        assert often[name].n.tokens == TIMES * once[name].n.tokens


def _metrics(run, name):
    case = next(case for case in run.cases if case.property == name)
    return {m.name: m for m in case.metrics}


def test_the_result_and_its_table_say_so(both):
    note = "60 of 80 sequences repeat another"
    assert all(note in str(sae.notes) for sae in both[1].saes)
    assert note in str(both[1])
    assert "repeat another" not in str(both[0])


def test_one_text_over_and_over_decides_nothing(tiny, tmp_path):
    texts = _written(tiny, tmp_path / "one.jsonl", _texts(tiny)[:1], 30)
    run = saebench.judge(tiny.good, tiny.model, texts, sequences=30, properties=["fidelity"])
    assert run.cases[0].verdict is Verdict.INCONCLUSIVE
    assert "rests on one sequence" in run.cases[0].reason


def test_rounds_and_shards_give_the_intervals_of_a_run_in_one_go(tiny, both, tmp_path):
    options = {"properties": ["fidelity"]}
    shards = _judged(tiny, tmp_path, TIMES, run_dir=tmp_path / "run", shard_sequences=7, **options)
    rounds = _judged(tiny, tmp_path, TIMES, stop_early=True, fail_on="fidelity.kl<=0", **options)
    expected = {k: w for k, w in _widths(both[1]).items() if k[0].startswith("fidelity@bad")}
    found = {k: w for k, w in _widths(shards).items() if k[0].startswith("fidelity")}
    assert found == pytest.approx(expected, rel=1e-3)
    assert _metrics(rounds, "fidelity")["fidelity.kl"].n.sequences <= DISTINCT


def test_a_baseline_keeps_the_clusters_and_one_without_is_read_too(gate_run, tiny, tmp_path):
    texts = _written(tiny, tmp_path / "a.jsonl", _texts(tiny)[:DISTINCT], TIMES)
    asked = ["--sae", tiny.bad, "--sae-model", tiny.model, "--sae-dataset", texts,
             "--sae-sequences", "80", "-k", "fidelity", "--sae-fail-on",
             "fidelity.kl<=9", *gate_run.only("fidelity")]  # fmt: skip
    gate_run.run(*asked, "--sae-update-baselines")
    [sums] = (gate_run.pytester.path / "baselines").rglob("*.npz")
    with np.load(sums) as kept:
        arrays = {name: kept[name] for name in kept.files}
    (name,) = [name for name in arrays if name.endswith(f"/{CLUSTER}")]
    assert len(np.unique(arrays[name])) == DISTINCT
    gate_run.run(*asked, "--sae-baseline", "baselines", "--sae-fail-on", "fidelity.kl:+5%")
    gates = gate_run.result()["cases"][0]["gates"]
    compared = next(gate for gate in gates if gate["baseline"] is not None)
    assert compared["worse_by"] == pytest.approx(0, abs=1e-6)
    assert "over the 20 that differ" in compared["worse_ci"]["method"] or compared["worse_ci"]


def test_stored_sums_keep_them():
    table = {"kl": np.ones(3), CLUSTER: np.array([0.0, 1.0, 0.0])}
    sums = RunSums({"fidelity@a": CaseSums("f", table)})
    _, again = parse_sums(dump_sums(sums, run_id="r"), where="here")
    assert again.cases["fidelity@a"].table[CLUSTER].tolist() == [0.0, 1.0, 0.0]
