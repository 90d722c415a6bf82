"""Where a run's results go: the result file, the Markdown summary, the CI job's own page."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from saebench.records.boards import Leaderboard
from saebench.records.run import Run
from saebench.report.markdown import to_markdown
from saebench.store.atomic import write_file
from saebench.store.json_files import check_writable, write_run
from saebench.store.sums_file import RunSums, sums_path, write_sums

PAGE_BYTES = 1_000_000  # GitHub drops a page of more than 1 MiB
JOB_PAGE = "GITHUB_STEP_SUMMARY"
NO_SUMS = RunSums({})


class Outputs:
    """The files that a run was asked to write.

    Args:
        options: raw options by short name; ``json``, ``md`` and ``html`` are paths.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._paths = {
            name: Path(os.path.expanduser(str(options[name])))
            for name in ("json", "md", "html")
            if name in options
        }
        self._page = os.environ.get(JOB_PAGE)
        self._failed_page: str | None = None

    @property
    def keeps_sums(self) -> bool:
        """True where a result file was asked for."""
        return "json" in self._paths

    def check(self) -> None:
        """Refuse, before anything is measured, what could not be written.

        Raises:
            OptionError: naming the option and the path.
        """
        for name, path in self._paths.items():
            check_writable(path, option=f"--sae-{name}")
        if self.keeps_sums:
            check_writable(sums_path(self._paths["json"]), option="--sae-json, beside it")

    def write(
        self,
        run: Run,
        *,
        sums: RunSums = NO_SUMS,
        places: Sequence[str] = (),
        leaderboard: Leaderboard | None = None,
    ) -> None:
        """Write all of them; each whole or not at all.

        Args:
            run: what was found.
            sums: its per-sequence sums, which go beside the result file.
            places: sentences about the leaderboard, for the summaries.
            leaderboard: to draw beside the run.

        Raises:
            StoreError: for a file that was asked for. A CI job's page that cannot be written is
                only mentioned: nobody asked for it, and no verdict rests on it.
        """
        if "json" in self._paths:
            write_sums(sums, self._paths["json"], run_id=run.run.id)
            write_run(run, self._paths["json"])
        if "md" in self._paths:
            write_file(self._paths["md"], to_markdown(run, places=places).encode())
        if "html" in self._paths:
            from saebench.report.page.run_page import run_page

            page = run_page(run, leaderboard=leaderboard)
            write_file(self._paths["html"], page.encode())
        if self._page:
            text = to_markdown(run, places=places)
            if len(text.encode()) > PAGE_BYTES:
                text = to_markdown(run, places=places, detailed=False)
            self._append_to_page(text, Path(self._page))

    def lines(self) -> Iterator[str]:
        """Say where the results are."""
        labels = {"json": "results", "md": "summary", "html": "report"}
        yield from (f"{labels[name]}: {path}" for name, path in self._paths.items())
        if self._failed_page:
            yield f"note: ${JOB_PAGE} was not written: {self._failed_page}"

    def _append_to_page(self, text: str, page: Path) -> None:
        """Append in one write, as the page may hold what other commands wrote."""
        try:
            with page.open("ab") as file:
                file.write(text.encode())
        except OSError as error:
            self._failed_page = f"{page}: {error.strerror}"
