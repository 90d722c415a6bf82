"""``saebench baseline``: what is stored, and whether it is sound."""

import argparse
import sys
from pathlib import Path

from saebench.cli.output import say
from saebench.cli.stored import add_baselines_option, chosen_baselines, shown_path, stored_baseline
from saebench.errors import OptionError, StoreError
from saebench.records.baseline import Baseline, StoredMetric
from saebench.report.tables import (
    Cell,
    Column,
    Kind,
    Row,
    Table,
    interval,
    names,
    number,
    numbers,
    row,
    texts,
)
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
        ("check", "read every baseline; exit 1 if one is damaged, or sums belong to none"),
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
    records = [baseline.record for _, baseline in read_baselines(root)]
    columns = (*names("SAE"), *texts("model"), *names("hook"), *texts("verdicts", "data"))
    title = f"{len(records)} baselines in {shown_path(root)}"
    say(Table("baselines", title, columns, tuple(map(_baseline_row, records))))
    return 0


def _baseline_row(record: Baseline) -> Row:
    verdicts = [case.verdict.value for case in record.cases.values()]
    counted = ", ".join(f"{verdicts.count(v)} {v}" for v in sorted(set(verdicts)))
    data = ", ".join(f"{d.name} ×{d.sequences}" for d in record.datasets[:1])
    return row(record.label, record.model.name, record.sae.hook, counted, data)


def _show(root: Path, options: argparse.Namespace) -> int:
    path = stored_baseline(options.name, root)
    record = load_baseline(path).record
    sae = record.sae
    columns = (
        *(*names("metric"), *numbers("value")),
        Column("95% CI", Kind.INTERVAL),
        *numbers("sequences"),
    )
    rows = tuple(
        row(name, *_numbers(metric))
        for case in record.cases.values()
        for name, metric in case.metrics.items()
    )
    hook = f"{record.model.name} · {sae.hook}"
    about = f"{sae.architecture}, {sae.d_sae} features, {hook}"
    say(Table("baseline", record.label, columns, rows, about=about), shown_path(path))
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
        say(line)
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


def _numbers(metric: StoredMetric) -> tuple[Cell, Cell, Cell]:
    value = number(metric.value, unit=metric.unit, absent="undefined")
    return value, interval(metric.ci), number(metric.sequences, "d")
