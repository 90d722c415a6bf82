"""One pytest run's judging: from raw options to verdicts and the result file."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saebench.errors import OptionError, SaebenchError, StoreError, SubjectError, UsageError
from saebench.experiments.prepare import torchs_own_settings
from saebench.judging.cases import Given, Requests
from saebench.judging.judge import Judge
from saebench.judging.outputs import Outputs
from saebench.judging.record import merge_runs
from saebench.judging.run_baselines import update_all
from saebench.options import (
    OnInconclusive,
    Scale,
    Settings,
    check_stop_early,
    flag,
    listed,
    scale_of,
    settings_of,
)
from saebench.progress import ProgressBar
from saebench.records.boards import Leaderboard
from saebench.records.case import CaseRequest, joined
from saebench.records.run import CaseResult, Run, Verdict
from saebench.report.reproduce import reproduce_lines
from saebench.report.standing import place_lines
from saebench.report.terminal import data_lines, sentences, told
from saebench.store.environment import baselines_dir, baselines_root
from saebench.store.leaderboard import FILE, read_leaderboard
from saebench.store.sums_file import RunSums, joined_sums, run_sums
from saebench.subjects.references import SubjectReference, find_subjects
from saebench.text import plain_lines

if TYPE_CHECKING:
    from saebench.scale.sharded import Sharing
    from saebench.scale.workplace import Workplace


class BenchmarkSession:
    """Holds what a pytest run judges.

    Errors in the options are kept until collection is over: raised earlier, pytest would report
    them as broken test files.

    Args:
        options: raw options by short name, as given on the command line, in the environment or
            in pyproject.toml.
        argv: the command line.
    """

    def __init__(self, options: Mapping[str, Any], *, argv: Sequence[str]) -> None:
        self._options = dict(options)
        self._argv = argv
        self._references: tuple[SubjectReference, ...] = ()
        self._requests = Requests(())
        self._error: UsageError | None = None
        self._judge: Judge | None = None
        self._settings: Settings | None = None
        self._scale: Scale | None = None
        self._workplace: Workplace | None = None
        self._sharing: Sharing | None = None
        self._elsewhere: list[Run] = []
        self._sums_elsewhere: list[RunSums] = []
        self._expected: tuple[str, ...] = ()
        self._shares: dict[str, int] = {}
        self._outputs = Outputs(self._options)
        self.unusable: str | None = None
        self.refused = False
        self.updates: list[str] = []
        self.places: list[str] = []
        try:
            self._settings = settings_of(self._options)
            self._scale = scale_of(self._options)
            check_stop_early(self._settings, self._scale, self._options)
            self._references = find_subjects(listed(self._options, "sae", separator="\n"))
            settings = self._settings
            self._requests = Requests([_given(r, settings) for r in self._references])
        except UsageError as error:
            self._error = error

    @property
    def judge(self) -> Judge:
        """The judge, made on first use."""
        if self._judge is None:
            assert self._settings is not None
            self._judge = Judge(self._settings, argv=self._argv)
            self._judge.share_out(self._shares)
        return self._judge

    @property
    def has_results(self) -> bool:
        """True once a case was judged."""
        return bool(self._elsewhere) or (self._judge is not None and bool(self._judge.cases))

    @property
    def times_cost(self) -> bool:
        """True where the cost cases were asked for."""
        return bool(flag(self._options, "cost"))

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
        """Return each SAE's share where several processes judge; SAEs side by side share passes."""
        if processes > 1:
            count = len(self._references)
            self._shares = {r.id: i * processes // count for i, r in enumerate(self._references)}
        return self._shares

    def announce(self, requests: Iterable[CaseRequest]) -> None:
        """Take the selected cases.

        Raises:
            UsageError: kept from reading the options, or for want of an SAE.
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

    @torchs_own_settings()
    def prepare(self, rootdir: Path) -> None:
        """Load what the announced cases need.

        Raises:
            UsageError: for anything that cannot be judged as given.
        """
        self._outputs.check()
        wanted = {sae for request in self.judge.requests for sae in request.needs}
        chosen = [r for r in self._references if r.id in wanted]
        if chosen:
            place = self._workplace_of(chosen)
            from saebench.experiments.prepare import prepare

            benches = prepare(self.judge.settings, chosen)
            if place is not None:
                from saebench.scale.sharded import Sharing

                self._sharing = Sharing(place, benches)
            self.judge.adopt(benches, runner=self._sharing, project=rootdir)

    def close(self) -> None:
        """Let go of workers and of the run directory."""
        if self._workplace is not None:
            self._workplace.close()

    def _workplace_of(self, chosen: Iterable[SubjectReference]) -> "Workplace | None":
        """Return where the run is measured in shards, where that was asked for.

        Its workers begin to load now, while torch is still to be imported here.
        """
        assert self._scale is not None
        if not self._scale.shares_out:
            return None
        if self._shares:
            raise OptionError(
                "-n shares out the SAEs; --sae-workers, --sae-engine and --sae-run-dir the "
                "sequences: give one or the other"
            )
        from saebench.scale.jobs import recipe_of
        from saebench.scale.workplace import Workplace

        specs = listed(self._options, "sae", separator="\n")
        recipe = recipe_of(self._scale, self.judge.settings, specs, chosen)
        self._workplace = Workplace(self._scale, recipe)
        return self._workplace

    @torchs_own_settings()
    def case(self, request: CaseRequest, *, progress: ProgressBar) -> CaseResult:
        """Measure and decide one case.

        Raises:
            StoreError: where shards, or how the case ended, cannot be written.
        """
        found = self.judge.case(request, progress=progress)
        if self._sharing is not None:
            failed = self.judge.fails(found)
            self._sharing.note(found, self.judge.reads(request), failed=failed)
        return found

    def failure(self, case: CaseResult) -> str | None:
        """Return why the case fails the run, or None where it does not."""
        return f"{case.verdict}: {case.reason}" if self.judge.fails(case) else None

    def expect(self, announced: Iterable[str]) -> None:
        """Take the ids of the cases that this run's other processes were to judge."""
        self._expected = tuple(announced) or self._expected

    def add(self, run: Run, sums: RunSums) -> None:
        """Take what another process of this pytest run found."""
        self._elsewhere.append(run)
        self._sums_elsewhere.append(sums)

    def sums(self) -> RunSums:
        """Return the per-sequence sums of the cases, where a result file is to stand by them."""
        if not self._outputs.keeps_sums:
            return RunSums({})
        return (
            joined_sums(self._sums_elsewhere)
            if self._elsewhere
            else run_sums(self.judge.measured())
        )

    def run(self, *, complete: bool) -> Run:
        """Return the run as it stands."""
        if not self._elsewhere:
            return self.judge.run(complete=complete)
        merged = merge_runs(self._elsewhere, announced=self._expected)
        done = complete and merged.run.complete
        return replace(merged, run=replace(merged.run, argv=tuple(self._argv), complete=done))

    def write(self, rootdir: Path, *, complete: bool) -> None:
        """Write the results where that was asked for; ``places`` then says where the SAEs stand."""
        done = complete and (bool(self._elsewhere) or self.judge.is_done)
        run = self.run(complete=done)
        leaderboard = self._leaderboard(rootdir)
        self.places += place_lines(run, leaderboard) if leaderboard else ()
        try:
            self._outputs.write(run, sums=self.sums(), places=self.places, leaderboard=leaderboard)
        except StoreError as error:
            self.unusable = plain_lines(str(error))

    def _leaderboard(self, rootdir: Path) -> Leaderboard | None:
        """Return the project's leaderboard, or the shipped one; where it cannot be read say so."""
        found = [root / FILE for root in (baselines_root(rootdir), baselines_dir())]
        path = next((path for path in found if path.is_file()), None)
        try:
            return read_leaderboard(path) if path else None
        except SaebenchError as error:
            self.places.append(f"note: no place on the leaderboard: {error}")
            return None

    @torchs_own_settings()
    def update_baselines(self, rootdir: Path, *, complete: bool) -> None:
        """Store baselines where that was asked for; ``updates`` then says what changed."""
        everything = flag(self._options, "update_baselines")
        if not everything and not flag(self._options, "update_new"):
            return
        if self._elsewhere or not (complete and self.judge.is_done):
            self.updates = ["ERROR: baselines not updated: they need a complete run in one process"]
            self.refused = True
            return
        measured = self.judge.measured(remeasure=True)
        told = update_all(baselines_root(rootdir), measured, only_new=not everything)
        self.updates, self.refused = told.lines, told.refused

    def closing_lines(self) -> Iterator[str]:
        """Give what the tables cannot say: the data, and where the results are."""
        run = self.run(complete=True)
        yield from data_lines(run, asked=self.judge.settings.sequence_count)
        yield from self._workplace.notes if self._workplace is not None else ()
        # What fails the run is in pytest's own FAILURES; this is what does not.
        if self.judge.settings.inconclusive is OnInconclusive.WARN:
            yield from sentences(run, Verdict.INCONCLUSIVE)
        yield from sentences(run, Verdict.SKIPPED)
        yield from told(run)
        yield from _commands(run)
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


def _commands(run: Run) -> Iterator[str]:
    """Say how to measure again what did not pass, each in one line."""
    lines = list(reproduce_lines(run, os.environ))
    yield from ["measure again:", *(f"  {line}" for line in lines)] if lines else []
