"""Where a fitted SAE goes: never over another directory by accident."""

from pathlib import Path

from saebench.errors import OptionError
from saebench.store.result_file import check_writable
from saebench.subjects.loaders.saelens import CONFIG_FILE


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
