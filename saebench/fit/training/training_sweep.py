"""A sweep of trainings, objectives × sparsities at equal tokens or equal time; resumable."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from saebench.errors import OptionError, StoreError
from saebench.fit.saving import checkpoint_path
from saebench.fit.training import RANDOM, Objective, Sparsity, TrainJob
from saebench.fit.training.training_run import RECORD_FILE, Say, Stepping, stepping, train
from saebench.progress import ProgressBar
from saebench.store.atomic import write_file
from saebench.store.json_files import read_training

TOKENS, TIME = "tokens", "time"
TIMED_STEPS = 3
RATES_FILE = "rates.json"
SHAPING = ("tokens", "batch_rows", "learning_rate", "weight_decay", "without_sae", "tolerance",
           "patience", "seed")  # fmt: skip


@dataclass(frozen=True)
class SweepJob:
    """A sweep: the options that all trainings share, and those that vary.

    Every SAE of a hook and sparsity begins with one standard SAE; each objective goes on from
    there, the standard one too, so that they differ in nothing else.

    Attributes:
        base: the options that all share; its ``out`` is the sweep's directory, its
            ``init_tokens`` are those of the standard SAEs.
        hooks: the SAEs' hooks.
        objectives: the objectives.
        sparsities: the sparsities.
        equal: ``tokens``, ``time`` or both: what every objective gets the same amount of. In equal
            time each trains on as many tokens as it can while the slowest trains on the base's.
        learning_rates: of the objectives that have one of their own; the others have the base's.
    """

    base: TrainJob
    hooks: tuple[str, ...]
    objectives: tuple[Objective, ...]
    sparsities: tuple[Sparsity, ...]
    equal: tuple[str, ...] = (TOKENS,)
    learning_rates: Mapping[Objective, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse empty lists, and values that are given twice.

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

    @property
    def init_tokens(self) -> int:
        """The tokens that the standard SAEs, with which all others begin, are trained on."""
        return self.base.init_tokens or self.base.tokens


@dataclass(frozen=True)
class Point:
    """One training of a sweep."""

    equal: str
    hook: str
    sparsity: Sparsity
    objective: Objective

    def directory(self, out: Path) -> Path:
        """Return its output directory below the sweep's."""
        return out / self.equal / self.hook / _plain(self.sparsity) / self.objective.value


def points(job: SweepJob) -> Iterator[Point]:
    """Give the trainings in their order: all objectives of a hook and sparsity together."""
    for equal, hook, sparsity, objective in product(
        job.equal, job.hooks, job.sparsities, job.objectives
    ):
        yield Point(equal, hook, sparsity, objective)


def planned(job: SweepJob, *, say: Say) -> dict[Point, TrainJob]:
    """Return each point's training, still without its initial SAE; for equal time, time a step.

    Raises:
        SaebenchError: where an objective cannot be trained as given.
    """
    rates = _rates(job, say=say) if TIME in job.equal else {}
    plan = {}
    for point in points(job):
        one = _training(job, point, out=point.directory(job.base.out))
        if point.equal == TIME:
            slowest = max(rates[point.hook].values())
            faster = slowest / rates[point.hook][point.objective.value]
            one = replace(one, tokens=int(one.tokens * faster))
        plan[point] = one
    return plan


def train_all(
    job: SweepJob, plan: Mapping[Point, TrainJob], *, progress: ProgressBar, say: Say
) -> None:
    """Train every point that is not trained yet.

    Args:
        job: the sweep.
        plan: as :func:`planned` returns it.
        progress: makes a progress bar.
        say: called with the directory of each training.

    Raises:
        SaebenchError: as a training raises it; earlier trainings stay.
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
    """Refuse an SAE that is there already, but was trained with other options.

    Raises:
        OptionError: naming the first option that differs.
    """
    recipe = read_training(one.out / RECORD_FILE).recipe
    options = {name: getattr(one, name) for name in SHAPING}
    options |= {"objective": one.objective.value, "loss": one.loss.value}
    for name, value in options.items():
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
    begun = checkpoint_path(one.out).exists()
    one = replace(one, resume=begun, force=False, fixed_rate=True)
    train(one, progress=progress, say=lambda _: None)


def _rates(job: SweepJob, *, say: Say) -> dict[str, dict[str, float]]:
    """Return seconds a token of each objective at each hook, timed once and stored."""
    file = job.base.out / RATES_FILE
    if file.exists():
        return _read_rates(file, job)
    say("timing each objective, for equal time")
    rates: dict[str, dict[str, float]] = {}
    for hook, objective in product(job.hooks, job.objectives):
        one = replace(
            job.base, hook=hook, objective=objective, sparsity=job.sparsities[0], init=RANDOM
        )
        rates.setdefault(hook, {})[objective.value] = _seconds_a_token(stepping(one))
    write_file(file, json.dumps(rates, indent=1).encode())
    return rates


def _seconds_a_token(timed: Stepping) -> float:
    """Return the seconds a token of the fastest step, and of filling the stream's pool."""
    steps = [_seconds(timed.step) for _ in range(1 + TIMED_STEPS)][1:]
    return min(steps) / timed.tokens + _seconds(timed.fill) / timed.filled_tokens


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _read_rates(file: Path, job: SweepJob) -> dict[str, dict[str, float]]:
    try:
        rates = json.loads(file.read_text(encoding="utf-8"))
        for hook, objective in product(job.hooks, job.objectives):
            float(rates[hook][objective.value])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{file}: does not time every objective at every hook ({error}); remove it to time anew"
        ) from error
    return rates


def _plain(sparsity: Sparsity) -> str:
    return str(sparsity).replace(":", "-").replace("/", "-")
