"""One pytest run's judging: from raw options to verdicts and the result file."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saebench.errors import (
    OptionError,
    SaebenchError,
    StoreError,
    SubjectError,
    UsageError,
    nearest,
)
from saebench.judging.cases import CaseRequest, joined
from saebench.judging.judge import Judge
from saebench.judging.merging import merge_runs
from saebench.judging.outputs import Outputs
from saebench.judging.progress import ProgressBar
from saebench.judging.requests import Given, Requests
from saebench.report.closing import data_lines, note_lines
from saebench.report.places import place_lines
from saebench.report.reproduce import reproduce_lines
from saebench.report.table import sentences, told
from saebench.results import CaseResult, Run, Verdict
from saebench.scale.options import Scale
from saebench.settings import OnInconclusive, Settings
from saebench.shown import plain_lines
from saebench.store.baselines import update_baseline
from saebench.store.boards import Leaderboard
from saebench.store.leaderboard import FILE, read_leaderboard
from saebench.store.locations import baselines_dir, baselines_root
from saebench.store.sums_file import RunSums, joined_sums, run_sums
from saebench.subjects.metadata import Overrides
from saebench.subjects.references import SubjectReference, find_subjects

if TYPE_CHECKING:
    from saebench.scale.sharing import Sharing
    from saebench.scale.workplace import Workplace

SHARED = {
    "workers": "workers",
    "shard_sequences": "shard_sequences",
    "worker_threads": "threads",
}
NUMBERS = (
    "sequences",
    "prompts",
    "context",
    "batch_size",
    "position",
    "draw_position",
    "draws",
    "seed",
)
PLAIN = (
    *NUMBERS,
    "profile",
    "packing",
    "inconclusive",
    "model",
    "dataset",
    "cloze",
    "device",
    "dtype",
    "thresholds",
    "baseline",
)
YES, NO = ("true", "yes", "1"), ("false", "no", "0")


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
            _check_stop_early(self._settings, self._scale, self._options)
            self._references = find_subjects(_listed(self._options, "sae", separator="\n"))
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
        return bool(_flag("cost", self._options.get("cost")))

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
            from saebench.judging.preparation import prepare

            benches = prepare(self.judge.settings, chosen)
            if place is not None:
                from saebench.scale.sharing import Sharing

                self._sharing = Sharing(place, benches)
            self.judge.adopt(benches, maker=self._sharing, project=rootdir)

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

        specs = _listed(self._options, "sae", separator="\n")
        recipe = recipe_of(self._scale, self.judge.settings, specs, chosen)
        self._workplace = Workplace(self._scale, recipe)
        return self._workplace

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

    def update_baselines(self, rootdir: Path, *, complete: bool) -> None:
        """Store baselines where that was asked for; ``updates`` then says what changed."""
        everything = _flag("update_baselines", self._options.get("update_baselines"))
        if not everything and not _flag("update_new", self._options.get("update_new")):
            return
        if self._elsewhere or not (complete and self.judge.is_done):
            self.updates = ["ERROR: baselines not updated: they need a complete run in one process"]
            self.refused = True
            return
        root = baselines_root(rootdir)
        self.updates = [f"baselines in {root}:"]
        for measured in self.judge.measured(again=True):
            try:
                changes = update_baseline(root, measured, only_new=not everything)
            except StoreError as error:
                self.updates.append(f"ERROR: {error}")
                self.refused = True
                continue
            gated = {gate.metric for case in measured.cases for gate in case.gates}
            shown = [c for c in changes if c.metric in gated]
            self.updates += [f"{measured.sae.id}: {len(changes)} metrics stored"]
            self.updates += [
                f"  {c.metric}: {_number_of(c.before)} → {_number_of(c.after)}" for c in shown
            ]

    def closing_lines(self) -> Iterator[str]:
        """Give what the tables cannot say: the data, notes, and where the results are."""
        run = self.run(complete=True)
        yield from data_lines(run, asked=self.judge.settings.sequence_count)
        yield from note_lines(run)
        yield from self._workplace.notes if self._workplace is not None else ()
        # What fails the run is in pytest's own FAILURES; this is what does not.
        if self.judge.settings.inconclusive is OnInconclusive.WARN:
            yield from sentences(run, Verdict.INCONCLUSIVE)
        yield from sentences(run, Verdict.SKIPPED)
        yield from told(run)
        yield from _commands(run)
        yield from self.places
        yield from self._outputs.lines()


def settings_of(options: Mapping[str, Any]) -> Settings:
    """Return the settings that raw options mean.

    Raises:
        OptionError: for a value that an option cannot have.
    """
    if "unknown" in options:
        key, known = options["unknown"]
        raise OptionError(
            f"[tool.saebench] of pyproject.toml: unknown key {key!r}{nearest(key, known)}"
        )
    chosen: dict[str, Any] = {key: options[key] for key in PLAIN if key in options}
    for key in NUMBERS:
        if key in chosen:
            chosen[key] = _number(key, chosen[key])
    training_context = options.get("training_context")
    overrides = Overrides(
        hook=options.get("hook"),
        training_context=None
        if training_context is None
        else _number("training_context", training_context),
        prepend_bos=_flag("prepend_bos", options.get("prepend_bos")),
        hook_out=options.get("hook_out"),
    )
    return Settings(
        **chosen,
        interventions=tuple(_listed(options, "interventions", separator=",")),
        fail_on=tuple(_listed(options, "fail_on", separator="\n")),
        score_bos=bool(_flag("score_bos", options.get("score_bos"))),
        stop_early=bool(_flag("stop_early", options.get("stop_early"))),
        overrides=overrides,
    )


def _check_stop_early(settings: Settings, scale: Scale, options: Mapping[str, Any]) -> None:
    """Refuse what a run that ends early cannot do.

    Raises:
        OptionError: naming both options.
    """
    if not settings.stop_early:
        return
    scale.refuse_rounds()
    for key in ("update_baselines", "update_new"):
        if _flag(key, options.get(key)):
            raise OptionError(
                f"--sae-stop-early with {_option(key)}: a run that ended early is no baseline, "
                "measure all sequences for one"
            )


def scale_of(options: Mapping[str, Any]) -> Scale:
    """Return how raw options mean the run to be shared out.

    Raises:
        OptionError: for a value that an option cannot have.
    """
    chosen: dict[str, Any] = {key: options[key] for key in ("engine", "rerun") if key in options}
    for key, name in SHARED.items():
        if key in options:
            chosen[name] = _number(key, options[key])
    if "worker_gpus" in options:
        try:
            chosen["gpus"] = float(options["worker_gpus"])
        except ValueError as error:
            given = options["worker_gpus"]
            raise OptionError(f"--sae-worker-gpus: expected a number, found {given!r}") from error
    if "run_dir" in options:
        chosen["run_dir"] = Path(options["run_dir"]).absolute()
    return Scale(**chosen, address=options.get("ray_address"))


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


def _number_of(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _listed(options: Mapping[str, Any], key: str, *, separator: str) -> list[str]:
    value = options.get(key, [])
    parts = value.split(separator) if isinstance(value, str) else value
    return [part.strip() for part in parts if part.strip()]


def _number(key: str, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{_option(key)}: expected a whole number, found {value!r}") from error


def _flag(key: str, value: Any) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    text = str(value).lower()
    if text not in YES + NO:
        raise OptionError(f"{_option(key)}: expected true or false, found {value!r}")
    return text in YES


def _option(key: str) -> str:
    return "--sae-" + key.replace("_", "-")
