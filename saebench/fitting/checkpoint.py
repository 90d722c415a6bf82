"""Checkpoints of a fit: written whole, read back only for the same fit."""

import io
from pathlib import Path
from typing import Any

import torch

from saebench.errors import OptionError, StoreError
from saebench.store.atomic import write_file

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
