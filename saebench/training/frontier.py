"""A sweep from beginning to end: train what is missing, judge it, write the frontier."""

from collections.abc import Callable
from dataclasses import replace

from saebench.judging.progress import ProgressBar
from saebench.report.frontier_markdown import frontier_markdown
from saebench.store.atomic import locked, write_file
from saebench.store.environment import environment, harness
from saebench.store.sweep_file import write_points, write_sweep
from saebench.store.training_file import read_training
from saebench.sweeps import SWEEP_SCHEMA_VERSION, SweepRecord
from saebench.training.job import host_of
from saebench.training.judgement import judge_all
from saebench.training.saving import RECORD_FILE
from saebench.training.sweep import SweepJob, planned, points, train_all
from saebench.training.texts import Judging, judged_texts, keep_apart, texts_of

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
