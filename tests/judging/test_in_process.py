"""Judging in this process, as repairs, sweeps and judge() share it."""

import pytest

import saebench
from saebench.errors import OptionError
from saebench.experiments.prepare import prepare
from saebench.judging.in_process import judge_in_process, requests_of
from saebench.judging.judge import Judge
from saebench.options import Settings
from saebench.progress import no_progress
from saebench.subjects.references import find_subjects

PROPERTIES = ("fidelity", "sparsity")


def _judged(tiny, *names, properties=PROPERTIES, **more):
    settings = Settings(model=tiny.model, dataset=tiny.texts, sequences=4, **more)
    judge = Judge(settings)
    benches = prepare(settings, find_subjects([getattr(tiny, name) for name in names]))
    requests = requests_of(benches).every(properties)
    return judge, judge_in_process(judge, benches, requests, progress=no_progress)


def test_the_run_is_that_of_judge(tiny):
    _, run = _judged(tiny, "good", "bad")
    other = saebench.judge(
        [tiny.good, tiny.bad], tiny.model, tiny.texts, sequences=4, properties=PROPERTIES
    )
    assert [(c.id, c.verdict, c.metrics, c.gates) for c in run.cases] == [
        (c.id, c.verdict, c.metrics, c.gates) for c in other.cases
    ]
    assert run.run.complete


def test_the_judge_has_the_per_sequence_sums_afterwards(tiny):
    judge, run = _judged(tiny, "bad")
    (measured,) = judge.measured()
    table = next(t for t in measured.tables.values() if "sae.kl" in t)
    kl = next(m for c in run.cases for m in c.metrics if m.name == "fidelity.kl")
    assert table["sae.kl"].sum() / table["n.scored"].sum() == pytest.approx(kl.value)


def test_a_rule_that_no_requested_case_decides_is_refused(tiny):
    with pytest.raises(OptionError, match="kl_gap"):
        _judged(tiny, "good", properties=["sparsity"], fail_on=("kl_gap.ratio[eps_random]<=2",))
