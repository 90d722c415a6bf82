"""The leaderboard: the stored baselines on boards, one for each set of equal tokens.

It is derived from the baselines alone, without a time or a machine's name: the same baselines give
the same bytes, so that building it again shows whether a file is stale.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from saebench.errors import StoreError
from saebench.records.baseline import StoredBaseline, StoredCase
from saebench.records.boards import (
    LEADERBOARD,
    Board,
    BoardData,
    BoardModel,
    Facts,
    Leaderboard,
    Row,
    Score,
)
from saebench.records.case_result import Basis
from saebench.records.published import PUBLISHED_FIGURES, Published
from saebench.records.ranking import fronts
from saebench.store.atomic import write_file
from saebench.store.baselines import load_baseline
from saebench.store.json_files import HALVES, content_of, read_record

FILE = "leaderboard.json"
PUBLISHED = "published"  # the directory of published figures, among the baselines
_MARK = re.compile(r'"\\u0000\d+"')


def read_baselines(root: Path) -> list[tuple[Path, StoredBaseline]]:
    """Return every stored baseline under a directory with its path, in the order of the paths.

    Raises:
        StoreError: for a directory that cannot be read, a damaged baseline, or two of one SAE.
    """
    if not root.is_dir():
        raise StoreError(f"{root}: no such directory; --sae-update-baselines writes baselines")
    baselines: list[tuple[Path, StoredBaseline]] = []
    first_of: dict[tuple[str, ...], Path] = {}
    for path in baseline_paths(root):
        baseline = load_baseline(path)
        sae, model = baseline.record.sae, baseline.record.model
        key = (sae.weights_sha256, sae.config_sha256, sae.hook, model.weights_sha256, model.dtype)
        first = first_of.setdefault(key, path)
        if first != path:
            raise StoreError(
                f"{first} and {path} are both of the SAE {sae.weights_sha256[:8]}; remove one: "
                "saebench baseline rm PATH"
            )
        baselines.append((path, baseline))
    return baselines


def baseline_paths(root: Path) -> list[Path]:
    """Return the paths of all baselines under a directory: ``<model>/<hook>/<sae>@<sha8>.json``."""
    paths = sorted(root.glob("*/*/*.json"))
    return [path for path in paths if path.relative_to(root).parts[0] != PUBLISHED]


def build(root: Path, facts: Mapping[str, Facts]) -> Leaderboard:
    """Return the leaderboard of the baselines under a directory.

    Args:
        root: the baselines directory.
        facts: unit and direction of every known metric: baselines do not store them.

    Raises:
        StoreError: for baselines that cannot be read.
    """
    rows: dict[tuple[Basis, str], list[Row]] = {}
    empty: dict[tuple[Basis, str], Board] = {}
    for path, baseline in read_baselines(root):
        for basis, cases in _by_basis(baseline, path).items():
            key = (basis, baseline.record.sae.hook)
            empty.setdefault(key, _empty_board(baseline, basis))
            rows.setdefault(key, []).append(_row(baseline, cases))
    boards = [_filled(empty[key], own, facts) for key, own in rows.items()]
    boards.sort(key=_order)
    return Leaderboard(LEADERBOARD.version, tuple(boards), read_published(root))


def dump_leaderboard(leaderboard: Leaderboard) -> bytes:
    """Return the leaderboard file's content: strict JSON, one line for each SAE of a board."""
    content = content_of(leaderboard)
    lines: dict[str, str] = {}
    for board in content["boards"]:
        board["rows"] = [_marked(row, lines) for row in board["rows"]]
    text = json.dumps(content, allow_nan=False, indent=1, ensure_ascii=False)
    laid_out = _MARK.sub(lambda match: lines[match[0]], text)
    return (laid_out + "\n").encode(errors=HALVES)


def _marked(row: dict[str, Any], lines: dict[str, str]) -> str:
    """Store a row's line; return the mark that takes its place until the rest is laid out."""
    mark = f"\0{len(lines)}"  # no name holds it
    lines[json.dumps(mark)] = json.dumps(row, allow_nan=False, ensure_ascii=False)
    return mark


def write_leaderboard(leaderboard: Leaderboard, path: Path) -> None:
    """Write the leaderboard, replacing an older one in one step.

    Raises:
        StoreError: where it cannot be written; an older file is left as it was.
    """
    write_file(path, dump_leaderboard(leaderboard))


def read_leaderboard(path: Path) -> Leaderboard:
    """Read a leaderboard file.

    Raises:
        StoreError: where it is missing, no leaderboard, or of another schema version.
    """
    if not path.exists():
        raise StoreError(f"{path}: no such file; {LEADERBOARD.hint}")
    return read_record(LEADERBOARD, path)


def read_published(root: Path) -> tuple[Published, ...]:
    """Return the published figures among the baselines, in the order of their files.

    Raises:
        StoreError: naming the file that cannot be read.
    """
    paths = sorted((root / PUBLISHED).glob("*.json"))
    return tuple(read_record(PUBLISHED_FIGURES, path) for path in paths)


def _by_basis(baseline: StoredBaseline, path: Path) -> dict[Basis, dict[str, StoredCase]]:
    """Return a baseline's cases by tokens and seed, under their names without the SAE's."""
    cases: dict[Basis, dict[str, StoredCase]] = {}
    for id, case in baseline.record.cases.items():
        name = id.removesuffix(f"@{baseline.record.sae.id}")
        cases.setdefault(basis_of(case, baseline, path), {})[name] = case
    return cases


def basis_of(case: StoredCase, baseline: StoredBaseline, path: Path) -> Basis:
    """Return the model, tokens and seed of a baseline's case.

    Raises:
        StoreError: where it does not say, naming the file.
    """
    basis = baseline.record.basis_of(case)
    if basis is None:
        raise StoreError(
            f"{path}: it does not say which tokens it was measured on; measure it again"
        )
    return basis


def _empty_board(baseline: StoredBaseline, basis: Basis) -> Board:
    sae, model = baseline.record.sae, baseline.record.model
    data = next(d for d in baseline.record.datasets if d.fingerprint == basis.dataset)
    return Board(
        BoardModel(model.name, model.weights_sha256, model.dtype), sae.hook,
        BoardData(
            data.name, data.split, data.fingerprint, data.sequences, data.context, data.packing
        ),
        basis.seed, metrics={}, rows=(),
    )  # fmt: skip


def _row(baseline: StoredBaseline, cases: Mapping[str, StoredCase]) -> Row:
    sae, ordered = baseline.record.sae, sorted(cases.items())
    return Row(
        sae.id, sae.weights_sha256, sae.config_sha256, sae.architecture, sae.d_sae,
        sae.training_context,
        verdicts={name: case.verdict.value for name, case in ordered},
        scores={
            name: {metric: Score.of(stored) for metric, stored in sorted(case.metrics.items())}
            for name, case in ordered
        },
    )  # fmt: skip


def _filled(board: Board, rows: Iterable[Row], facts: Mapping[str, Facts]) -> Board:
    ordered = tuple(sorted(rows, key=lambda row: (row.sae, row.key)))
    names = sorted({name for row in ordered for scores in row.scores.values() for name in scores})
    metrics = {name: facts.get(name, Facts("", None)) for name in names}
    board = replace(board, metrics=metrics, rows=ordered)
    on = fronts(board)
    with_fronts = (
        replace(row, fronts=tuple(metric for metric, keys in on.items() if row.key in keys))
        for row in ordered
    )
    return replace(board, rows=tuple(with_fronts))


def _order(board: Board) -> tuple[Any, ...]:
    """Sort by model and hook; ordinary sequences before long ones, prompts last."""
    data = board.dataset
    prompts = data.packing == "prompts"
    return (board.place, prompts, data.context, data.fingerprint, board.seed, board.model.dtype)


def remove_baseline(path: Path) -> None:
    """Remove a baseline and its sums: the JSON first, so that a crash leaves no half baseline.

    Raises:
        StoreError: where the file cannot be removed.
    """
    try:
        path.unlink()
        for sums in path.parent.glob(f"{path.stem}.*.npz"):
            sums.unlink()
    except OSError as error:
        raise StoreError(
            f"{error.filename or path}: cannot be removed: {error.strerror}"
        ) from error
    _remove_empty(path.parent)


def orphans(root: Path) -> list[Path]:
    """Return files of per-sequence sums that no baseline names."""
    named = {path.parent / _sums_of(path) for path in baseline_paths(root)}
    return sorted(path for path in root.glob("*/*/*.npz") if path not in named)


def _sums_of(path: Path) -> str:
    """Return the name of a baseline's sums; of a file that does not say, a name that is none."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["arrays"]["file"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def _remove_empty(directory: Path) -> None:
    """Remove the hook's and the model's directories where nothing is left in them."""
    for each in (directory, directory.parent):
        if not any(each.iterdir()):
            each.rmdir()
