"""The laboratory's own summary of a run."""

from saebench.records.run import Run


def verdict_lines(run: Run) -> str:
    return "".join(f"{case.id}: {case.verdict.value}\n" for case in run.cases)
