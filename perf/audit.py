"""An audit of the gate: whether each metric that decides is stable, and follows training.

``python -m perf.audit`` trains two SAEs on the embedded model, with twelve checkpoints each, and
measures, for every metric that decides in baselines/thresholds.toml: how much it changes with the
seed of the noise; how much between disjoint halves of the texts; and which share of the pairs of
checkpoints that it tells apart it puts in the order of training. ``-o FILE`` writes the page.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from saebench.compare.comparison import Side
from saebench.compare.differences import Difference, Outcome, SideCase, difference
from saebench.compare.sides import sides_of_run
from saebench.experiments.prepare import prepare
from saebench.gates.rules import Role
from saebench.gates.thresholds import read_thresholds
from saebench.judging.cases import case_request
from saebench.judging.judge import Judge
from saebench.judging.rules_of_run import spec_of
from saebench.options import Settings
from saebench.progress import progress_bar
from saebench.properties import metric_names
from saebench.statistics.levels import LEVEL
from saebench.store.environment import thresholds_path
from saebench.store.sums_file import run_sums
from saebench.subjects.references import find_subjects
from saebench.zoo import corpus
from saebench.zoo.recipe import SAE_TRAINING, SAES, SaeTraining
from saebench.zoo.shelf import model_path

CHECKPOINTS = (8, 16, 32, 64, 128, 256, 512, 1024, 1800, 2600, 3600, 4999)
TRAINED = ("l2-standard", "l2-topk")
SEEDS = tuple(range(8))
MOST_SPREAD, LEAST_ORDERED = 0.02, 0.95
ELSEWHERE = ("cloze", "context_length", "controls", "promise")
"""Properties whose metrics are measured on other data, or against a given figure: not audited."""


@dataclass(frozen=True)
class Deciding:
    """A metric that decides, and the case that it is of."""

    metric: str
    about: str
    params: Mapping[str, str]

    @property
    def kind(self) -> str:
        """The case's name without its SAE."""
        inner = ",".join(f"{k}={v}" for k, v in self.params.items())
        return f"{self.about}[{inner}]" if inner else self.about


@dataclass(frozen=True)
class Audited:
    """What the audit measured of one metric.

    Attributes:
        metric: its name.
        seeds: the largest standard deviation over noise seeds, as a share of the mean.
        halves: the largest difference between two disjoint halves of the texts, as a share.
        covered: the share of SAEs for which it is within what the two intervals allow.
        decided: pairs of checkpoints that its paired interval tells apart.
        ordered: the share of them in which the later one is better.
    """

    metric: str
    seeds: float
    halves: float
    covered: float
    decided: int
    ordered: float

    @property
    def holds(self) -> bool:
        """True where noise moves it by at most 2% and it follows training in 95% of the pairs."""
        in_order = self.decided == 0 or self.ordered >= LEAST_ORDERED
        return self.seeds <= MOST_SPREAD and in_order


def deciding_metrics() -> tuple[Deciding, ...]:
    """Return the metrics of the shipped thresholds that decide by a limit."""
    path = thresholds_path(None)
    found: dict[str, Deciding] = {}
    for rule in read_thresholds(path, metrics=metric_names()):
        limit = rule.margin is None and rule.relative is None and not rule.scope.narrowness
        if limit and rule.role is Role.PRIMARY and rule.about not in ELSEWHERE:
            name, _, value = rule.case.partition("=")
            params = {name: value} if name else {}
            found[rule.metric] = Deciding(rule.metric, rule.about, params)
    return tuple(found.values())


def trained(name: str, to: Path, *, training: SaeTraining, steps: Sequence[int]) -> list[str]:
    """Train an SAE of the zoo's recipe and save it at some steps.

    Args:
        name: the recipe's.
        to: where to save the checkpoints.
        training: how.
        steps: at which.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tools.zoo.activations import collect
    from tools.zoo.saes import save_sae, train_sae

    recipe = next(each for each in SAES if each.name == name)
    model: Any = AutoModelForCausalLM.from_pretrained(model_path()).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(model_path())
    activations = collect(
        model, tokenizer, hook_names=[recipe.hook_name], corpus_seed=corpus.split_seed("sae"),
        n=training.n_activations,
    )[recipe.hook_name]  # fmt: skip
    saved: list[str] = []

    def save(step: int, sae: Any) -> None:
        if step in steps:
            saved.append(str(to / f"{name}-{step}"))
            save_sae(sae, Path(saved[-1]))

    train_sae(recipe, activations, seed=0, training=training, after_steps=save)
    return saved


def measured(
    settings: Settings, saes: Sequence[str], metrics: Sequence[Deciding]
) -> dict[str, Side]:
    """Judge SAEs on the same texts, and return their cases with the sums."""
    judge = Judge(settings)
    found = find_subjects(list(saes))
    wanted = {each.kind: each for each in metrics}.values()
    judge.announce(case_request(s.id, w.about, dict(w.params)) for s in found for w in wanted)
    judge.adopt(prepare(settings, found))
    for request in judge.requests:
        judge.case(request, progress=progress_bar)
    return sides_of_run(judge.run(complete=True), run_sums(judge.measured()))


def value(side: Side, of: Deciding) -> float:
    """Return a metric's value; NaN where it has none."""
    case = side.cases.get(of.kind)
    found = case.metrics[of.metric].value if case and of.metric in case.metrics else None
    return float("nan") if found is None else found


def over_seeds(settings: Settings, saes: Sequence[str], metrics: Sequence[Deciding]) -> Any:
    """Return each metric's standard deviation over noise seeds, as a share of its mean."""
    runs = [measured(replace(settings, seed=seed), saes, metrics) for seed in SEEDS]
    spread: dict[str, list[float]] = {}
    for of in metrics:
        for sae in runs[0]:
            values = np.array([value(run[sae], of) for run in runs])
            if np.isnan(values).all():
                continue  # undefined, whatever the noise
            share = values.std(ddof=1) / max(abs(values.mean()), 1e-12)
            spread.setdefault(of.metric, []).append(float(share))
    return spread


def over_halves(
    settings: Settings, texts: tuple[str, str], saes: Sequence[str], metrics: Sequence[Deciding]
) -> Any:
    """Return each metric's difference between two sets of texts, with what intervals allow."""
    one, two = (measured(replace(settings, dataset=each), saes, metrics) for each in texts)
    found: dict[str, list[tuple[float, bool]]] = {}
    for of in metrics:
        for sae in one:
            pair = (one[sae].cases[of.kind], two[sae].cases[of.kind])
            found.setdefault(of.metric, []).append(_apart(of.metric, pair))
    return found


def _apart(metric: str, pair: tuple[SideCase, SideCase]) -> tuple[float, bool]:
    """Return the difference as a share of the mean, and whether the two intervals allow it."""
    both = [each.metrics[metric] for each in pair]
    if any(m.value is None for m in both):
        return 0.0, True
    values = [float(m.value or 0.0) for m in both]
    half = [(m.ci.high - m.ci.low) / 2 if m.ci else 0.0 for m in both]
    apart = abs(values[0] - values[1])
    allowed = (half[0] ** 2 + half[1] ** 2) ** 0.5 + 1e-9
    mean = abs(values[0] + values[1]) / 2
    return apart / max(mean, 1e-12), apart <= allowed


def in_order(sides: Mapping[str, Side], of: Deciding) -> tuple[int, int]:
    """Return how many pairs of checkpoints a metric tells apart, and how many of them in order.

    Args:
        sides: the checkpoints, in the order of training.
        of: the metric.
    """
    decided = ordered = 0
    for early, late in combinations(sides.values(), 2):
        found = [each.cases.get(of.kind) for each in (early, late)]
        pair = tuple(case for case in found if case is not None and of.metric in case.metrics)
        if len(pair) < 2:
            continue
        shown = difference(spec_of(of.metric), (pair[0], pair[1]), case=of.kind, level=LEVEL)
        if isinstance(shown, Difference) and shown.outcome in (Outcome.WORSE, Outcome.BETTER):
            decided += 1
            ordered += shown.outcome is Outcome.BETTER
    return decided, ordered


def write_texts(path: Path, *, start: int, count: int) -> str:
    """Write stories that the model and its SAEs were not trained on."""
    seed = corpus.split_seed("heldout")
    stories = (corpus.document(seed, index) for index in range(start, start + count))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in stories))
    return str(path)


def audit(
    room: Path, *, sequences: int, training: SaeTraining, steps: Sequence[int]
) -> tuple[Audited, ...]:
    """Train, measure, and return what was found of each metric that decides.

    Args:
        room: a directory for what is made.
        sequences: of each measurement.
        training: of the SAEs.
        steps: of the checkpoints.
    """
    metrics = deciding_metrics()
    per_sae = [trained(name, room, training=training, steps=steps) for name in TRAINED]
    last = [saes[-1] for saes in per_sae]
    halves = tuple(
        write_texts(room / f"half-{i}.jsonl", start=3 * i * sequences, count=3 * sequences)
        for i in (0, 1)
    )
    settings = Settings(
        model=str(model_path()), dataset=halves[0], sequences=sequences,
        interventions=("eps_random",),
    )  # fmt: skip
    seeds = over_seeds(settings, last, metrics)
    apart = over_halves(settings, (halves[0], halves[1]), last, metrics)
    ranked = [measured(settings, saes, metrics) for saes in per_sae]
    found = []
    for of in metrics:
        pairs = [in_order(sides, of) for sides in ranked]
        decided, ordered = (sum(column) for column in zip(*pairs, strict=True))
        share = ordered / decided if decided else float("nan")
        allowed = float(np.mean([inside for _, inside in apart[of.metric]]))
        most = max(by for by, _ in apart[of.metric])
        found.append(
            Audited(of.metric, max(seeds.get(of.metric, [0.0])), most, allowed, decided, share)
        )
    return tuple(found)


HEADINGS = (
    "metric", "seeds", "halves", "within intervals", "pairs told apart", "in order", "holds",
)  # fmt: skip


def rows(found: Sequence[Audited]) -> list[tuple[str, ...]]:
    """Return the table's rows, as text."""
    return [
        (
            each.metric,
            f"{each.seeds:.2%}",
            f"{each.halves:.1%}",
            f"{each.covered:.0%}",
            str(each.decided),
            "–" if each.decided == 0 else f"{each.ordered:.0%}",
            "yes" if each.holds else "no",
        )
        for each in found
    ]


def markdown(found: Sequence[Audited]) -> str:
    """Return the table as Markdown."""
    lines = [HEADINGS, tuple("---" for _ in HEADINGS), *rows(found)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Audit, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m perf.audit", description=__doc__)
    parser.add_argument("--sequences", type=int, default=512)
    parser.add_argument("--smoke", action="store_true", help="tiny: does it run?")
    parser.add_argument("-o", "--output", type=Path, help="write the table as Markdown")
    options = parser.parse_args(argv)
    training, steps, sequences = SAE_TRAINING, CHECKPOINTS, options.sequences
    if options.smoke:
        training = replace(training, steps=40, n_activations=20_000, warmup_steps=5, decay_steps=5)
        steps, sequences = (4, 16, 39), 16
    with tempfile.TemporaryDirectory() as directory:
        found = audit(Path(directory), sequences=sequences, training=training, steps=steps)
    table = Table(*HEADINGS, title=f"the gate audited, {sequences} sequences")
    for row in rows(found):
        table.add_row(*map(escape, row))
    Console(width=140).print(table)
    if options.output:
        options.output.write_text(markdown(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
