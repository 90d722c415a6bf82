"""One pytest run: from the options given to verdicts, result files and baselines."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saebench.errors import NotWritten, OptionError, SaebenchError, SubjectError, UsageError
from saebench.judging.cases import Given, Requests
from saebench.judging.judge import Judge
from saebench.judging.outputs import Outputs
from saebench.judging.record import merge_runs
from saebench.judging.run_baselines import update_all
from saebench.measures.names import check_names
from saebench.options import (
    OnInconclusive,
    RunOptions,
    Settings,
    check_variables,
    run_options,
)
from saebench.progress import ProgressBar, progress_bar
from saebench.properties import properties
from saebench.records.boards import Leaderboard
from saebench.records.case import CaseRequest, joined
from saebench.records.case_result import CaseResult
from saebench.records.run import Run
from saebench.records.verdict import Verdict
from saebench.report.reproduce import reproduce_lines
from saebench.report.standing import place_lines
from saebench.report.terminal import HOW_TO_COMPLETE, data_lines, remarks, sentences, unjudged_line
from saebench.store.environment import baselines_dir, baselines_root
from saebench.store.leaderboard import FILE, read_leaderboard
from saebench.store.sums_file import RunSums, joined_sums, run_sums
from saebench.subjects.references import SubjectReference, find_subjects
from saebench.text import plain_lines

if TYPE_CHECKING:
    from saebench.scale.sharded import Sharing
    from saebench.scale.workplace import Workplace


class BenchmarkSession:
    """The judging of one pytest run.

    An error in the options is raised only when collection is over: raised earlier, pytest would
    report it as a broken test file.

    Args:
        given: the options given on the command line, in the environment or in pyproject.toml, by
            name.
        argv: the command line.
    """

    def __init__(self, given: Mapping[str, Any], *, argv: Sequence[str]) -> None:
        self._argv = argv
        self._options = RunOptions()
        self._references: tuple[SubjectReference, ...] = ()
        self._requests = Requests(())
        self._error: UsageError | None = None
        self._judge: Judge | None = None
        self._workplace: Workplace | None = None
        self._sharing: Sharing | None = None
        self._runs_of_processes: list[Run] = []
        self._sums_of_processes: list[RunSums] = []
        self._expected: tuple[str, ...] = ()
        self._shares: dict[str, int] = {}
        self.unusable: str | None = None
        self.not_written = False
        self.refused = False
        self.updates: list[str] = []
        self.places: list[str] = []
        try:
            check_variables(os.environ)
            self._options = run_options(given)
            check_names(self._options.settings.interventions)
            self._references = find_subjects(self._options.sae)
            settings = self._options.settings
            self._requests = Requests([_given(r, settings) for r in self._references])
        except UsageError as error:
            self._error = error
        self._outputs = Outputs.of(self._options)

    @property
    def judge(self) -> Judge:
        """The judge, built on first use."""
        if self._judge is None:
            self._judge = Judge(self._options.settings, argv=self._argv)
            self._judge.share_out(self._shares)
            self._judge.consider(self._requests.every(list(properties())))
        return self._judge

    @property
    def has_results(self) -> bool:
        """True once a case was judged, here or in another process of this run."""
        judged_here = self._judge is not None and bool(self._judge.cases)
        return bool(self._runs_of_processes) or judged_here

    @property
    def times_cost(self) -> bool:
        """True where ``--sae-cost`` asks for the cost cases."""
        return self._options.cost

    def subjects(self, property_name: str) -> list[str]:
        """Return what a property has cases of: the SAEs' ids, or the names of pairs."""
        return [joined(subjects) for subjects in self._requests.subjects(property_name)]

    def request(self, sae: str, property_name: str, params: Mapping[str, Any]) -> CaseRequest:
        """Return the request for a property of an SAE or of a pair.

        Raises:
            OptionError: for an unknown property, or a pair where it is about one SAE.
        """
        return self._requests.request(sae, property_name, params)

    @property
    def announced(self) -> list[str]:
        """Ids of the selected cases, in their order."""
        return [request.id for request in self._judge.requests] if self._judge else []

    def share_out(self, processes: int) -> dict[str, int]:
        """Return each SAE's share where several processes judge; neighbours share a pass."""
        if processes > 1:
            count = len(self._references)
            self._shares = {r.id: i * processes // count for i, r in enumerate(self._references)}
        return self._shares

    def refuse(self, sentence: str) -> None:
        """Remember, during collection, an error that ends the run once collection is over."""
        self._error = self._error or OptionError(sentence)

    def announce(self, requests: Iterable[CaseRequest]) -> None:
        """Plan the measurements of the selected cases.

        Raises:
            UsageError: for an error in the options, or where no SAE was named.
        """
        if self._error is not None:
            raise self._error
        if not self._references:
            raise SubjectError(
                "no SAE to judge; name one: pytest benchmarks --sae PATH --sae-dataset FILE "
                "(a SAELens directory, a glob of them, release:sae_id, or org/repo:path)"
            )
        self.judge.announce(requests)
        self.judge.check_rules_are_asked()

    def prepare(self, rootdir: Path) -> None:
        """Load what the selected cases need.

        Raises:
            UsageError: for anything that cannot be judged as given.
        """
        self._outputs.check()
        wanted = {sae for request in self.judge.requests for sae in request.needs}
        chosen = [r for r in self._references if r.id in wanted]
        if not chosen:
            return
        # Its workers begin to load now, while torch is still to be imported here.
        self._workplace = self._workplace_of(chosen)
        from saebench.experiments.prepare import prepare, torchs_own_settings
        from saebench.experiments.training_texts import measure_overlaps

        with torchs_own_settings():
            benches = prepare(self.judge.settings, chosen)
            measure_overlaps(benches, progress=progress_bar)
            if self._workplace is not None:
                from saebench.scale.sharded import Sharing

                self._sharing = Sharing(self._workplace, benches)
            self.judge.adopt(benches, runner=self._sharing, project=rootdir)

    def close(self) -> None:
        """Shut down workers and unlock the run directory."""
        if self._workplace is not None:
            self._workplace.close()

    def _workplace_of(self, chosen: Iterable[SubjectReference]) -> "Workplace | None":
        """Return where shards are measured; None for a run that is not divided into shards.

        Raises:
            OptionError: where pytest-xdist divides the run already.
        """
        scale = self._options.scale
        if not scale.shares_out:
            return None
        if self._shares:
            raise OptionError(
                "-n shares out the SAEs; --sae-workers, --sae-engine and --sae-run-dir the "
                "sequences: give one or the other"
            )
        from saebench.scale.jobs import recipe_of
        from saebench.scale.workplace import Workplace

        return Workplace(scale, recipe_of(scale, self.judge.settings, self._options.sae, chosen))

    def case(self, request: CaseRequest, *, progress: ProgressBar) -> CaseResult:
        """Measure and decide one case.

        Raises:
            StoreError: where shards, or how the case ended, cannot be written.
        """
        from saebench.experiments.prepare import torchs_own_settings

        with torchs_own_settings():
            case = self.judge.case(request, progress=progress)
        if self._sharing is not None:
            self._sharing.note(case, self.judge.reads(request), failed=self.judge.fails(case))
        return case

    def failure(self, case: CaseResult) -> str | None:
        """Return why the case fails the run, or None where it does not."""
        return f"{case.verdict}: {case.reason}" if self.judge.fails(case) else None

    def expect(self, announced: Iterable[str]) -> None:
        """Remember the ids of the cases that other processes of this run were to judge."""
        self._expected = tuple(announced) or self._expected

    def add(self, run: Run, sums: RunSums) -> None:
        """Add the results of another process of this pytest run."""
        self._runs_of_processes.append(run)
        self._sums_of_processes.append(sums)

    def sums(self) -> RunSums:
        """Return the cases' per-sequence sums, which are written with the result file alone."""
        if not self._outputs.keeps_sums:
            return RunSums({})
        if self._runs_of_processes:
            return joined_sums(self._sums_of_processes)
        return run_sums(self.judge.measured())

    def run(self, *, complete: bool) -> Run:
        """Return the run with the cases judged so far."""
        if not self._runs_of_processes:
            return self.judge.run(complete=complete)
        merged = merge_runs(self._runs_of_processes, announced=self._expected)
        done = complete and merged.run.complete
        return replace(merged, run=replace(merged.run, argv=tuple(self._argv), complete=done))

    @property
    def fails(self) -> bool:
        """True where the run fails, whatever became of its tests: left out, skipped or expected.

        So the exit code is the run's verdict even where somebody deselects a case or marks it.
        """
        if not (self.has_results or self.announced or self._expected):
            return False
        run = self.run(complete=True)
        is_partial = not (run.run.is_whole or run.run.allows_partial)
        return is_partial or any(self.judge.fails(case) for case in run.cases)

    def write(self, rootdir: Path, *, complete: bool) -> None:
        """Write the files that were asked for; ``places`` then has the leaderboard's lines."""
        done = complete and (bool(self._runs_of_processes) or self.judge.is_done)
        run = self.run(complete=done)
        leaderboard = self._leaderboard(rootdir)
        self.places += place_lines(run, leaderboard) if leaderboard else ()
        try:
            self._outputs.write(run, sums=self.sums(), places=self.places, leaderboard=leaderboard)
        except NotWritten as error:
            self.unusable = plain_lines(str(error))
            self.not_written = True

    def _leaderboard(self, rootdir: Path) -> Leaderboard | None:
        """Return the project's leaderboard, else the shipped one; one that is damaged is noted."""
        candidates = [root / FILE for root in (baselines_root(rootdir), baselines_dir())]
        path = next((path for path in candidates if path.is_file()), None)
        try:
            return read_leaderboard(path) if path else None
        except SaebenchError as error:
            self.places.append(f"note: no place on the leaderboard: {error}")
            return None

    def update_baselines(self, rootdir: Path, *, complete: bool) -> None:
        """Store baselines where that was asked for; ``updates`` then says what changed."""
        options = self._options
        if not (options.update_baselines or options.update_new):
            return
        if self._runs_of_processes or not (complete and self.judge.is_done):
            self.updates = ["ERROR: baselines not updated: they need a complete run in one process"]
            self.refused = True
            return
        if unjudged := unjudged_line(self.run(complete=True)):
            self.updates = [f"ERROR: baselines not updated: {unjudged}"]
            self.refused = True
            return
        from saebench.experiments.prepare import torchs_own_settings

        root = baselines_root(rootdir)
        with torchs_own_settings():
            measured = self.judge.measured(remeasure=True)
            update = update_all(root, measured, only_new=not options.update_baselines)
        self.updates, self.refused = update.lines, update.refused
        self.not_written |= update.not_written

    def closing_lines(self) -> Iterator[str]:
        """Give what the tables cannot say: the data, and where the results are."""
        run = self.run(complete=True)
        settings = self.judge.settings
        yield from data_lines(run, asked=settings.sequence_count)
        yield from self._workplace.notes if self._workplace is not None else ()
        if unjudged := unjudged_line(run):
            yield f"{Verdict.INCOMPLETE}: {unjudged}; {HOW_TO_COMPLETE}"
        # What fails the run is in pytest's own FAILURES; this is what does not.
        if settings.inconclusive is OnInconclusive.WARN:
            yield from sentences(run, Verdict.INCONCLUSIVE)
        yield from sentences(run, Verdict.SKIPPED)
        yield from remarks(run)
        commands = list(reproduce_lines(run, os.environ))
        yield from ["measure again:", *(f"  {line}" for line in commands)] if commands else []
        yield from self.places
        yield from self._outputs.lines()


def _given(reference: SubjectReference, settings: Settings) -> Given:
    """Return what is known of an SAE before it is loaded.

    Raises:
        SubjectError: for metadata that cannot be used.
    """
    metadata = reference.metadata(settings.overrides)
    named = metadata.model_name if metadata else None
    hook = metadata.hook if metadata else settings.overrides.hook
    return Given(reference.id, settings.model or reference.model or named, hook)
