"""The leaderboard: stored baselines side by side, on one board where they rest on equal tokens.

Derived from the baselines alone, without a time or a machine's name: the same baselines give the
same bytes, so that a stale file is seen by building it again.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from saebench.errors import StoreError
from saebench.records.boards import (
    Board,
    BoardData,
    BoardModel,
    Facts,
    Leaderboard,
    Row,
    Score,
)
from saebench.records.published import Published
from saebench.records.ranking import fronts
from saebench.store.atomic import write_file
from saebench.store.baseline_checks import read_checked_baseline
from saebench.store.json_files import HALVES, loads, read_json, validated

SCHEMA_VERSION = 1
FILE = "leaderboard.json"
LONGEST_SEED = 20  # digits: of a 64-bit number
_MARK = re.compile(r'"\\u0000\d+"')
MISSING = "saebench leaderboard build makes it of the baselines"


def read_baselines(root: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return every stored baseline under a directory with its path, in the order of the paths.

    Raises:
        StoreError: for a directory that cannot be read, a damaged baseline, or two that claim
            the same SAE.
    """
    if not root.is_dir():
        raise StoreError(f"{root}: no such directory; --sae-update-baselines writes baselines")
    found: list[tuple[Path, dict[str, Any]]] = []
    claimed: dict[tuple[str, ...], Path] = {}
    for path in baseline_paths(root):
        content = read_checked_baseline(path)
        sae, model = content["sae"], content["model"]
        claim = (sae["weights_sha256"], sae["config_sha256"], sae["hook"], model["weights_sha256"])
        first = claimed.setdefault((*claim, model["dtype"]), path)
        if first != path:
            raise StoreError(
                f"{first} and {path} are both of the SAE {sae['weights_sha256'][:8]}; remove one: "
                "saebench baseline rm PATH"
            )
        found.append((path, content))
    return found


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
    boards: dict[tuple[Any, ...], list[Row]] = {}
    heads: dict[tuple[Any, ...], dict[str, Any]] = {}
    for path, content in read_baselines(root):
        for (fingerprint, seed), cases in _by_basis(content, path).items():
            model, hook = content["model"], content["sae"]["hook"]
            key = (model["weights_sha256"], model["dtype"], hook, fingerprint, seed)
            heads.setdefault(key, _head(content, fingerprint, seed))
            boards.setdefault(key, []).append(_row(content["sae"], cases))
    made = [_board(heads[key], rows, facts) for key, rows in boards.items()]
    made.sort(key=_order)
    return Leaderboard(SCHEMA_VERSION, tuple(made), read_published(root))


def dump_leaderboard(leaderboard: Leaderboard) -> bytes:
    """Return the leaderboard file's content: strict JSON, one line for each SAE of a board."""
    content = asdict(leaderboard)
    lines: dict[str, str] = {}
    for board in content["boards"]:
        board["rows"] = [_marked(row, lines) for row in board["rows"]]
    text = json.dumps(content, allow_nan=False, indent=1, ensure_ascii=False)
    whole = _MARK.sub(lambda found: lines[found[0]], text)
    return (whole + "\n").encode(errors=HALVES)


def _marked(row: dict[str, Any], lines: dict[str, str]) -> str:
    """Put a row's text away; return what stands for it until the rest is laid out."""
    mark = f"\0{len(lines)}"  # no name holds it
    lines[json.dumps(mark)] = json.dumps(row, allow_nan=False, ensure_ascii=False)
    return mark


def write_leaderboard(leaderboard: Leaderboard, path: Path) -> None:
    """Write the leaderboard whole.

    Raises:
        StoreError: where it cannot be written; an older file is left as it was.
    """
    write_file(path, dump_leaderboard(leaderboard))


def read_leaderboard(path: Path) -> Leaderboard:
    """Read a leaderboard file.

    Raises:
        StoreError: where it is missing, no leaderboard, or of another schema version.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        content = loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no such file; {MISSING}") from error
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise StoreError(f"{path}: not valid JSON: {error}; {MISSING}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{path}: schema_version is {version}, this saebench reads {SCHEMA_VERSION}; {MISSING}"
        )
    try:
        found = TypeAdapter(Leaderboard).validate_python(content)
        dump_leaderboard(found)  # pydantic makes infinity of "1e999"
        return found
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StoreError(f"{path}: no leaderboard: {place}: {first['msg']}; {MISSING}") from error
    except ValueError as error:
        raise StoreError(f"{path}: no leaderboard: {error}; {MISSING}") from error


def leaderboard_schema() -> dict[str, Any]:
    """Return the leaderboard file's JSON Schema."""
    from pydantic import TypeAdapter

    return TypeAdapter(Leaderboard).json_schema()


def _by_basis(content: dict[str, Any], path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Return a baseline's cases by token fingerprint and seed, under their names."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for id, case in content["cases"].items():
        name = id.removesuffix(f"@{content['sae']['id']}")
        found.setdefault(basis_of(case, content, path), {})[name] = case
    return found


def basis_of(case: Mapping[str, Any], content: Mapping[str, Any], path: Path) -> tuple[str, int]:
    """Return what a stored case was measured on: its sums are called SOURCE@FINGERPRINT8-SEED.

    Those of a pair say after a comma which SAE is the first, whatever is in its name.
    """
    _, _, told = str(case.get("sums")).partition("@")
    short, _, seed = told.partition(",")[0].rpartition("-")
    for data in content["datasets"]:
        if (
            short
            and data["fingerprint"].startswith(short)
            and seed.isdecimal()
            and len(seed) < LONGEST_SEED
        ):
            return data["fingerprint"], int(seed)
    raise StoreError(f"{path}: it does not say which tokens it was measured on; measure it again")


def _head(content: dict[str, Any], fingerprint: str, seed: int) -> dict[str, Any]:
    data = next(d for d in content["datasets"] if d["fingerprint"] == fingerprint)
    kept = ("name", "split", "fingerprint", "sequences", "context", "packing")
    model = content["model"]
    return {
        "model": BoardModel(model["name"], model["weights_sha256"], model["dtype"]),
        "hook": content["sae"]["hook"],
        "dataset": BoardData(**{name: data[name] for name in kept}),
        "seed": seed,
    }


def _row(sae: dict[str, Any], cases: dict[str, Any]) -> Row:
    told = ("weights_sha256", "config_sha256", "architecture", "d_sae", "training_context")
    scores = {
        name: {metric: _score(stored) for metric, stored in sorted(case["metrics"].items())}
        for name, case in sorted(cases.items())
    }
    verdicts = {name: case["verdict"] for name, case in sorted(cases.items())}
    return Row(sae["id"], **{name: sae[name] for name in told}, verdicts=verdicts, scores=scores)


def _score(stored: dict[str, Any]) -> Score:
    ci = stored["ci"]
    return Score(stored["version"], stored["value"], (ci[0], ci[1]) if ci else None)


def _board(head: dict[str, Any], rows: Iterable[Row], facts: Mapping[str, Facts]) -> Board:
    kept = tuple(sorted(rows, key=lambda row: (row.sae, row.key)))
    names = sorted({name for row in kept for scores in row.scores.values() for name in scores})
    board = Board(**head, metrics={n: facts.get(n, Facts("", None)) for n in names}, rows=kept)
    on = fronts(board)
    with_fronts = (
        replace(row, fronts=tuple(metric for metric, keys in on.items() if row.key in keys))
        for row in kept
    )
    return replace(board, rows=tuple(with_fronts))


def _order(board: Board) -> tuple[Any, ...]:
    """Sort by model and hook; ordinary sequences before long ones, prompts last."""
    data = board.dataset
    prompts = data.packing == "prompts"
    return (board.place, prompts, data.context, data.fingerprint, board.seed, board.model.dtype)


def remove_baseline(path: Path) -> None:
    """Remove a baseline and its sums: the JSON first, so that a crash leaves no half of one.

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


PUBLISHED_SCHEMA = 1


PUBLISHED = "published"


def read_published(root: Path) -> tuple[Published, ...]:
    """Return the published figures beside the baselines, in the order of their files.

    Raises:
        StoreError: naming the file that cannot be read.
    """
    return tuple(_read_one_published(path) for path in sorted((root / PUBLISHED).glob("*.json")))


def _read_one_published(path: Path) -> Published:
    content = read_json(path)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != PUBLISHED_SCHEMA:
        raise StoreError(f"{path}: schema_version is {version}, expected {PUBLISHED_SCHEMA}")
    return validated(Published, content, told=f"{path}: no published figures")
