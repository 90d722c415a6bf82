"""Made-up runs: for reports, files and commands, without a model."""

from saebench.records.case_result import Basis, CaseResult, GateResult
from saebench.records.inputs import DatasetRecord, ModelRecord, SubjectRecord
from saebench.records.metric import Direction, Interval, Metric, SampleSize
from saebench.records.run import SCHEMA_VERSION, Run, RunRecord

STARTED = "2024-05-01T12:00:00+00:00"
BASIS = Basis("w", "float32", "f", 0)
SIZE = SampleSize(64, 6400)


def _metric(name, value, *, note=None):
    ci = None if value is None else Interval(value - 0.1, value + 0.1, 0.95, "made up")
    return Metric(name, 1, value, "nats", Direction.LOWER, SIZE, ci, note=note)


def make_gate(metric, verdict):
    sentence = f"{metric} said so."
    return GateResult(f"{metric}<=1", metric, 0.5, None, "≤ 1", None, verdict, sentence)


def make_case(sae, about, verdict, *, gated=True, error=None, name=None):
    name = name or f"{about}.kl"
    return CaseResult(
        id=f"{about}@{sae}", sae=sae, property=about, params={}, verdict=verdict,
        reason=error or f"{name} said so.", duration_s=0.1, fingerprint="f" * 8,
        metrics=() if error else (_metric(name, 0.5), _metric("fidelity.odd", None, note="none")),
        gates=(make_gate(name, verdict),) if gated and not error else (), error=error,
        basis=BASIS,
    )  # fmt: skip


def make_run(*cases, saes=("one",)):
    subjects = tuple(
        SubjectRecord(s, f"dir/{s}", "w", "c", "standard", "blocks.0.hook_resid_pre", "resumed",
                      16, 32, 12)
        for s in saes
    )  # fmt: skip
    return Run(
        schema_version=SCHEMA_VERSION,
        run=RunRecord("id", "PASS", STARTED, STARTED, ("pytest",), "smoke", 0, True),
        harness={"version": "0", "git": "unknown"}, env={}, machine={},
        models=(ModelRecord("model", None, "w", "float32", "cpu"),),
        datasets=(DatasetRecord("d", None, None, "f", 64, 12, "documents", 64, 0, {}),),
        saes=subjects, cases=tuple(cases),
    )  # fmt: skip
