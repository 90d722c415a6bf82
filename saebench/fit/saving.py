"""The output directory of a fit: what may be replaced, its checkpoint, the SAE saved in it."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from saebench.errors import OptionError, StoreError
from saebench.formats.saelens import CONFIG_FILE
from saebench.options import Overrides
from saebench.store.atomic import write_file
from saebench.store.json_files import check_writable
from saebench.subjects.loading import load_subject
from saebench.subjects.references import SubjectReference, find_subjects
from saebench.subjects.sae import Subject

VERSION = 2  # 2: the learning rates, and rows for validation


class Checkpoint:
    """The file that a fit writes its state to at each check.

    Args:
        path: the file.
        identity: everything that shapes the fit; a state of another fit is refused.
    """

    def __init__(self, path: Path, *, identity: dict[str, Any]) -> None:
        self.path = path
        self._identity = identity

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
            version, identity, state = (content[k] for k in ("version", "identity", "state"))
        except Exception as error:
            # torch raises whatever its unpickler does.
            raise StoreError(
                f"{self.path}: no checkpoint that can be read ({type(error).__name__}); "
                "--force starts anew"
            ) from error
        if version != VERSION:
            raise StoreError(f"{self.path}: checkpoint version {version}, expected {VERSION}")
        for key, value in self._identity.items():
            if identity.get(key) != value:
                raise OptionError(
                    f"{self.path}: was begun with {key} {identity.get(key)}, now it is {value}; "
                    "give the same options, or --force to start anew"
                )
        return state

    def remove(self) -> None:
        """Remove the file, once the fit's result is safe."""
        self.path.unlink(missing_ok=True)


def checkpoint_path(out: Path) -> Path:
    """Return where the checkpoint of a fit with this output directory is.

    Example:
        >>> checkpoint_path(Path("saes/mine")).name
        'mine.checkpoint'
    """
    return out.with_name(f"{out.name}.checkpoint")


def check_out(
    out: Path, *, what: str, force: bool, resume: bool, source: Path | None = None
) -> Path:
    """Refuse, before anything is loaded, an output directory that must not or cannot be written.

    Args:
        out: the directory.
        what: a repair or a training, for messages.
        force: replace what is there.
        resume: go on from a checkpoint.
        source: the directory of the SAE that the fit begins with, where it has one.

    Returns:
        Where the checkpoint is.

    Raises:
        OptionError: naming the path.
    """
    if source is not None and source.resolve().is_relative_to(out.resolve()):
        raise OptionError(f"-o {out}: the SAE itself lies there; give another directory")
    if out.exists() and not force:
        raise OptionError(f"-o {out}: exists already; give another directory, or --force")
    _refuse_to_lose(out)
    checkpoint = checkpoint_path(out)
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
    """Refuse to replace a directory that contains more than an SAE, --force or not.

    Raises:
        OptionError: naming what else is there.
    """
    if out.exists() and not out.is_dir():
        raise OptionError(f"-o {out}: is a file; give a directory")
    paths = sorted(out.iterdir()) if out.is_dir() else []
    if not paths:
        return
    others = [path.name for path in paths if path.is_dir()]
    if others or not (out / CONFIG_FILE).is_file():
        what = f"the directory {others[0]}" if others else f"{paths[0].name}, and no {CONFIG_FILE}"
        raise OptionError(
            f"-o {out}: --force replaces an SAE's directory, but there is {what}: that is no SAE "
            "alone; give another directory, or remove it yourself"
        )


def one_sae(spec: str, *, option: str = "") -> SubjectReference:
    """Return the only SAE that a SPEC names.

    Args:
        spec: as for ``--sae``.
        option: the option that it was given by, for messages.

    Raises:
        OptionError: where it names several.
    """
    references = find_subjects([spec])
    if len(references) != 1:
        raise OptionError(f"{option}{spec}: names {len(references)} SAEs; give one")
    return references[0]


def save_sae(sae: Any, directory: Path, *, metadata: Mapping[str, Any]) -> None:
    """Write an SAE in its inference form as SAELens does.

    Args:
        sae: a SAELens SAE.
        directory: an empty one.
        metadata: what is added to the SAE's own.
    """
    for key, value in metadata.items():
        setattr(sae.cfg.metadata, key, value)
    sae.to("cpu").save_model(directory)


def load_saved(directory: Path, *, device: torch.device) -> Subject:
    """Return an SAE that a fit wrote, loaded as any other SAE is.

    Args:
        directory: where it was written.
        device: to load it to.
    """
    reference = one_sae(str(directory))
    return load_subject(reference, overrides=Overrides(), device=str(device))
