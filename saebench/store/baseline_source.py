"""Where the baselines come from that a run is held against: a file, a directory, a git ref."""

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from saebench.errors import OptionError
from saebench.records.run import ModelRecord, SubjectRecord
from saebench.store.baselines import baseline_path

FOLDER = "baselines"


@dataclass(frozen=True)
class BaselineSource:
    """Stored baselines, by SAE.

    Attributes:
        shown: what the user called it.
        path: a baseline file, which is every SAE's, or a directory of them.
        keep: holds the directory that a git ref was unpacked in.
    """

    shown: str
    path: Path
    keep: TemporaryDirectory[str] | None = None

    def __enter__(self) -> "BaselineSource":
        """Read from it within the context; a git ref's files go with it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what was unpacked."""
        if self.keep is not None:
            self.keep.cleanup()

    def of(self, sae: SubjectRecord, model: ModelRecord) -> Path:
        """Return the file to hold an SAE against.

        The same weights come first, then what is stored under that name, hook and model: what
        was released before under the name is what a retrained SAE is held against, and of several
        the one that was stored last.

        Raises:
            OptionError: where there is none, or several of which it is not known which is newer.
        """
        if self.path.is_file():
            return self.path
        exact = baseline_path(self.path, sae, model)
        there = [exact, *(exact.parent.glob("*.json") if exact.parent.is_dir() else ())]
        known = {path: _head_of(path) for path in there if path.is_file()}
        same = [path for path, head in known.items() if _is_of(head, sae)]
        if same:
            return min(same, key=lambda path: (known[path]["id"] != sae.id, path != exact, path))
        # By what a file says, not by its name: names of SAEs lose what no path may hold.
        found = {path: head["stored"] for path, head in known.items() if head.get("id") == sae.id}
        if found:
            newest = sorted(p for p, date in found.items() if date == max(found.values()))
            if len(newest) == 1:
                return newest[0]
            files = ", ".join(path.name for path in newest)
            raise OptionError(
                f"--sae-baseline {self.shown}: several SAEs are stored as {sae.id} at {sae.hook} "
                f"of {model.name}, and none says that it is the newest: {files}; give the file"
            )
        raise OptionError(
            f"--sae-baseline {self.shown}: no baseline of {sae.id} at {sae.hook} of {model.name}; "
            "store one with --sae-update-baselines, or name another SAE's file"
        )


def _is_of(head: Mapping[str, str], sae: SubjectRecord) -> bool:
    """True for the SAE itself, under whatever name it was stored: its weights, read alike."""
    if head["weights_sha256"] not in (sae.weights_sha256, sae.weights_sha256[:8]):
        return False
    return head["id"] == sae.id or head.get("config_sha256") == sae.config_sha256


def _head_of(path: Path) -> dict[str, str]:
    """Return what a file says of its SAE, and when it was stored, unchecked.

    A damaged file says nothing of itself but what its name does: reading it says what is wrong.
    """
    name, _, short = path.stem.rpartition("@")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        told = {key: str(content["sae"][key]) for key in ("id", "weights_sha256", "config_sha256")}
        return told | {"stored": str(content.get("stored", ""))}
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return {"id": name, "weights_sha256": short, "stored": ""}


def open_baselines(given: str, *, directory: Path, project: Path | None = None) -> BaselineSource:
    """Return the baselines that ``--sae-baseline`` names.

    Args:
        given: a path, a git ref, or ``REF:PATH`` of a directory or a file in it.
        directory: where to look; a ref is one of the repository that this lies in.
        project: where to look next: baselines are written below pytest's root directory, which
            may be another one.

    Raises:
        OptionError: where it is neither a path nor a ref, or the ref has no baselines.
    """
    for root in (directory, *([project] if project else [])):
        path = root / os.path.expanduser(given)
        if path.exists():
            return BaselineSource(given, path)
    ref, _, inside = given.partition(":")
    verify = ("rev-parse", "--verify", "--quiet", "--end-of-options")
    commit = _git(directory, *verify, f"{ref}^{{commit}}")
    if commit is None:
        raise OptionError(
            f"--sae-baseline {given}: no such file or directory, and no git ref of the repository "
            f"that {directory} lies in (a CI checkout has only its own: git fetch origin main)"
        )
    return _unpacked(given, commit.decode().strip(), inside or FOLDER, directory)


def _unpacked(given: str, commit: str, inside: str, directory: Path) -> BaselineSource:
    """Unpack what a commit has at a path, beside nothing of the working tree."""
    top = _git(directory, "rev-parse", "--show-toplevel")
    assert top is not None
    data = _git(Path(top.decode().strip()), "archive", "--format=tar", commit, "--", inside)
    if data is None:
        raise OptionError(
            f"--sae-baseline {given}: there is no {inside} in {commit[:8]}; REF:PATH names another "
            "place in it"
        )
    keep = TemporaryDirectory(prefix="saebench-baselines-")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(keep.name, filter="data")
    return BaselineSource(given, Path(keep.name) / inside, keep)


def _git(directory: Path, *arguments: str) -> bytes | None:
    """Return what git prints; None where it refuses, or there is no git."""
    where = directory if directory.is_dir() else Path.cwd()
    try:
        done = subprocess.run(["git", "-C", str(where), *arguments], capture_output=True)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
