"""``saebench baseline``: what is stored, and whether it is sound."""

import argparse
import sys
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from saebench.cli.output import say
from saebench.cli.stored import add_baselines_option, chosen_baselines, shown_path, stored_baseline
from saebench.errors import OptionError, StoreError
from saebench.records.baseline import StoredMetric
from saebench.report.style import plain_text
from saebench.store.baselines import load_baseline
from saebench.store.environment import is_shipped
from saebench.store.leaderboard import (
    FILE,
    baseline_paths,
    orphans,
    read_baselines,
    remove_baseline,
)

EXAMPLES = """
    saebench run --sae PATH --sae-dataset FILE --sae-update-baselines    store, or store anew
    saebench baseline list
    saebench baseline show l2-topk
    saebench baseline show baselines/gpt2/blocks.8.hook_resid_pre/mine@0123abcd.json
    saebench baseline check            in CI: 1 where one is damaged or left over
    saebench baseline rm l2-topk --yes
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|check|rm")
    for name, about in (
        ("list", "print every stored baseline"),
        ("show", "print one baseline's metrics"),
        ("check", "read every baseline; exit 1 if one is damaged, or sums are left over"),
        ("rm", "remove one baseline and its per-sequence sums"),
    ):
        action = actions.add_parser(name, help=about, description=about)
        if name in ("show", "rm"):
            action.add_argument("name", metavar="NAME", help="an SAE's id, id@sha, or a file")
        add_baselines_option(action)
    actions.choices["rm"].add_argument("--yes", action="store_true", help="do not ask")


def execute(options: argparse.Namespace) -> int:
    """List, show, check or remove."""
    root = chosen_baselines(options)
    return {"list": _list, "show": _show, "check": _check, "rm": _remove}[options.action](
        root, options
    )


def _list(root: Path, options: argparse.Namespace) -> int:  # noqa: ARG001
    found = [baseline.record for _, baseline in read_baselines(root)]
    table = _table(f"{len(found)} baselines in {shown_path(root)}")
    longest = max((len(record.label) for record in found), default=0)
    table.add_column("SAE", overflow="fold", min_width=min(24, longest))
    for name in ("model", "hook", "verdicts", "data"):
        table.add_column(name, overflow="fold")
    for record in found:
        verdicts = [case.verdict.value for case in record.cases.values()]
        counted = ", ".join(f"{verdicts.count(v)} {v}" for v in sorted(set(verdicts)))
        data = ", ".join(f"{d.name} ×{d.sequences}" for d in record.datasets[:1])
        cells = (record.label, record.model.name, record.sae.hook, counted, data)
        table.add_row(*(Text(plain_text(text)) for text in cells))
    say(table)
    return 0


def _show(root: Path, options: argparse.Namespace) -> int:
    path = stored_baseline(options.name, root)
    record = load_baseline(path).record
    sae = record.sae
    table = _table(
        f"{record.label}  {sae.architecture}, {sae.d_sae} features, "
        f"{record.model.name} · {sae.hook}"
    )
    for name in ("metric", "value", "95% CI", "sequences"):
        table.add_column(name, justify="left" if name in ("metric", "95% CI") else "right",
                         overflow="fold", no_wrap=name == "95% CI")  # fmt: skip
    for case in record.cases.values():
        for name, metric in case.metrics.items():
            table.add_row(Text(plain_text(name)), *map(plain_text, _numbers(metric)))
    say(table, shown_path(path))
    return 0


def _check(root: Path, options: argparse.Namespace) -> int:  # noqa: ARG001
    wrong = []
    for path in baseline_paths(root):
        try:
            load_baseline(path)
        except StoreError as error:
            wrong.append(str(error))
    if not wrong:
        try:
            read_baselines(root)
        except StoreError as error:
            wrong.append(str(error))
    wrong += [f"{path}: sums of no baseline; remove the file" for path in orphans(root)]
    for line in wrong:
        say(plain_text(line))
    sound = f"{len(baseline_paths(root))} baselines in {shown_path(root)} are sound"
    say(f"{len(wrong)} problems" if wrong else sound)
    return 1 if wrong else 0


def _remove(root: Path, options: argparse.Namespace) -> int:
    path = stored_baseline(options.name, root)
    if is_shipped(path):
        raise OptionError(f"{path}: it belongs to the installed package; nothing was removed")
    if not options.yes and not _agreed(path):
        say("nothing was removed")
        return 1
    remove_baseline(path)
    stale = "; then: saebench leaderboard build" if (root / FILE).is_file() else ""
    say(f"removed {shown_path(path)}{stale}")
    return 0


def _agreed(path: Path) -> bool:
    """Ask, where there is someone to ask.

    Raises:
        OptionError: where there is not.
    """
    if not sys.stdin.isatty():
        raise OptionError(f"{path}: to remove it without being asked, pass --yes")
    sys.stdout.write(f"remove {shown_path(path)} and its per-sequence sums? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _numbers(metric: StoredMetric) -> tuple[str, str, str]:
    value = "undefined" if metric.value is None else f"{metric.value:.4g} {metric.unit}".strip()
    return value, metric.ci.text() if metric.ci else "", str(metric.sequences)


def _table(title: str) -> Table:
    return Table(
        title=Text(plain_text(title), style="bold not italic"), title_justify="left",
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False,
    )  # fmt: skip
