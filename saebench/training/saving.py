"""A trained SAE as an ordinary SAELens directory, with the log of its training."""

import csv
import io
from pathlib import Path
from typing import Any

from saebench.store.atomic import write_file
from saebench.subjects.loaders.saelens import inference_sae
from saebench.trainings import TrainingCheck

RECORD_FILE, LOG_FILE = "training.json", "log.csv"


def save_trained(sae: Any, directory: Path, *, recipe: dict[str, Any]) -> Any:
    """Write the inference form as SAELens does, the recipe in its metadata.

    Args:
        sae: the training SAE.
        directory: an empty one.
        recipe: of the training.

    Returns:
        The inference form.
    """
    found = inference_sae(sae.to("cpu"))
    found.cfg.metadata.training = recipe
    found.save_model(directory)
    return found


def write_log(checks: tuple[TrainingCheck, ...], directory: Path) -> None:
    """Write what each check found as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("tokens", "loss", "check"))
    writer.writerows((c.tokens, "" if c.loss is None else c.loss, c.check) for c in checks)
    write_file(directory / LOG_FILE, text.getvalue().encode())
