"""A run's files: the result file, the Markdown summary, the report, the CI job's page."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from saebench.options import RunOptions
from saebench.records.boards import Leaderboard
from saebench.records.run import Run
from saebench.report.markdown import to_markdown
from saebench.store.atomic import write_file
from saebench.store.json_files import check_writable, write_record
from saebench.store.sums_file import RunSums, sums_path, write_sums

PAGE_BYTES = 1_000_000  # GitHub drops a page of more than 1 MiB
JOB_PAGE = "GITHUB_STEP_SUMMARY"
NO_SUMS = RunSums({})


class Outputs:
    """The files that a run was asked to write.

    Args:
        json: the result file.
        md: the Markdown summary.
        html: the report for a browser.
    """

    def __init__(
        self, *, json: Path | None = None, md: Path | None = None, html: Path | None = None
    ) -> None:
        named = {"json": json, "md": md, "html": html}
        self._paths = {name: path for name, path in named.items() if path is not None}
        self._page = os.environ.get(JOB_PAGE)
        self._page_error: str | None = None

    @classmethod
    def of(cls, options: RunOptions) -> "Outputs":
        """Return the files that a run's options name."""
        return cls(json=options.json, md=options.md, html=options.html)

    @property
    def keeps_sums(self) -> bool:
        """True where a result file was asked for: the per-sequence sums go with it."""
        return "json" in self._paths

    def check(self) -> None:
        """Refuse, before anything is measured, a path that cannot be written.

        Raises:
            OptionError: naming the option and the path.
        """
        for name, path in self._paths.items():
            check_writable(path, option=f"--sae-{name}")
        if self.keeps_sums:
            check_writable(sums_path(self._paths["json"]), option="--sae-json, for its sums")

    def write(
        self,
        run: Run,
        *,
        sums: RunSums = NO_SUMS,
        places: Sequence[str] = (),
        leaderboard: Leaderboard | None = None,
    ) -> None:
        """Write each file, atomically.

        Args:
            run: the run's record.
            sums: its per-sequence sums, written next to the result file.
            places: sentences about the leaderboard, for the summaries.
            leaderboard: drawn in the report, with the run in it.

        Raises:
            StoreError: for a file that cannot be written. Of the CI job's page, which nobody asked
                for, :meth:`lines` has a note instead.
        """
        if "json" in self._paths:
            write_sums(sums, self._paths["json"], run_id=run.run.id)
            write_record(run, self._paths["json"])
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
        if self._page_error:
            yield f"note: ${JOB_PAGE} was not written: {self._page_error}"

    def _append_to_page(self, text: str, page: Path) -> None:
        """Append in one write: other commands of the job write to the page too."""
        try:
            with page.open("ab") as file:
                file.write(text.encode())
        except OSError as error:
            self._page_error = f"{page}: {error.strerror}"
