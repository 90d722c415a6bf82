"""The frontier of a sweep: its SAEs trained, each judged in its own model, and compared."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from saebench.data.documents import Documents
from saebench.errors import StoreError
from saebench.experiments.bench import Bench
from saebench.experiments.prepare import benches_of
from saebench.experiments.texts import Texts
from saebench.fit.saving import load_saved
from saebench.fit.training import Judging, Objective
from saebench.fit.training.training_inputs import host_of, judged_texts, refuse_judging_on_training
from saebench.fit.training.training_run import RECORD_FILE, Say
from saebench.fit.training.training_sweep import Point, SweepJob, planned, points, train_all
from saebench.judging.in_process import judge_in_process, requests_of
from saebench.judging.judge import Judge
from saebench.options import Settings
from saebench.progress import ProgressBar
from saebench.properties.controls import PRIMARY
from saebench.records.case_result import CaseResult
from saebench.records.inputs import DatasetRecord
from saebench.records.metric import Metric
from saebench.records.repair import Ranged
from saebench.records.sweep import KL, L0, SWEEP_SCHEMA_VERSION, SweepPoint, SweepRecord
from saebench.report.tables.fit_tables import frontier_markdown
from saebench.statistics.bootstrap import Table, estimate
from saebench.statistics.clusters import chosen
from saebench.statistics.paired import of_pair, pair
from saebench.store.atomic import locked, write_file
from saebench.store.environment import environment, harness
from saebench.store.json_files import read_training, write_points, write_record
from saebench.subjects.host import Host
from saebench.subjects.host_loading import host_for

JUDGED_FILE, SWEEP_FILE = "judged.json", "sweep.json"
POINTS_FILE, TABLE_FILE = "frontier.csv", "frontier.md"
HOLDOUT_EVERY = 10  # one document in so many is judged on, where no judged texts are named
CASES = (("fidelity", {}), ("shrinkage", {}), ("sparsity", {}), ("kl_gap", {"scope": "all"}),
         ("controls", {}), ("tax", {}))  # fmt: skip
INTERVENTIONS = ("eps_random",)
# The name of each metric in a point of the frontier.
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
# The loss of the model with the SAE against the original: of a patched model, and of others.
LOSSES = {
    "tax.kl_with_sae": KL,
    "tax.ce_increase_with_sae": "ce_increase",
    "fidelity.kl": KL,
    "fidelity.ce_increase": "ce_increase",
}


def sweep(job: SweepJob, how: Judging, *, progress: ProgressBar, say: Say) -> SweepRecord:
    """Train and judge a sweep, and write its JSON, CSV and Markdown into its directory.

    Interrupted and run again, it goes on from there.

    Args:
        job: the sweep.
        how: its SAEs are judged.
        progress: makes a progress bar.
        say: called with the directory of each training.

    Raises:
        UsageError: for anything that cannot be done as given.
        NonFiniteValue: where a loss diverged; earlier trainings stay.
        StoreError: where a result cannot be written.
    """
    if how.dataset is None and job.base.dataset is not None:
        job = replace(job, base=replace(job.base, holdout_every=HOLDOUT_EVERY))
    out = job.base.out
    with locked(out):
        host = host_of(job.base)
        judged = judged_texts(how, job.base)
        plan = planned(job, say=say)
        most = max(job.init_tokens, *(one.tokens for one in plan.values()))
        refuse_judging_on_training(replace(job.base, tokens=most), how, host, judged)
        train_all(job, plan, progress=progress, say=say)
        judged_points, judged_on = _judge_all(job, how, host, judged, progress=progress)
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
            points=judged_points,
        )
        write_record(record, out / SWEEP_FILE)
        write_points(record, out / POINTS_FILE)
        write_file(out / TABLE_FILE, frontier_markdown(record).encode())
    return record


def _judge_all(
    job: SweepJob, how: Judging, host: Host, documents: Documents, *, progress: ProgressBar
) -> tuple[tuple[SweepPoint, ...], DatasetRecord]:
    """Judge every point, and compare each with the standard SAE of its hook and sparsity."""
    results, tables, data = {}, {}, None
    for point in points(job):
        bench = _bench(job, how, host, documents, point.directory(job.base.out))
        data = next(iter(bench.data.values()))
        results[point], tables[point] = _judged(job, point, bench, progress=progress)
    assert data is not None
    compared = (_against_standard(point, result, tables) for point, result in results.items())
    return tuple(compared), data


def _bench(job: SweepJob, how: Judging, host: Host, documents: Documents, directory: Path) -> Bench:
    subject = load_saved(directory, device=host.device)
    settings = Settings(
        sequences=how.sequences, seed=job.base.seed, device=job.base.device, dtype=job.base.dtype,
        interventions=INTERVENTIONS, packing=how.packing,
    )  # fmt: skip
    (bench,) = benches_of(settings, [(subject, host_for(host, directory))], Texts(documents))
    return bench


def _judged(
    job: SweepJob, point: Point, bench: Bench, *, progress: ProgressBar
) -> tuple[SweepPoint, Table]:
    """Return a point without its comparison, and its per-sequence sums; a file stores both."""
    directory = point.directory(job.base.out)
    file, identity = directory / JUDGED_FILE, _identity(bench)
    cases, sums = _stored(file, identity) or (None, None)
    if cases is None or sums is None:
        cases, sums = _measured(bench, progress=progress)
        content = {"identity": identity, "cases": cases, "sums": sums}
        write_file(file, json.dumps(content, allow_nan=False).encode())
    training = read_training(directory / RECORD_FILE)
    judged = SweepPoint(
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
        metrics={name: Ranged.of(*ends) for name, ends in cases["metrics"].items()},
    )
    return judged, {name: np.array(values) for name, values in sums.items()}


def _identity(bench: Bench) -> str:
    """Return a hash of everything that a stored judgement depends on."""
    (subject,) = bench.subjects
    data = next(iter(bench.data.values()))
    parts = (subject.weights_sha256, bench.model.weights_sha256, data.fingerprint,
             bench.settings.seed, [name for name, _ in CASES])  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _stored(file: Path, identity: str) -> tuple[Any, Any] | None:
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        stored, judgement = content["identity"], (content["cases"], content["sums"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file}: cannot be read ({error}); remove it to judge anew") from error
    return judgement if stored == identity else None


def _measured(bench: Bench, *, progress: ProgressBar) -> tuple[Any, Any]:
    (subject,) = bench.subjects
    judge, saes = Judge(bench.settings), requests_of([bench])
    requests = [saes.request(subject.id, name, params) for name, params in CASES]
    run = judge_in_process(judge, [bench], requests, progress=progress)
    metrics = dict(_metrics(run.cases))
    verdicts = {case.property: case.verdict.value for case in run.cases}
    return {"metrics": metrics, "verdicts": verdicts}, _sums(judge)


def _metrics(cases: Sequence[CaseResult]) -> Iterator[tuple[str, tuple[float | None, ...]]]:
    reported = {metric.name: metric for case in cases for metric in case.metrics}
    for name, own in METRICS.items():
        if name in reported:
            yield own, _ends(reported[name])
    for name, own in reversed(LOSSES.items()):  # a patched model's come last, and overwrite
        if name in reported:
            yield own, _ends(reported[name])


def _ends(metric: Metric) -> tuple[float | None, ...]:
    ci = metric.ci
    return (metric.value, None, None) if ci is None else (metric.value, ci.low, ci.high)


def _sums(judge: Judge) -> dict[str, list[float]]:
    """Return each sequence's KL against the original model, and its tokens."""
    (measured,) = judge.measured()
    tables = list(measured.tables.values())
    table = next((t for t in tables if "patched.kl" in t), None)
    if table is None:
        table = next(t for t in tables if "sae.kl" in t)
    sums = chosen(table, ("sae.kl", "n.scored"))
    return {name: [float(v) for v in values] for name, values in sums.items()}


def _against_standard(point: Point, judged: SweepPoint, tables: dict[Point, Table]) -> SweepPoint:
    """Return a point with its KL less the standard SAE's, paired over sequences."""
    other = replace(point, objective=Objective.STANDARD)
    if point.objective is Objective.STANDARD or other not in tables:
        return judged
    result = estimate(of_pair(_kl, np.subtract), pair(tables[point], tables[other]))
    ends = result.interval
    ci = ends if ends is not None and ends.is_finite else None
    return replace(judged, against_standard=Ranged(result.value, ci))


def _kl(sums: Table) -> np.ndarray:
    return sums["sae.kl"] / sums["n.scored"]
