"""What the tables cannot say: the data that a run rests on."""

from collections.abc import Iterator

from saebench.report.style import plain_text
from saebench.results import Run


def data_lines(run: Run, *, asked: int = 0) -> Iterator[str]:
    """Give a line for each data set.

    Args:
        run: what was found.
        asked: how many sequences were asked for; fewer are mentioned.
    """
    for data in run.datasets:
        short = data.packing != "prompts" and data.sequences < asked
        fewer = f" (asked for {asked}; the texts hold no more)" if short else ""
        yield plain_text(
            f"{data.name}: {data.sequences} sequences of {data.context} tokens{fewer}, "
            f"seed {run.run.seed}"
        )
