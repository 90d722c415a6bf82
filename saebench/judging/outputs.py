"""A run's files: the result file, the Markdown summary, the report, the CI job's page."""

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from saebench.errors import NotWritten
from saebench.options import RunOptions
from saebench.records.boards import Leaderboard
from saebench.records.run import Run
from saebench.report.markdown import to_markdown
from saebench.store.atomic import write_file
from saebench.store.json_files import check_writable
from saebench.store.sums_file import RunSums, sums_path, write_result

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
        self._written: list[str] = []

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
        """Write each file, atomically; one that cannot be written keeps none of the others back.

        Args:
            run: the run's record.
            sums: its per-sequence sums, written next to the result file, both or neither.
            places: sentences about the leaderboard, for the summaries.
            leaderboard: drawn in the report, with the run in it.

        Raises:
            NotWritten: naming each file that could not be written. Of the CI job's page, which
                nobody asked for, :meth:`lines` has a note instead.
        """

        def page() -> bytes:
            from saebench.report.page.run_page import run_page

            return run_page(run, leaderboard=leaderboard).encode()

        writers: dict[str, Callable[[Path], None]] = {
            "json": lambda path: write_result(run, sums, path),
            "md": lambda path: write_file(path, to_markdown(run, places=places).encode()),
            "html": lambda path: write_file(path, page()),
        }
        failed = [*self._failures(writers)]
        self._write_page(run, places)
        if failed:
            raise NotWritten("; ".join(failed))

    def lines(self) -> Iterator[str]:
        """Say where the results are: the files that were written, and no others."""
        labels = {"json": "results", "md": "summary", "html": "report"}
        yield from (f"{labels[name]}: {self._paths[name]}" for name in self._written)
        if self._page_error:
            yield f"note: ${JOB_PAGE} was not written: {self._page_error}"

    def _failures(self, writers: Mapping[str, Callable[[Path], None]]) -> Iterator[str]:
        """Write the files that were asked for; give why one could not be written."""
        self._written = []
        for name, path in self._paths.items():
            try:
                writers[name](path)
            except NotWritten as error:
                yield f"--sae-{name} {error}"
            else:
                self._written.append(name)

    def _write_page(self, run: Run, places: Sequence[str]) -> None:
        """Append the Markdown summary to the CI job's page, where there is one."""
        if not self._page:
            return
        text = to_markdown(run, places=places)
        if len(text.encode()) > PAGE_BYTES:
            text = to_markdown(run, places=places, detailed=False)
        self._append_to_page(text, Path(self._page))

    def _append_to_page(self, text: str, page: Path) -> None:
        """Append in one write: other commands of the job write to the page too."""
        try:
            with page.open("ab", buffering=0) as file:
                before = file.tell()
                if file.write(text.encode()) < len(text.encode()):
                    file.truncate(before)
                    self._page_error = f"{page}: {os.strerror(errno.ENOSPC)}"
        except OSError as error:
            self._page_error = f"{page}: {error.strerror}"
