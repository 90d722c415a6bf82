"""A site for distributions; ``lab`` is one, whose benchmark file is run by a test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from distributions import Site, empty_site

collect_ignore = ["lab"]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with empty_site(tmp_path, monkeypatch) as site:
        yield site
