"""A run in the terminal: one table for each SAE, the worst first, and what is said in words."""

from collections import Counter
from collections.abc import Iterator
from io import StringIO

from rich.console import Console, Group

from saebench import options
from saebench.records.inputs import DatasetRecord
from saebench.records.run import Run
from saebench.records.verdict import SEVERITY, Verdict
from saebench.report.style import Plain, plain_text, reading_series
from saebench.report.tables import Table
from saebench.report.tables.rich_tables import rich_table
from saebench.report.tables.run_tables import in_words, pairs_table, sae_table, tokens_table


class _Memory(StringIO):
    """A file in memory, with the encoding of the terminal, which rich asks it for."""

    encoding = "utf-8"


def render(run: Run, *, width: int = 100, colour: bool = False, encoding: str = "utf-8") -> str:
    """Return the run's tables as text.

    Args:
        run: the run.
        width: of the terminal.
        colour: with escape sequences for colours.
        encoding: of the terminal; lines are drawn in ASCII where it is none of Unicode's.
    """
    memory = _Memory()
    memory.encoding = encoding
    console = Console(
        file=memory,
        width=width,
        force_terminal=colour,
        no_color=not colour,
        legacy_windows=False,
    )
    with console.capture() as captured:
        console.print(Plain(tables(run, width=width)))
    return captured.get()


def tables(run: Run, *, width: int = 100) -> Group:
    """Return one table for each judged SAE, the worst first, then pairs and hardest tokens."""
    saes = sorted((s.id for s in run.judged), key=lambda sae: -SEVERITY[run.verdict_of(sae)])
    every = [sae_table(run, sae) for sae in saes]
    with reading_series("the tables"):
        every += _after_the_saes(run)
    return Group(*(rich_table(table, width=width) for table in every))


def _after_the_saes(run: Run) -> Iterator[Table]:
    """Yield the table of pairs, and where hard_tokens was judged alone each SAE's hardest tokens.

    Next to other properties twenty rows an SAE would bury the verdicts; pages have them.
    """
    if pairs := pairs_table(run):
        yield pairs
    if {case.property for case in run.cases} == {"hard_tokens"}:
        for case in run.cases:
            if case.series.get("tokens"):
                yield tokens_table([case], title=f"{case.sae}: hardest tokens").without("SAE")


HOW_TO_COMPLETE = (
    "this decides no release: judge them too (no -k, --deselect or Ctrl-C), or say "
    "--sae-allow-partial to look at a part with exit code 0"
)


def unjudged_line(run: Run) -> str:
    """Say which deciding cases were left out, by SAE; empty where none was.

    Example::

        not judged: advantage, fidelity, kl_gap (2 cases) of l2-topk
    """
    if run.run.unjudged is None:
        return "an older version wrote this, which did not record what was left out"
    by_sae: dict[str, Counter[str]] = {}
    for each in run.run.unjudged:
        by_sae.setdefault(each.sae, Counter())[each.property] += 1
    about: dict[str, list[str]] = {}
    for sae, counts in by_sae.items():
        about.setdefault(in_words(counts), []).append(sae)
    parts = (f"{what} of {', '.join(saes)}" for what, saes in about.items())
    return plain_text(f"not judged: {'; '.join(parts)}") if about else ""


def sentences(run: Run, *verdicts: Verdict) -> Iterator[str]:
    """Yield the reason of each case that came to one of the verdicts, the worst first."""
    for case in run.worst_first():
        if case.verdict in verdicts:
            yield plain_text(f"{case.verdict} {case.id}: {case.reason}")


def remarks(run: Run) -> Iterator[str]:
    """Yield what properties say in words, each sentence once, with the SAEs that it is about."""
    about: dict[tuple[str, str], list[str]] = {}
    for case in run.cases:
        with reading_series(case.id):
            for sentence in case.series.get("sentences", ()):
                about.setdefault((case.property, sentence), []).append(case.sae)
    for (name, sentence), saes in about.items():
        yield plain_text(f"{name}: {sentence} ({', '.join(saes)})")


def data_lines(run: Run, *, asked: int = 0) -> Iterator[str]:
    """Yield a line for each data set.

    Args:
        run: the run.
        asked: how many sequences were asked for; fewer are mentioned.
    """
    for data in run.datasets:
        short = data.packing != "prompts" and data.sequences < asked
        fewer = f" (asked for {asked}; the texts hold no more)" if short else ""
        yield plain_text(
            f"{data.name}: {data.sequences} sequences of {data.context} tokens"
            f"{_independent(data)}{fewer}, seed {run.run.seed}"
        )
    if lowered := lowered_minimum(run):
        yield lowered


def lowered_minimum(run: Run) -> str | None:
    """Return the note that fewer independent documents decided than by default, else None."""
    least = run.run.least_documents
    if least is None or least >= options.LEAST_DOCUMENTS:
        return None
    return (
        f"NOTE: {least} independent documents decide here (--sae-min-documents), where "
        f"{options.LEAST_DOCUMENTS} do by default: a verdict on fewer says little"
    )


def _independent(data: DatasetRecord) -> str:
    """Say how many independent documents there are, where some sequences are of one."""
    if data.independent is None or data.independent == data.sequences:
        return ""
    return (
        f", {data.independent} independent documents: {data.sequences - data.independent} repeat "
        "or nearly repeat others, or are of their document"
    )
