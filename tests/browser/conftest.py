"""Pages in a real headless Chromium; everything here skips, and says why, where there is none."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SMALL = ("--sae", "demo:l2-topk", "--sae", "demo:l3-standard", "--sae-sequences", "8",
         "--sae-prompts", "24", "--sae-draws", "8")  # fmt: skip
READY_MS = 120_000


@pytest.fixture(scope="session")
def chromium():
    """A running browser."""
    reason = "the browser tests need playwright and Debian's chromium: make test-browser"
    sync_api = pytest.importorskip("playwright.sync_api", reason=reason)
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(reason)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page, and all that it said and asked for."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def ready(self):
        """Wait until every figure was drawn."""
        self.page.wait_for_selector("html[data-ready=yes]", timeout=READY_MS)
        return self

    def rows(self, table: str) -> list[list[str]]:
        """The shown rows of a table."""
        script = "rows => rows.map(r => [...r.cells].map(c => c.textContent))"
        return self.page.eval_on_selector_all(f"[data-table={table}] tbody tr", script)


def _open(chromium, path, *, width=1280, scheme="light"):
    """Open a file in a fresh profile."""
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme,
        permissions=["clipboard-read", "clipboard-write"],
    )  # fmt: skip
    found = Opened(context.new_page())
    page = found.page
    loud = ("error", "warning")
    page.on("console", lambda m: found.errors.append(m.text) if m.type in loud else None)
    page.on("pageerror", lambda error: found.errors.append(str(error)))
    page.on("request", lambda request: found.requests.append(request.url))
    page.goto(Path(path).as_uri())
    page.wait_for_selector("html[data-open=yes]", timeout=READY_MS)
    return found


def _check_silent(found):
    """Nothing went wrong, and nothing was asked of a network."""
    assert found.errors == []
    own = ("file:", "data:", "blob:")
    assert [url for url in found.requests if not url.startswith(own)] == []


@pytest.fixture
def opened(chromium):
    """Open files; fails where a page says an error or asks a network for anything."""
    made = []

    def open_page(path, **options):
        made.append(_open(chromium, path, **options))
        return made[-1]

    yield open_page
    for found in made:
        _check_silent(found)
        found.page.context.close()


@pytest.fixture(scope="session")
def _shared_report(chromium, judged):
    found = _open(chromium, judged.html).ready()
    yield found
    found.page.context.close()


@pytest.fixture
def report(_shared_report):
    """The real run's report, all drawn: one page for the tests that leave it as it was."""
    yield _shared_report
    _check_silent(_shared_report)


@dataclass(frozen=True)
class Judged:
    """A real run of two of the zoo's SAEs: its report and its result file."""

    html: Path
    json: Path

    @property
    def content(self) -> dict[str, Any]:
        return json.loads(self.json.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def judged(tmp_path_factory, chromium):  # the browser first: without it nothing is judged
    """Judge two SAEs on little data, as a user would."""
    here = tmp_path_factory.mktemp("judged")
    found = Judged(here / "report.html", here / "run.json")
    outputs = ("--sae-html", str(found.html), "--sae-json", str(found.json))
    command = [sys.executable, "-m", "pytest", str(ROOT / "benchmarks"), *SMALL, *outputs]
    done = subprocess.run(
        [*command, "-q", "-p", "no:cacheprovider"], cwd=here, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return found
