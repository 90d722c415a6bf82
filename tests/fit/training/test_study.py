"""The worked study in docs/train.md: its tables are those of the sweeps beside it."""

from pathlib import Path

import pytest

from saebench.report.tables.fit_tables import frontier_markdown
from saebench.store.json_files import read_sweep

DOCS = Path(__file__).resolve().parents[3] / "docs"
SWEEPS = sorted((DOCS / "train").glob("*.json"))


def test_there_are_sweeps():
    assert SWEEPS


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_row_of_a_sweep_is_in_the_chapter(file):
    text = (DOCS / "train.md").read_text(encoding="utf-8")
    missing = [row for row in frontier_markdown(read_sweep(file)).splitlines() if row not in text]
    assert not missing
