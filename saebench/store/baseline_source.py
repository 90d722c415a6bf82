"""The baselines that a run is compared with: from a file, a directory or a git ref."""

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
from saebench.records.inputs import ModelRecord, SubjectRecord
from saebench.store.baselines import baseline_path

FOLDER = "baselines"


@dataclass(frozen=True)
class BaselineSource:
    """Stored baselines, by SAE.

    Attributes:
        name: as the user gave it.
        path: a baseline file, for every SAE, or a directory of them.
        unpacked: the temporary directory with a git ref's files.
    """

    name: str
    path: Path
    unpacked: TemporaryDirectory[str] | None = None

    def __enter__(self) -> "BaselineSource":
        """Read from it within the context, which removes a git ref's unpacked files."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the unpacked files."""
        if self.unpacked is not None:
            self.unpacked.cleanup()

    def of(self, sae: SubjectRecord, model: ModelRecord) -> Path:
        """Return the baseline file to compare an SAE with.

        A baseline of the same weights comes first, then one of the same name, hook and model: a
        retrained SAE is compared with what was released before under its name, and of several with
        the one that was stored last.

        Raises:
            OptionError: where there is none, or several of which it is not known which is newer.
        """
        if self.path.is_file():
            return self.path
        exact = baseline_path(self.path, sae, model)
        files = [exact, *(exact.parent.glob("*.json") if exact.parent.is_dir() else ())]
        known = {path: _head_of(path) for path in files if path.is_file()}
        same = [path for path, head in known.items() if _is_of(head, sae)]
        if same:
            return min(same, key=lambda path: (known[path]["id"] != sae.id, path != exact, path))
        # By the file's content: its name lacks the characters that no path may hold.
        dates = {path: head["stored"] for path, head in known.items() if head.get("id") == sae.id}
        if dates:
            newest = sorted(path for path, date in dates.items() if date == max(dates.values()))
            if len(newest) == 1:
                return newest[0]
            names = ", ".join(path.name for path in newest)
            raise OptionError(
                f"--sae-baseline {self.name}: several SAEs are stored as {sae.id} at {sae.hook} "
                f"of {model.name}, and none says that it is the newest: {names}; give the file"
            )
        raise OptionError(
            f"--sae-baseline {self.name}: no baseline of {sae.id} at {sae.hook} of {model.name}; "
            "store one with --sae-update-baselines, or name another SAE's file"
        )


def _is_of(head: Mapping[str, str], sae: SubjectRecord) -> bool:
    """True for a baseline of the same weights and configuration, stored under any name."""
    if head["weights_sha256"] not in (sae.weights_sha256, sae.weights_sha256[:8]):
        return False
    return head["id"] == sae.id or head.get("config_sha256") == sae.config_sha256


def _head_of(path: Path) -> dict[str, str]:
    """Return a file's SAE and the time when it was stored, unchecked.

    A damaged file is known by its name alone; reading it gives the error.
    """
    name, _, short = path.stem.rpartition("@")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        sae = {key: str(content["sae"][key]) for key in ("id", "weights_sha256", "config_sha256")}
        return sae | {"stored": str(content.get("stored", ""))}
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return {"id": name, "weights_sha256": short, "stored": ""}


def open_baselines(given: str, *, directory: Path, project: Path | None = None) -> BaselineSource:
    """Return the baselines that ``--sae-baseline`` names.

    Args:
        given: a path, a git ref, or ``REF:PATH`` of a directory or a file in it.
        directory: where a path is looked for; a ref is one of this directory's repository.
        project: where a path is looked for next: baselines are written below pytest's root
            directory, which may be another one.

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
            f"that contains {directory} (a CI checkout has only its own: git fetch origin main)"
        )
    return _unpacked(given, commit.decode().strip(), inside or FOLDER, directory)


def _unpacked(given: str, commit: str, inside: str, directory: Path) -> BaselineSource:
    """Unpack a commit's files at a path; the working tree's are not read."""
    top = _git(directory, "rev-parse", "--show-toplevel")
    assert top is not None
    data = _git(Path(top.decode().strip()), "archive", "--format=tar", commit, "--", inside)
    if data is None:
        raise OptionError(
            f"--sae-baseline {given}: there is no {inside} in {commit[:8]}; REF:PATH names another "
            "place in it"
        )
    unpacked = TemporaryDirectory(prefix="saebench-baselines-")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(unpacked.name, filter="data")
    return BaselineSource(given, Path(unpacked.name) / inside, unpacked)


def _git(directory: Path, *arguments: str) -> bytes | None:
    """Return git's output; None where git fails or is not installed."""
    where = directory if directory.is_dir() else Path.cwd()
    try:
        done = subprocess.run(["git", "-C", str(where), *arguments], capture_output=True)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
