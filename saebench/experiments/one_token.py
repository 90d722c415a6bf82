"""What a model says at one token, clean and substituted: examples for intuition (seed 002)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saebench.errors import MeasurementError, UndefinedDirection
from saebench.experiments.base import OneToken, Targets
from saebench.experiments.windows import (
    Placed,
    Places,
    SingleTokenMeasurer,
    Stretch,
    WindowBatch,
    Windows,
    stretch,
)
from saebench.measures.divergence import clean_rows, compare
from saebench.measures.names import INDEPENDENT_OF_SAE, in_bin
from saebench.measures.resources import FOLD, NOISE, READOUT, Stages
from saebench.measures.state import state, total
from saebench.measures.sums import TokenSums
from saebench.progress import ProgressBar
from saebench.statistics.rank import spread_over
from saebench.subjects.host import Host
from saebench.subjects.sae import Subject
from saebench.substitution.engine import Progress
from saebench.substitution.gathering import fold
from saebench.substitution.interventions import substitute
from saebench.substitution.measurement import SCORED, Measurement, with_clusters
from saebench.substitution.readout import read_out

if TYPE_CHECKING:
    pass


TOP = 25
TEXT_TOKENS = 48


@dataclass(frozen=True)
class Example:
    """The likeliest next tokens after one token, and what the substitutions make of them.

    Attributes:
        sequence: its sequence in the run.
        position: its position there.
        text: what the model has read, at most 48 tokens of it, the substituted one last.
        tokens: the 25 likeliest next tokens of the clean model, the likeliest first.
        probabilities: theirs, ``clean`` and under each substitution.
        kl: of each substitution, in nats.
    """

    sequence: int
    position: int
    text: str
    tokens: tuple[str, ...]
    probabilities: dict[str, tuple[float, ...]]
    kl: dict[str, float]

    def as_series(self) -> dict[str, Any]:
        """Return the example as the result file holds it."""
        return asdict(self)


@torch.inference_mode()
def example(
    host: Host,
    ids: Sequence[int],
    clean: Float[Tensor, "d"],
    changed: Mapping[str, Float[Tensor, "d"]],
    *,
    sequence: int,
) -> Example:
    """Return what the model says next, clean and under each substitution.

    Args:
        host: the model, for its unembedding and its tokenizer.
        ids: what it has read; the last is the substituted token.
        clean: its final hidden state there.
        changed: that under each substitution.
        sequence: which sequence of the run this is.
    """
    base = clean_rows(host.logits(clean[None]))
    logits = {name: host.logits(hidden[None]) for name, hidden in changed.items()}
    target = torch.zeros(1, dtype=torch.int64, device=clean.device)  # CE is not looked at
    top = base.logits[0].topk(min(TOP, base.logits.shape[1])).indices
    said = {"clean": base.logits} | logits
    return Example(
        sequence=sequence,
        position=len(ids) - 1,
        text=host.tokenizer.decode(list(ids)[-TEXT_TOKENS:]),
        tokens=tuple(host.tokenizer.decode([i]) for i in top.tolist()),
        probabilities={name: _at(top, rows[0]) for name, rows in said.items()},
        kl={n: float(compare(base, rows, targets=target).kl) for n, rows in logits.items()},
    )


def _at(top: Tensor, logits: Tensor) -> tuple[float, ...]:
    return tuple(logits.double().softmax(dim=-1)[top].tolist())


SHOWN = ("sae", "eps_random")  # in examples
QUANTILES = (0.1, 0.5, 0.9, 0.99, 1.0)  # of KL under the SAE, of the tokens that are shown
EXAMPLES = len(QUANTILES)


def _spread_examples(parts: Sequence[tuple[Example, ...]]) -> tuple[Example, ...]:
    """Of each part's examples return as many as of a whole run, spread over their KL."""
    every = sorted((e for part in parts for e in part), key=lambda e: e.kl.get("sae", 0.0))
    if len(every) <= EXAMPLES:
        return tuple(every)
    places = np.linspace(0, len(every) - 1, EXAMPLES).round().astype(int)
    return tuple(every[place] for place in places)


@dataclass(kw_only=True)
class SingleMeasurement(Measurement):
    """One SAE's sums with one token of each sequence substituted; positions are offsets from it.

    Sums of offset 0 and of offset 1 are also kept apart, as bins.

    Attributes:
        position: of the substituted token.
        cut: offsets asked for that lie beyond the context.
        left_out: sequences not measured, since a special token stands there.
        examples: what the model says after a few of the tokens.
    """

    position: int = state()
    cut: int = state()
    left_out: int = state(total)
    examples: tuple[Example, ...] = state(_spread_examples, default=())

    def table(self) -> Mapping[str, np.ndarray]:
        """Return the per-sequence sums of every channel, without the sequences left out."""
        sums = self.sums.by_sequence
        kept = sums[in_bin(SCORED, 0)] > 0
        return {channel: values[kept] for channel, values in sums.items()}

    @property
    def offsets(self) -> range:
        """The positions read out, counted from the substituted one."""
        return range(self.sums.context)


@dataclass
class _Subject:
    """A subject with its place, and the sums it gathers."""

    at: Placed
    interventions: list[str]
    sums: TokenSums
    failures: dict[str, UndefinedDirection] = field(default_factory=dict)


class SingleEngine:
    """Measures SAEs with one token of each sequence substituted.

    Args:
        places: where the SAEs are, and with it the run's model, tokens and seed.
        batch_size: sequences at once; chosen from the model's size where None.
    """

    def __init__(self, places: Places, *, batch_size: int | None = None) -> None:
        self._places = places
        self._engine = places.engine
        self._batch_size = batch_size
        self.stages = Stages(self._engine.host.device)

    def measure(
        self,
        subjects: Sequence[tuple[Subject, Sequence[str]]],
        *,
        position: int,
        offsets: int,
        progress: Progress,
    ) -> dict[str, SingleMeasurement | MeasurementError]:
        """Return each SAE's measurement by its id, or why it cannot be measured.

        Args:
            subjects: the SAEs, each with the interventions it needs.
            position: of the token to substitute.
            offsets: how many positions after it are read out too, as far as the context goes.
            progress: called with the number of positions just read out.

        Raises:
            NotApplicable: where there is no such position, or nothing may be substituted there.

        Source:
            METRICS.md 3 (single_token); seed 002.
        """
        where = stretch(self._engine.tokens, position, offsets=offsets)
        failed: dict[str, SingleMeasurement | MeasurementError] = {}
        gathering: list[_Subject] = []
        for subject, names in subjects:
            try:
                gathering.append(self._prepared(subject, list(names), where))
            except MeasurementError as error:
                failed[subject.id] = error
        if not gathering:
            return failed
        windows = Windows(self._engine, where, [g.at.site for g in gathering], self._batch_size)
        self.stages = windows.stages
        jobs = 1 + sum(len(g.interventions) for g in gathering)
        for batch in windows.batches(jobs=jobs):
            self._measure_batch(windows, batch, gathering)
            progress(batch.scored.counted.numel())
        return failed | {g.at.subject.id: self._finished(windows, g) for g in gathering}

    def _prepared(self, subject: Subject, names: list[str], where: Stretch) -> _Subject:
        apart = tuple(range(min(where.width, 2) + 1))
        sums = TokenSums(len(where.kept), where.width, apart)
        with_clusters(sums, self._engine.tokens)
        return _Subject(self._places.of(subject), names, sums)

    def _measure_batch(
        self, windows: Windows, batch: WindowBatch, gathering: list[_Subject]
    ) -> None:
        hidden: dict[str, Tensor] = {}
        for g in gathering:
            missing = [name for name in g.interventions if _key(g, name) not in hidden]
            made = _substitutions(g, batch, missing, stages=windows.stages)
            hidden |= windows.resume(batch, g.at.site, made)
        with windows.stages(READOUT):
            ce, readouts = read_out(windows.host, batch.final, hidden, targets=batch.targets)
        with windows.stages(FOLD):
            for g in gathering:
                mine = {name: readouts[_key(g, name)] for name in g.interventions}
                fold(g.sums, ce, mine, at=batch.scored)

    def _finished(self, windows: Windows, g: _Subject) -> SingleMeasurement:
        return SingleMeasurement(
            sums=g.sums.fetch(),
            interventions=tuple(g.interventions),
            fired=np.zeros(0, dtype=np.int64),
            path=windows.passes.path(g.at.site),
            failures=dict(g.failures),
            position=windows.where.position,
            cut=windows.where.cut,
            left_out=windows.where.left_out,
            examples=self._examples(windows, g),
        )

    def _examples(self, windows: Windows, g: _Subject) -> tuple[Example, ...]:
        """Return tokens spread over the quantiles of their KL under the SAE."""
        kept = windows.where.kept.numpy()
        kl = g.sums.by_sequence.get(in_bin("sae.kl", 0), np.zeros(len(kept)))
        chosen = spread_over(kl, kept, quantiles=QUANTILES)
        return tuple(self._example(windows, g, sequence) for sequence in chosen)

    def _example(self, windows: Windows, g: _Subject, sequence: int) -> Example:
        batch = windows.batch(slice(sequence, sequence + 1))
        shown = [name for name in SHOWN if name in g.interventions]
        made = _substitutions(g, batch, shown, stages=windows.stages)
        hidden = windows.resume(batch, g.at.site, {name: made[_key(g, name)] for name in shown})
        read = batch.window.whole.ids[0, : windows.where.position + 1].tolist()
        changed = {name: rows[0] for name, rows in hidden.items()}
        place = self._engine.tokens.first + sequence
        return example(windows.host, read, batch.final[0], changed, sequence=place)


def _substitutions(
    g: _Subject, batch: WindowBatch, names: Sequence[str], *, stages: Stages
) -> dict[str, Tensor]:
    """Return x′ of the substituted tokens for each intervention that can be made."""
    tokens = g.at.tokens(batch, stages=stages)
    changed: dict[str, Tensor] = {}
    for name in names:
        try:
            with stages(NOISE):
                changed[_key(g, name)] = substitute(name, tokens)
        except UndefinedDirection as error:
            g.failures[name] = error
            g.interventions.remove(name)
    return changed


def _key(g: _Subject, name: str) -> str:
    """Name a substitution; those that do not depend on the SAE are shared at their site."""
    owner = str(g.at.site) if name in INDEPENDENT_OF_SAE else g.at.subject.id
    return f"{owner}/{name}"


class OneTokenMeasurer(SingleTokenMeasurer):
    """Measures SAEs with one token of each sequence substituted."""

    experiment: OneToken

    def run(self, targets: Targets, *, progress: ProgressBar) -> tuple[Mapping[str, Any], Stages]:
        """Run all SAEs on the bench's sequences."""
        tokens, wanted = self.experiment, [(t.subject, t.interventions) for t in targets]
        engine = SingleEngine(self.bench.places, batch_size=self.bench.settings.batch_size)
        count = len(self.bench.part(self.bench.tokens).ids) * (1 + tokens.offsets)
        label = f"{self.label(targets)}, token {tokens.position}"
        with progress(label, count) as advance:
            by_name = engine.measure(wanted, **asdict(tokens), progress=advance)
        return by_name, engine.stages
