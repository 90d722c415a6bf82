"""Objectives × sparsities at equal tokens or equal time: trained one after the other, resumably."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from saebench.errors import OptionError, StoreError
from saebench.fit.training.course import RECORD_FILE
from saebench.fit.training.objectives import Objective, Sparsity
from saebench.fit.training.request import RANDOM, TrainJob
from saebench.fit.training.training_job import Stepping, stepping, train
from saebench.progress import ProgressBar
from saebench.store.atomic import write_file
from saebench.store.json_files import read_training

TOKENS, TIME = "tokens", "time"
TIMED_STEPS = 3
RATES_FILE = "rates.json"
SHAPING = ("tokens", "batch_rows", "learning_rate", "weight_decay", "without_sae", "tolerance",
           "patience", "seed")  # fmt: skip
Say = Callable[[str], object]


@dataclass(frozen=True)
class SweepJob:
    """What is trained: everything that one training needs, and what varies.

    Every SAE of a hook and sparsity is begun from one standard SAE; each objective then goes on
    from there, the standard one too, so that they differ in nothing else.

    Attributes:
        base: all that does not vary; its ``out`` is the sweep's directory.
        hooks: the places.
        objectives: see there.
        sparsities: see there.
        init_tokens: what the standard SAE that all begin with is trained on.
        equal: ``tokens``, ``time`` or both: what the objectives have the same of. In equal time
            each gets as many tokens as it manages while the slowest does the base's.
        learning_rates: of the objectives that have one of their own; the others have the base's.
    """

    base: TrainJob
    hooks: tuple[str, ...]
    objectives: tuple[Objective, ...]
    sparsities: tuple[Sparsity, ...]
    init_tokens: int
    equal: tuple[str, ...] = (TOKENS,)
    learning_rates: Mapping[Objective, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what is no sweep.

        Raises:
            OptionError: naming the option.
        """
        for name in ("hooks", "objectives", "sparsities", "equal"):
            given = getattr(self, name)
            if not given or len(set(given)) != len(given):
                raise OptionError(f"--{name}: give each once, found {' '.join(map(str, given))}")
        for objective in self.learning_rates:
            if objective not in self.objectives:
                raise OptionError(f"--objective-rate {objective}: is not among --objectives")
        if self.init_tokens < 1:
            raise OptionError(f"--init-tokens must be 1 or more, found {self.init_tokens}")


@dataclass(frozen=True)
class Point:
    """One training of a sweep."""

    equal: str
    hook: str
    sparsity: Sparsity
    objective: Objective

    def directory(self, out: Path) -> Path:
        """Return where it goes in a sweep's directory."""
        return out / self.equal / self.hook / _plain(self.sparsity) / self.objective.value


def points(job: SweepJob) -> Iterator[Point]:
    """Give the trainings in the order that they are done in: all objectives of a place together."""
    for equal, hook, sparsity, objective in product(
        job.equal, job.hooks, job.sparsities, job.objectives
    ):
        yield Point(equal, hook, sparsity, objective)


def planned(job: SweepJob, *, say: Say) -> dict[Point, TrainJob]:
    """Return the training of each point, without what it begins with; for equal time, time first.

    Raises:
        SaebenchError: where an objective cannot be trained as given.
    """
    rates = _rates(job, say=say) if TIME in job.equal else {}
    found = {}
    for point in points(job):
        one = _training(job, point, out=point.directory(job.base.out))
        if point.equal == TIME:
            slowest = max(rates[point.hook].values())
            faster = slowest / rates[point.hook][point.objective.value]
            one = replace(one, tokens=int(one.tokens * faster))
        found[point] = one
    return found


def train_all(
    job: SweepJob, plan: Mapping[Point, TrainJob], *, progress: ProgressBar, say: Say
) -> None:
    """Train whatever is not there yet.

    Args:
        job: the sweep.
        plan: what :func:`planned` gave.
        progress: makes a progress bar.
        say: is told what is trained.

    Raises:
        SaebenchError: as a training raises it; what was trained before stays.
    """
    for number, (point, one) in enumerate(plan.items(), start=1):
        if one.out.exists():
            _refuse_another(one)
            continue
        say(f"{number} of {len(plan)}: {one.out}")
        begin = _init(job, point, progress=progress)
        _go_on(replace(one, init=str(begin)), progress=progress)


def _init(job: SweepJob, point: Point, *, progress: ProgressBar) -> Path:
    out = job.base.out / "init" / point.hook / _plain(point.sparsity)
    first = replace(point, objective=Objective.STANDARD)
    standard = replace(_training(job, first, out=out), init=RANDOM, tokens=job.init_tokens)
    if out.exists():
        _refuse_another(standard)
    else:
        _go_on(standard, progress=progress)
    return out


def _refuse_another(one: TrainJob) -> None:
    """Refuse an SAE that is there already, but was trained otherwise than is asked for now.

    Raises:
        OptionError: naming the first option that differs.
    """
    recipe = read_training(one.out / RECORD_FILE).recipe
    wanted = {name: getattr(one, name) for name in SHAPING}
    wanted |= {"objective": one.objective.value, "loss": one.loss.value}
    for name, value in wanted.items():
        if getattr(recipe, name) != value:
            raise OptionError(
                f"{one.out}: was trained with {name} {getattr(recipe, name)}, now it is {value}; "
                "give the same options, or another -o"
            )


def _training(job: SweepJob, point: Point, *, out: Path) -> TrainJob:
    rate = job.learning_rates.get(point.objective, job.base.learning_rate)
    return replace(
        job.base, hook=point.hook, sparsity=point.sparsity, objective=point.objective, out=out,
        learning_rate=rate,
    )  # fmt: skip


def _go_on(one: TrainJob, *, progress: ProgressBar) -> None:
    one.out.parent.mkdir(parents=True, exist_ok=True)
    begun = one.out.with_name(f"{one.out.name}.checkpoint").exists()
    train(
        replace(one, resume=begun, force=False, keep_rate=True),
        progress=progress,
        say=lambda _: None,
    )


def _rates(job: SweepJob, *, say: Say) -> dict[str, dict[str, float]]:
    """Return seconds a token of each objective at each hook, timed once and kept."""
    file = job.base.out / RATES_FILE
    if file.exists():
        return _read_rates(file, job)
    say("timing each objective, for equal time")
    found: dict[str, dict[str, float]] = {}
    for hook, objective in product(job.hooks, job.objectives):
        one = replace(
            job.base, hook=hook, objective=objective, sparsity=job.sparsities[0], init=RANDOM
        )
        found.setdefault(hook, {})[objective.value] = _seconds_a_token(stepping(one))
    write_file(file, json.dumps(found, indent=1).encode())
    return found


def _seconds_a_token(timed: Stepping) -> float:
    """Return the fastest step's time, and that of making what it is given, for a token."""
    steps = [_seconds(timed.step) for _ in range(1 + TIMED_STEPS)][1:]
    return min(steps) / timed.tokens + _seconds(timed.fill) / timed.filled_tokens


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _read_rates(file: Path, job: SweepJob) -> dict[str, dict[str, float]]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        for hook, objective in product(job.hooks, job.objectives):
            float(found[hook][objective.value])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{file}: does not time every objective at every hook ({error}); remove it to time anew"
        ) from error
    return found


def _plain(sparsity: Sparsity) -> str:
    return str(sparsity).replace(":", "-").replace("/", "-")
