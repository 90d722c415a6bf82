"""What lies in a directory that is no SAE: SAEs further down, or pickles."""

import os
from collections.abc import Iterator
from pathlib import Path

from saebench.formats.files import PICKLES
from saebench.formats.foreign import described, refused_pickle
from saebench.formats.layouts import EXPECTED, place_of, recognise

DEEPEST = 4
MOST_LOOKED_AT = 2000
MOST_NAMED = 5


def what_is_there(directory: Path) -> str:
    """Return what to give instead of a directory that is no SAE."""
    other = described(directory)
    if other is not None:
        return other
    below = list(_saes_below(directory))
    if below:
        return _below(directory, below)
    checkpoints = [p for p in sorted(directory.iterdir()) if place_of(p) == p]
    if checkpoints:
        names = ", ".join(p.name for p in checkpoints[:MOST_NAMED])
        return f"{len(checkpoints)} checkpoints lie in it ({names}): --sae '{directory}/*.pt'"
    pickles = sorted(p for p in directory.iterdir() if p.suffix in PICKLES)
    if pickles:
        return str(refused_pickle(pickles[0]))
    return EXPECTED


def _below(directory: Path, found: list[Path]) -> str:
    """Name the SAEs, and the globs that mean all of them."""
    names = [p.relative_to(directory).as_posix() for p in found]
    shown = ", ".join(names[:MOST_NAMED]) + (", …" if len(names) > MOST_NAMED else "")
    depths = sorted({name.count("/") for name in names})
    globs = " ".join(f"--sae '{directory}{'/*' * (depth + 1)}'" for depth in depths)
    what = "1 SAE lies" if len(names) == 1 else f"{len(names)} SAEs lie"
    return f"{what} below it ({shown}): {globs}"


def _saes_below(directory: Path) -> Iterator[Path]:
    """Give the SAEs below, each once, not looking into SAEs, nor endlessly."""
    known: set[Path] = set()
    for looked, (here, inside, _) in enumerate(os.walk(directory, followlinks=True)):
        place = Path(here)
        deep = len(place.relative_to(directory).parts) >= DEEPEST
        found = place != directory and recognise(place) is not None
        if found and place.resolve() not in known:
            known.add(place.resolve())
            yield place
        if found or deep or looked >= MOST_LOOKED_AT:
            inside.clear()
        inside.sort()
