"""A sweep's SAEs judged by the gate, each in its own model: the points of the frontier."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from saebench.data.documents import Documents
from saebench.errors import StoreError
from saebench.judging.bench import Bench
from saebench.judging.judge import Judge
from saebench.judging.preparation import benches_of
from saebench.judging.progress import ProgressBar
from saebench.judging.readings import Texts
from saebench.judging.requests import Given, Requests
from saebench.properties.controls import PRIMARY
from saebench.repairs import Ranged
from saebench.results import CaseResult, DatasetRecord, Metric
from saebench.settings import Settings
from saebench.statistics.bootstrap import Table, estimate
from saebench.statistics.clusters import chosen, side_by_side
from saebench.store.atomic import write_file
from saebench.store.training_file import read_training
from saebench.subjects.host import Host
from saebench.subjects.host_patch import host_for
from saebench.subjects.loading import load_subject
from saebench.subjects.metadata import Overrides
from saebench.subjects.references import find_subjects
from saebench.sweeps import KL, L0, SweepPoint
from saebench.training.objectives import Objective
from saebench.training.saving import RECORD_FILE
from saebench.training.sweep import Point, SweepJob, points
from saebench.training.texts import Judging

JUDGED_FILE = "judged.json"
CASES = (("fidelity", {}), ("shrinkage", {}), ("sparsity", {}), ("kl_gap", {"scope": "all"}),
         ("controls", {}), ("tax", {}))  # fmt: skip
INTERVENTIONS = ("eps_random",)
# A point's name of each of the gate's metrics.
METRICS = {
    "sparsity.l0": L0,
    "sparsity.dead": "dead",
    "fidelity.kl": "kl_to_own_model",
    "fidelity.mse": "mse",
    "fidelity.explained_variance": "explained_variance",
    "shrinkage.l2_ratio": "l2_ratio",
    "kl_gap.ratio[eps_random]": "kl_gap_ratio",
    "tax.kl": "tax_kl",
    "tax.kl_from_original": "tax_kl_from_original",
    "tax.ce_increase": "tax_ce_increase",
} | {f"controls.separated[{about}]": f"separated_{about}" for about in PRIMARY}
# What the model loses with the SAE in it, against the original: of a patched model, and else.
LOSSES = {
    "tax.kl_with_sae": KL,
    "tax.ce_increase_with_sae": "ce_increase",
    "fidelity.kl": KL,
    "fidelity.ce_increase": "ce_increase",
}


def judge_all(
    job: SweepJob,
    how: Judging,
    host: Host,
    documents: Documents,
    *,
    progress: ProgressBar,
) -> tuple[tuple[SweepPoint, ...], DatasetRecord]:
    """Judge every point that is there, and hold each against the standard one of its place.

    Args:
        job: the sweep.
        how: it is judged.
        host: the original model.
        documents: to judge on.
        progress: makes a progress bar.

    Raises:
        UsageError: where the texts are too short, or an SAE cannot be read.
    """
    found, tables, data = [], {}, None
    for point in points(job):
        directory = point.directory(job.base.out)
        bench = _bench(job, how, host, documents, directory)
        data = next(iter(bench.data.values()))
        judged, table = _judged(job, point, bench, progress=progress)
        found.append(judged)
        tables[point] = table
    assert data is not None
    pairs = zip(points(job), found, strict=True)
    return tuple(_held(point, judged, tables) for point, judged in pairs), data


def _bench(job: SweepJob, how: Judging, host: Host, documents: Documents, directory: Path) -> Bench:
    (reference,) = find_subjects([str(directory)])
    subject = load_subject(reference, overrides=Overrides(), device=str(host.device))
    settings = Settings(
        sequences=how.sequences, seed=how.seed, device=job.base.device, dtype=job.base.dtype,
        interventions=INTERVENTIONS, packing=how.packing,
    )  # fmt: skip
    own = host_for(host, reference.directory)
    (bench,) = benches_of(settings, [(subject, own)], Texts(documents))
    return bench


def _judged(
    job: SweepJob, point: Point, bench: Bench, *, progress: ProgressBar
) -> tuple[SweepPoint, Table]:
    """Return a point without its comparison, and its per-sequence sums; both are kept in a file."""
    directory = point.directory(job.base.out)
    identity = _identity(bench)
    file = directory / JUDGED_FILE
    cases, sums = _kept(file, identity) or (None, None)
    if cases is None or sums is None:
        cases, sums = _measured(bench, progress=progress)
        content = {"identity": identity, "cases": cases, "sums": sums}
        write_file(file, json.dumps(content, allow_nan=False).encode())
    training = read_training(directory / RECORD_FILE)
    metrics = {name: Ranged(*ends) for name, ends in cases["metrics"].items()}
    made = SweepPoint(
        equal=point.equal,
        hook=point.hook,
        sparsity=str(point.sparsity),
        objective=point.objective.value,
        directory=str(directory.relative_to(job.base.out)),
        tokens=training.course.tokens,
        learning_rate=training.recipe.learning_rate,
        seconds=training.course.duration_s,
        converged=training.course.converged,
        checks=tuple(check.check for check in training.course.checks),
        verdicts=cases["verdicts"],
        metrics=metrics,
    )
    return made, {name: np.array(values) for name, values in sums.items()}


def _identity(bench: Bench) -> str:
    """Return what a kept judgement is valid for."""
    (subject,) = bench.subjects
    data = next(iter(bench.data.values()))
    parts = (subject.weights_sha256, bench.model.weights_sha256, data.fingerprint,
             bench.settings.seed, [name for name, _ in CASES])  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _kept(file: Path, identity: str) -> tuple[Any, Any] | None:
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        found = content["identity"], (content["cases"], content["sums"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file}: cannot be read ({error}); remove it to judge anew") from error
    return found[1] if found[0] == identity else None


def _measured(bench: Bench, *, progress: ProgressBar) -> tuple[Any, Any]:
    (subject,) = bench.subjects
    judge = Judge(bench.settings)
    judge.adopt([bench])
    saes = Requests([Given(subject.id, "host", subject.metadata.hook)])
    judge.announce([saes.request(subject.id, name, params) for name, params in CASES])
    for request in judge.requests:
        judge.case(request, progress=progress)
    metrics = dict(_metrics(judge.cases))
    verdicts = {case.property: case.verdict.value for case in judge.cases}
    return {"metrics": metrics, "verdicts": verdicts}, _sums(judge)


def _metrics(cases: Sequence[CaseResult]) -> Iterator[tuple[str, tuple[float | None, ...]]]:
    reported = {metric.name: metric for case in cases for metric in case.metrics}
    for name, own in METRICS.items():
        if name in reported:
            yield own, _ends(reported[name])
    for name, own in reversed(LOSSES.items()):  # a patched model's come last, and stay
        if name in reported:
            yield own, _ends(reported[name])


def _ends(metric: Metric) -> tuple[float | None, ...]:
    ci = metric.ci
    return (metric.value, None, None) if ci is None else (metric.value, ci.low, ci.high)


def _sums(judge: Judge) -> dict[str, list[float]]:
    """Return KL and tokens of each sequence, against the original model."""
    (measured,) = judge.measured()
    tables = list(measured.tables.values())
    table = next((t for t in tables if "patched.kl" in t), None)
    if table is None:
        table = next(t for t in tables if "sae.kl" in t)
    kept = chosen(table, ("sae.kl", "n.scored"))
    return {name: [float(v) for v in values] for name, values in kept.items()}


def _held(point: Point, judged: SweepPoint, tables: dict[Point, Table]) -> SweepPoint:
    """Return a point with its KL held against the standard SAE's, sequence by sequence."""
    other = replace(point, objective=Objective.STANDARD)
    if point.objective is Objective.STANDARD or other not in tables:
        return judged
    found = estimate(_difference, side_by_side({"own": tables[point], "other": tables[other]}))
    ends = found.interval
    if ends is None or not math.isfinite(ends.low + ends.high):
        return replace(judged, against_standard=Ranged(found.value))
    return replace(judged, against_standard=Ranged(found.value, ends.low, ends.high))


def _difference(sums: Table) -> np.ndarray:
    own, other = (sums[f"{s}/sae.kl"] / sums[f"{s}/n.scored"] for s in ("own", "other"))
    return own - other
