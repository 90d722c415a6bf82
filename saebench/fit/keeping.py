"""Checkpoints of a fit: written whole, read back only for the same fit."""

import io
from pathlib import Path
from typing import Any

import torch

from saebench.errors import OptionError, StoreError
from saebench.formats.saelens import CONFIG_FILE
from saebench.store.atomic import write_file
from saebench.store.json_files import check_writable

VERSION = 2  # 2: the learning rates, and rows held apart


class Checkpoint:
    """One file that a fit writes its state to, again and again.

    Args:
        path: the file.
        identity: everything that shapes the fit; a state of another one is refused.
    """

    def __init__(self, path: Path, *, identity: dict[str, Any]) -> None:
        self.path = path
        self._identity = identity

    @property
    def exists(self) -> bool:
        """True where there is a file."""
        return self.path.exists()

    def write(self, state: dict[str, Any]) -> None:
        """Replace the file in one step.

        Raises:
            StoreError: where it cannot be written; the older state is left.
        """
        data = io.BytesIO()
        torch.save({"version": VERSION, "identity": self._identity, "state": state}, data)
        write_file(self.path, data.getvalue())

    def read(self) -> dict[str, Any]:
        """Return the state.

        Raises:
            StoreError: where the file is damaged.
            OptionError: where it belongs to a fit with other settings, naming the first.
        """
        try:
            # weights_only: a checkpoint is data, and must not run code when it is opened.
            content = torch.load(self.path, weights_only=True, map_location="cpu")
            version, found, state = (content[k] for k in ("version", "identity", "state"))
        except Exception as error:
            # torch raises whatever its unpickler does.
            raise StoreError(
                f"{self.path}: no checkpoint that can be read ({type(error).__name__}); "
                "--force starts anew"
            ) from error
        if version != VERSION:
            raise StoreError(f"{self.path}: checkpoint version {version}, expected {VERSION}")
        for key, value in self._identity.items():
            if found.get(key) != value:
                raise OptionError(
                    f"{self.path}: was begun with {key} {found.get(key)}, now it is {value}; give "
                    "the same options, or --force to start anew"
                )
        return state

    def remove(self) -> None:
        """Remove the file, once the fit's result is safe."""
        self.path.unlink(missing_ok=True)


def check_out(
    out: Path, *, what: str, force: bool, resume: bool, source: Path | None = None
) -> Path:
    """Refuse, before anything is loaded, what must not or cannot be written.

    Args:
        out: the directory that is asked for.
        what: a repair or a training, for messages.
        force: what is there may be replaced.
        resume: a checkpoint is gone on from.
        source: the directory of the SAE that it begins with, where it has one.

    Returns:
        Where the checkpoint is.

    Raises:
        OptionError: naming the place.
    """
    if source is not None and _inside(source.resolve(), out.resolve()):
        raise OptionError(f"-o {out}: the SAE itself lies there; give another directory")
    if out.exists() and not force:
        raise OptionError(f"-o {out}: exists already; give another directory, or --force")
    _refuse_to_lose(out)
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    if resume and not checkpoint.exists():
        raise OptionError(f"--resume: there is no {checkpoint}: no such {what} was begun")
    if checkpoint.exists() and not (resume or force):
        raise OptionError(
            f"-o {out}: a {what} was begun there ({checkpoint}); go on with --resume, or start "
            "anew with --force"
        )
    check_writable(checkpoint.with_name(f"{out.name}.probe"), option="-o")
    return checkpoint


def _refuse_to_lose(out: Path) -> None:
    """Refuse to replace a directory that holds more than an SAE, --force or not.

    Raises:
        OptionError: naming what else is there.
    """
    if out.exists() and not out.is_dir():
        raise OptionError(f"-o {out}: is a file; give a directory")
    found = sorted(out.iterdir()) if out.is_dir() else []
    if not found:
        return
    others = [path.name for path in found if path.is_dir()]
    if others or not (out / CONFIG_FILE).is_file():
        what = f"the directory {others[0]}" if others else f"{found[0].name}, and no {CONFIG_FILE}"
        raise OptionError(
            f"-o {out}: --force replaces an SAE's directory, but there is {what}: that is no SAE "
            "alone; give another directory, or remove it yourself"
        )


def _inside(path: Path, directory: Path) -> bool:
    return path == directory or path.is_relative_to(directory)
