"""A run's outcomes: as a table for the terminal, as JSON, and in perf/README.md."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from perf.agreement import Agreement, Compared
from perf.outcome import FLOOR, Outcome, Row
from perf.settings import Settings
from saebench.store.atomic import replace_file

BEGIN, END = "<!-- perf:begin -->", "<!-- perf:end -->"
HEADINGS = ("saebench", "against", "theirs", "ratio", "target", "")
GIGA = 1e9
QUIET_LOAD = 0.3


@dataclass(frozen=True)
class Report:
    """All outcomes, and what they were measured with.

    Attributes:
        load: the machine's load average of a minute before the run began.
    """

    settings: Settings
    started: str
    load: float
    machine: dict[str, str]
    versions: dict[str, str]
    harness: dict[str, str]
    outcomes: tuple[Outcome, ...]

    @property
    def disagreements(self) -> tuple[Compared, ...]:
        """The numbers that differ and should not."""
        return tuple(c for outcome in self.outcomes for c in outcome.disagreements)

    @property
    def _place(self) -> str:
        if self.settings.device == "cuda":
            return f"{self.machine['gpu']}, fp32 throughout"
        return f"{self.machine['cpu']}; {self.settings.threads} threads"

    @property
    def heading(self) -> str:
        """The machine and the settings, in a line."""
        versions = ", ".join(f"{k} {self.versions[k]}" for k in ("torch", "sae-lens"))
        time = "processor time" if self.settings.clock == "cpu" else "wall time"
        return (
            f"{self._place}; {versions}; size "
            f"{self.settings.size}; {time}, {self.settings.statistic} of "
            f"{self.settings.repeats} calls; "
            f"saebench {self.harness['git']}; {self.started[:10]}"
        )


def as_json(report: Report) -> str:
    """Return the whole report, and the sizes that it was measured at, as strict JSON."""
    content = {"sizes": asdict(report.settings.sizes)} | asdict(report)
    return json.dumps(content, indent=1, allow_nan=False, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Agreement):
        return value.value
    raise TypeError(f"{type(value).__name__} is not JSON")


def tables(report: Report) -> Group:
    """Return a table of ratios for each case, and below them what must be read with them."""
    found = [_table(outcome) for outcome in report.outcomes]
    return Group(Text(report.heading), *found, *(Text(line) for line in remarks(report)))


def _table(outcome: Outcome) -> Table:
    table = Table(title=outcome.title, title_justify="left", min_width=80)
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in ("against", "") else "right")
    for row in outcome.rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> tuple[str, ...]:
    met = {None: "", True: "met", False: "MISSED"}[row.met]
    ours, theirs = (f"{v:.3g} {row.unit}" for v in (row.ours, row.theirs))
    return ours, row.against, theirs, f"{row.ratio:.2f}×", row.target, met


def remarks(report: Report) -> list[str]:
    """Return the run's remarks: machine's rate, agreement, what was left out."""
    lines = [line for outcome in report.outcomes for line in _floor_lines(outcome)]
    for outcome in report.outcomes:
        lines += _agreement_lines(outcome)
        lines += [f"{outcome.case}: {name}: {why}" for name, why in outcome.left_out.items()]
    if report.load > QUIET_LOAD:
        lines.append(
            f"The machine was busy before the run began (load average {report.load:.1f}): "
            "others' work is in these times."
        )
    if not report.settings.judges:
        lines.append(
            "Targets are stated for GPT-2 size, 2 threads and wall time: not judged in this run."
        )
    return lines


def _floor_lines(outcome: Outcome) -> list[str]:
    if outcome.flops is None:
        return []
    [floor] = [row.theirs for row in outcome.rows if row.against == FLOOR]
    rate = outcome.flops / floor / GIGA
    said = (
        f"{outcome.case}: {outcome.flops / GIGA:.4g} GFLOP of matrix products at "
        f"{rate:.4g} GFLOP/s, measured between the calls: a floor of {floor:.3g} s"
    )
    most = [f"{r.against} {r.theirs / floor:.2f}×" for r in outcome.rows if r.against != FLOOR]
    return [said, *([f"  at the floor the ratios would be: {'; '.join(most)}"] if most else [])]


def _agreement_lines(outcome: Outcome) -> list[str]:
    lines = []
    for peer in dict.fromkeys(c.peer for c in outcome.compared):
        mine = [c for c in outcome.compared if c.peer == peer]
        counts = {v: sum(c.verdict is v for c in mine) for v in Agreement}
        said = ", ".join(f"{n} {v.value}" for v, n in counts.items() if n)
        lines.append(f"{outcome.case}: numbers of {peer}: {said}")
        for note in dict.fromkeys(c.note for c in mine if c.note):
            about = dict.fromkeys(_intervention(c) for c in mine if c.note == note)
            lines.append(f"  {', '.join(about)}: {note}")
        lines += [
            f"  {c.quantity}: DIFFERS, ours {c.ours}, theirs {c.theirs}"
            for c in mine
            if c.verdict is Agreement.DIFFERS
        ]
    return lines


def _intervention(compared: Compared) -> str:
    """Name what was done to the model, so that one remark serves KL, CE and all SAEs."""
    return compared.quantity.rpartition("/")[2].partition(".")[2]


def markdown(report: Report) -> str:
    """Return the table and the remarks for the README."""
    lines = [report.heading, "", *_markdown_row(HEADINGS), *_markdown_rule()]
    for outcome in report.outcomes:
        lines += _markdown_row((f"**{outcome.title}**", *[""] * (len(HEADINGS) - 1)))
        for row in outcome.rows:
            lines += _markdown_row(_cells(row))
    return "\n".join([*lines, "", *(f"- {line.strip()}" for line in remarks(report))])


def _markdown_row(cells: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(cells) + " |"]


def _markdown_rule() -> list[str]:
    return ["|" + "---|" * len(HEADINGS)]


def write_readme(report: Report, path: Path) -> None:
    """Put the report between the README's two markers.

    Raises:
        ValueError: where the markers are not there, once each and in order.
    """
    text = path.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise ValueError(f"{path}: expected one {BEGIN} … {END}, to put the table between")
    block = f"{BEGIN}\n{markdown(report)}\n{END}"
    replace_file(path, pattern.sub(lambda _: block, text).encode())
