"""A sweep's SAEs judged by the gate, each in its own model: the points of the frontier."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from saebench.data.documents import Documents
from saebench.errors import StoreError
from saebench.experiments.bench import Bench
from saebench.experiments.prepare import benches_of
from saebench.experiments.texts import Texts
from saebench.fit.training.course import RECORD_FILE
from saebench.fit.training.objectives import Objective
from saebench.fit.training.request import Judging, judged_texts, keep_apart, texts_of
from saebench.fit.training.training_job import host_of
from saebench.fit.training.training_sweep import Point, SweepJob, planned, points, train_all
from saebench.judging.cases import Given, Requests
from saebench.judging.judge import Judge
from saebench.options import Overrides, Settings
from saebench.progress import ProgressBar
from saebench.properties.controls import PRIMARY
from saebench.records.repair import Ranged
from saebench.records.run import CaseResult, DatasetRecord, Metric
from saebench.records.sweep import KL, L0, SWEEP_SCHEMA_VERSION, SweepPoint, SweepRecord
from saebench.report.tables.swept import frontier_markdown
from saebench.statistics.bootstrap import Table, estimate
from saebench.statistics.clusters import chosen
from saebench.statistics.paired import of_pair, pair
from saebench.store.atomic import locked, write_file
from saebench.store.environment import environment, harness
from saebench.store.json_files import read_training, write_points, write_sweep
from saebench.subjects.host import Host
from saebench.subjects.host_loading import host_for
from saebench.subjects.loading import load_subject
from saebench.subjects.references import find_subjects

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
    metrics = {name: Ranged.of(*ends) for name, ends in cases["metrics"].items()}
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
    found = estimate(of_pair(_kl, np.subtract), pair(tables[point], tables[other]))
    ends = found.interval
    ci = ends if ends is not None and ends.is_finite else None
    return replace(judged, against_standard=Ranged(found.value, ci))


def _kl(sums: Table) -> np.ndarray:
    return sums["sae.kl"] / sums["n.scored"]


SWEEP_FILE, POINTS_FILE, TABLE_FILE = "sweep.json", "frontier.csv", "frontier.md"
KEPT_APART = 10  # one document in so many, where no judged texts are named


def sweep(
    job: SweepJob, how: Judging, *, progress: ProgressBar, say: Callable[[str], object]
) -> SweepRecord:
    """Train and judge a sweep, and write its JSON, CSV and Markdown into its directory.

    Killed and run again, it goes on where it was.

    Args:
        job: what is trained.
        how: it is judged.
        progress: makes a progress bar.
        say: is told what is trained.

    Raises:
        UsageError: for anything that cannot be done as given.
        NonFiniteValue: where a loss diverged; what was trained before stays.
        StoreError: where a result cannot be written.
    """
    if how.dataset is None and job.base.dataset is not None:
        job = replace(job, base=replace(job.base, keep_apart=KEPT_APART))
    out = job.base.out
    with locked(out):
        host = host_of(job.base)
        judged = judged_texts(how, texts_of(job.base)[1])
        plan = planned(job, say=say)
        most = max(job.init_tokens, *(one.tokens for one in plan.values()))
        keep_apart(replace(job.base, tokens=most), how, host, judged)
        train_all(job, plan, progress=progress, say=say)
        found, judged_on = judge_all(job, how, host, judged, progress=progress)
        first = read_training(next(points(job)).directory(out) / RECORD_FILE)
        record = SweepRecord(
            schema_version=SWEEP_SCHEMA_VERSION,
            harness=harness(),
            env=environment(),
            model=host.record(),
            loss=job.base.loss.value,
            texts=first.course.texts,
            texts_tokens=first.course.texts_tokens,
            init_tokens=job.init_tokens,
            judged_on=judged_on,
            points=found,
        )
        write_sweep(record, out / SWEEP_FILE)
        write_points(record, out / POINTS_FILE)
        write_file(out / TABLE_FILE, frontier_markdown(record).encode())
    return record
