"""Made-up baselines: SAEs whose per-sequence sums are drawn, stored as a run would store them."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from saebench.properties import find_property
from saebench.records.case_result import CaseResult
from saebench.records.inputs import DatasetRecord, ModelRecord, SubjectRecord
from saebench.records.metric import Interval, Metric, SampleSize
from saebench.records.verdict import Verdict
from saebench.statistics.bootstrap import estimate
from saebench.store.baselines import Measured, baseline_path, update_baseline

MODEL = ModelRecord("toy", None, "ef" * 32, "float32", "cpu")
HOOK = "blocks.1.hook_resid_pre"
CASES = {
    "fidelity": ("fidelity.kl",),
    "kl_gap[scope=all]": ("kl_gap.ratio[eps_random]",),
    "shrinkage": ("shrinkage.l2_ratio",),
    "sparsity": ("sparsity.l0",),
}


def make_sums(*, kl=0.1, l0=20.0, norm=0.95, sequences=48, seed=0):
    """Return per-sequence sums of an SAE whose means are about these."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(20, 40, sequences).astype(float)
    hard = rng.gamma(2.0, 0.5, sequences)  # the same sequences are hard for every SAE
    jitter = np.random.default_rng(int(1000 * kl) + 7).normal(1, 0.02, sequences)
    return {
        "n.scored": counts,
        "sae.kl": kl * hard * jitter * counts,
        "eps_random.kl": 0.08 * hard * counts,
        "norm_ratio": norm * counts * rng.normal(1, 0.01, sequences),
        "l0": l0 * counts * rng.normal(1, 0.05, sequences),
    }


def make_data(name="texts", *, fingerprint="1" * 64, sequences=48):
    return DatasetRecord(name, None, None, fingerprint, sequences, 40, "documents", 60, 12, {})


def make_subject(id, *, hook=HOOK, architecture="standard"):
    sha = (id.encode().hex() * 64)[:64]
    return SubjectRecord(id, f"dir/{id}", sha, "cd" * 32, architecture, hook, "resumed", 8, 32, 16)


def store(
    root: Path,
    id,
    *,
    data=None,
    model=MODEL,
    seed=0,
    versions=None,
    without=(),
    weights=None,
    **sums,
):
    """Store a baseline of a made-up SAE; return its path."""
    data = data or make_data()
    about = {k: sums.pop(k) for k in ("hook", "architecture") if k in sums}
    subject = make_subject(id, **about)
    subject = replace(subject, weights_sha256=weights or subject.weights_sha256)
    table = make_sums(**sums)
    cases = tuple(
        _case(subject, kind, table, versions or {}) for kind in CASES if kind not in without
    )
    key = f"sequences@{data.fingerprint[:8]}-{seed}"
    of = {case.id: key for case in cases}
    measured = Measured(subject, model, (data,), cases, {key: table}, of)
    update_baseline(root, measured, only_new=False)
    return baseline_path(root, subject, model)


def _case(subject, kind, table, versions):
    about = kind.partition("[")[0]
    specs = {spec.name: spec for spec in find_property(about).metrics}
    metrics = tuple(
        _metric(specs[n], table, versions.get(n, specs[n].version)) for n in CASES[kind]
    )
    params = {"scope": "all"} if "[" in kind else {}
    return CaseResult(
        f"{kind}@{subject.id}", subject.id, about, params, Verdict.PASS, "", 0.1, "f" * 8, metrics
    )


def _metric(spec, table, version):
    found = estimate(spec.formula, {c: table[c] for c in (*spec.channels, spec.counts)})
    ci = found.interval or Interval(found.value, found.value, 0.95, "none")
    n = SampleSize(len(table["n.scored"]), int(table["n.scored"].sum()))
    return Metric(spec.name, version, found.value, spec.unit, spec.direction, n, ci, spec.target)


def another(model=MODEL, **changes):
    return replace(model, **changes)
