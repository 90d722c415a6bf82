"""Where a run in shards is measured, before anything is loaded: its directory and its workers."""

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from saebench.scale.crews import Crew, here, hired
from saebench.scale.jobs import Recipe
from saebench.scale.options import Rerun, Scale
from saebench.scale.outcomes import Outcomes
from saebench.scale.rundir import RunDirectory

if TYPE_CHECKING:
    from saebench.judging.bench import Bench


class Workplace:
    """Holds the run directory, and hires workers.

    Those begin to load at once, while this process still has torch to import, but for a run that
    goes on: it may need none.

    Args:
        scale: how the run is shared out.
        recipe: what workers load.

    Raises:
        OptionError: where the run directory cannot be used, or Ray is not to be had.
    """

    def __init__(self, scale: Scale, recipe: Recipe) -> None:
        self.scale = scale
        self.recipe = recipe
        self._crew: Crew | None = None
        with ExitStack() as opened:
            path = scale.run_dir
            if path is None:
                path = Path(tempfile.mkdtemp(prefix="saebench-"))
                opened.callback(shutil.rmtree, path, ignore_errors=True)
            self.directory = RunDirectory(path)
            opened.enter_context(self.directory.held())
            self.outcomes = Outcomes(path)
            if scale.hires and (self.directory.is_empty or scale.rerun is Rerun.ALWAYS):
                self._crew = hired(scale, recipe)
            self._open = opened.pop_all()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the run directory."""
        damaged = self.directory.damaged
        if not damaged:
            return ()
        count = f"{len(damaged)} damaged shard{'s' if len(damaged) > 1 else ''}"
        return (f"note: {count} in {self.directory.path} measured again: {damaged[0]}",)

    def crew(self, benches: "Sequence[Bench]") -> Crew:
        """Return who does the jobs: workers, or this process on what it has loaded."""
        if self._crew is None:
            hires = self.scale.hires
            self._crew = hired(self.scale, self.recipe) if hires else here(self.recipe, benches)
        return self._crew

    def dismiss(self) -> None:
        """Let go of workers."""
        if self._crew is not None:
            self._crew.close()
            self._crew = None

    def close(self) -> None:
        """Let go of workers and of the run directory."""
        self.dismiss()
        self._open.close()
