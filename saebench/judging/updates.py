"""What a run found, stored as baselines: one after the other, and what that changed."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from saebench.errors import StoreError
from saebench.store.baselines import Measured, update_baseline


@dataclass
class Updates:
    """What became of an update.

    Attributes:
        lines: for people.
        refused: some SAE's was refused.
    """

    lines: list[str] = field(default_factory=list)
    refused: bool = False


def update_all(root: Path, found: Iterable[Measured], *, only_new: bool) -> Updates:
    """Store each SAE's baseline, and say what changed; one that is refused stops no other.

    Args:
        root: the baselines directory.
        found: what was measured, by SAE.
        only_new: leave cases that are stored already.
    """
    updates = Updates([f"baselines in {root}:"])
    for measured in found:
        try:
            changes = update_baseline(root, measured, only_new=only_new)
        except StoreError as error:
            updates.lines.append(f"ERROR: {error}")
            updates.refused = True
            continue
        gated = {gate.metric for case in measured.cases for gate in case.gates}
        shown = [c for c in changes if c.metric in gated]
        updates.lines += [f"{measured.sae.id}: {len(changes)} metrics stored"]
        updates.lines += [
            f"  {c.metric}: {_number_of(c.before)} → {_number_of(c.after)}" for c in shown
        ]
    return updates


def _number_of(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
