"""A repaired SAE as an ordinary SAELens directory."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from saebench.repair.judgement import AFTER
from saebench.repairs import RepairRecipe
from saebench.subjects.loading import load_subject
from saebench.subjects.metadata import Overrides, SubjectMetadata
from saebench.subjects.references import find_subjects
from saebench.subjects.sae import Subject

RECORD_FILE = "repair.json"


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
