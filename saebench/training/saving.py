"""Where a trained SAE goes: an ordinary SAELens directory, never over another by accident."""

import csv
import io
from pathlib import Path
from typing import Any

from saebench.errors import OptionError
from saebench.store.atomic import write_file
from saebench.store.result_file import check_writable
from saebench.subjects.loaders.saelens import inference_sae
from saebench.trainings import TrainingCheck

RECORD_FILE, LOG_FILE = "training.json", "log.csv"


def check_out(out: Path, *, force: bool, resume: bool) -> Path:
    """Refuse, before anything is loaded, what must not or cannot be written.

    Args:
        out: the directory that is asked for.
        force: what is there may be replaced.
        resume: a checkpoint is gone on from.

    Returns:
        Where the checkpoint is.

    Raises:
        OptionError: naming the place.
    """
    if out.exists() and not force:
        raise OptionError(f"-o {out}: exists already; give another directory, or --force")
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    if resume and not checkpoint.exists():
        raise OptionError(f"--resume: there is no {checkpoint}: no such training was begun")
    if checkpoint.exists() and not (resume or force):
        raise OptionError(
            f"-o {out}: a training was begun there ({checkpoint}); go on with --resume, or start "
            "anew with --force"
        )
    check_writable(checkpoint.with_name(f"{out.name}.probe"), option="-o")
    return checkpoint


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
