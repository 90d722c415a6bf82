"""The gates of some properties alone, so that a run of these properties is a whole one."""

import re
from pathlib import Path

THRESHOLDS = Path(__file__).resolve().parents[1] / "baselines" / "thresholds.toml"


def gates_of(*properties: str) -> str:
    """Return the shipped threshold file with the gates of some properties alone."""
    text = THRESHOLDS.read_text(encoding="utf-8")
    head, *sections = re.split(r"^(?=\[)", text, flags=re.MULTILINE)
    chosen = [part for part in sections if part[1:].partition("]")[0] in properties]
    return "".join([head, *chosen])
