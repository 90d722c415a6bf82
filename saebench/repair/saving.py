"""Where a repaired SAE goes: an ordinary SAELens directory, never over another by accident."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from saebench.errors import OptionError
from saebench.repair.judgement import AFTER
from saebench.repairs import RepairRecipe
from saebench.store.result_file import check_writable
from saebench.subjects.loaders.saelens import CONFIG_FILE
from saebench.subjects.metadata import Overrides, SubjectMetadata
from saebench.subjects.references import find_subjects
from saebench.subjects.sae import Subject, load_subject

RECORD_FILE = "repair.json"


def check_out(out: Path, *, source: Path | None, force: bool, resume: bool) -> Path:
    """Refuse, before anything is loaded, what must not or cannot be written.

    Args:
        out: the directory that is asked for.
        source: the SAE's own directory, where it has one.
        force: what is there may be replaced.
        resume: a checkpoint is gone on from.

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
        raise OptionError(f"--resume: there is no {checkpoint}: no such repair was begun")
    if checkpoint.exists() and not (resume or force):
        raise OptionError(
            f"-o {out}: a repair was begun there ({checkpoint}); go on with --resume, or start "
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


def save_repaired(
    sae: Any, directory: Path, *, metadata: SubjectMetadata, recipe: RepairRecipe
) -> None:
    """Write an SAE as SAELens does, with the recipe and all that places it in its metadata.

    Args:
        sae: the repaired SAE.
        directory: an empty one.
        metadata: where the SAE belongs, the user's overrides included.
        recipe: of the repair.
    """
    told = sae.cfg.metadata
    told.hook_name = metadata.hook
    told.model_name = metadata.model_name
    told.context_size = metadata.training_context
    told.prepend_bos = metadata.prepend_bos
    told.repair = asdict(recipe) | {"fitted": list(recipe.fitted)}
    sae.to("cpu").save_model(directory)


def load_saved(directory: Path, like: Subject, *, shown: str, device: torch.device) -> Subject:
    """Return the written SAE, loaded as anybody would.

    Args:
        directory: where it was written.
        like: the SAE before.
        shown: what its source is called.
        device: the model's.
    """
    (reference,) = find_subjects([str(directory)])
    reference = replace(reference, id=AFTER, source=shown)
    subject = load_subject(reference, overrides=Overrides(), device=str(device))
    subject.metadata = like.metadata
    return subject
