"""One substituted token of each sequence: sums by offset, and examples of the predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saebench.errors import MeasurementError, UndefinedDirection
from saebench.experiments.base import OneToken, Targets
from saebench.experiments.windows import (
    Placed,
    SingleTokenEngine,
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

TOP = 25
TEXT_TOKENS = 48


@dataclass(frozen=True)
class Example:
    """The likeliest next tokens after one token, and their probabilities when it is substituted.

    Examples as in Gurnee 2024, "Intuition: how big a deal is this (KL) difference?".

    Attributes:
        sequence: the token's sequence index in the run.
        position: its position in that sequence.
        text: the text up to and including the substituted token, its last 48 tokens at most.
        tokens: the 25 likeliest next tokens of the clean model, the likeliest first.
        probabilities: their probabilities, ``clean`` and under each substitution.
        kl: of each substitution, in nats.
    """

    sequence: int
    position: int
    text: str
    tokens: tuple[str, ...]
    probabilities: dict[str, tuple[float, ...]]
    kl: dict[str, float]

    def as_series(self) -> dict[str, Any]:
        """Return the example in the form of the result file."""
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
    """Return the model's predictions, clean and under each substitution.

    Args:
        host: the model, for its unembedding and its tokenizer.
        ids: the tokens up to and including the substituted one.
        clean: the clean final hidden state at that token.
        changed: the final hidden state under each substitution.
        sequence: the sequence's index in the run.
    """
    base = clean_rows(host.logits(clean[None]))
    logits = {name: host.logits(hidden[None]) for name, hidden in changed.items()}
    target = torch.zeros(1, dtype=torch.int64, device=clean.device)  # CE is not used
    top = base.logits[0].topk(min(TOP, base.logits.shape[1])).indices
    by_side = {"clean": base.logits} | logits
    return Example(
        sequence=sequence,
        position=len(ids) - 1,
        text=host.tokenizer.decode(list(ids)[-TEXT_TOKENS:]),
        tokens=tuple(host.tokenizer.decode([i]) for i in top.tolist()),
        probabilities={name: _at(top, rows[0]) for name, rows in by_side.items()},
        kl={n: float(compare(base, rows, targets=target).kl) for n, rows in logits.items()},
    )


def _at(top: Tensor, logits: Tensor) -> tuple[float, ...]:
    return tuple(logits.double().softmax(dim=-1)[top].tolist())


IN_EXAMPLES = ("sae", "eps_random")
QUANTILES = (0.1, 0.5, 0.9, 0.99, 1.0)  # of KL under the SAE, of the tokens in examples
EXAMPLES = len(QUANTILES)


def _spread_examples(parts: Sequence[tuple[Example, ...]]) -> tuple[Example, ...]:
    """Merge the parts' examples: as many as an undivided run has, spread over their KL."""
    every = sorted((e for part in parts for e in part), key=lambda e: e.kl.get("sae", 0.0))
    if len(every) <= EXAMPLES:
        return tuple(every)
    places = np.linspace(0, len(every) - 1, EXAMPLES).round().astype(int)
    return tuple(every[place] for place in places)


@dataclass(kw_only=True)
class SingleMeasurement(Measurement):
    """One SAE's sums with one token of each sequence substituted; positions are offsets from it.

    Offsets 0 and 1 have sums of their own too, as bins.

    Attributes:
        position: of the substituted token.
        cut: number of requested offsets that lie beyond the context.
        left_out: number of sequences not measured, because a special token is at the position.
        examples: the model's predictions after a few of the tokens.
    """

    position: int = state()
    cut: int = state()
    left_out: int = state(total)
    examples: tuple[Example, ...] = state(_spread_examples, default=())

    def table(self) -> Mapping[str, np.ndarray]:
        """Return the per-sequence sums of every channel, without the sequences left out."""
        measured = self.measured_sequences
        return {channel: values[measured] for channel, values in self.sums.by_sequence.items()}

    @property
    def measured_sequences(self) -> np.ndarray:
        """The indices of the sequences that were not left out."""
        return np.flatnonzero(self.sums.by_sequence[in_bin(SCORED, 0)] > 0)

    @property
    def offsets(self) -> range:
        """The positions that are read out, relative to the substituted one."""
        return range(self.sums.context)


@dataclass
class _SubjectSums:
    """An SAE at its site, and its sums so far."""

    at: Placed
    interventions: list[str]
    sums: TokenSums
    failures: dict[str, UndefinedDirection] = field(default_factory=dict)


class SingleEngine(SingleTokenEngine):
    """Measures SAEs with one token of each sequence substituted."""

    def measure(
        self,
        subjects: Sequence[tuple[Subject, Sequence[str]]],
        *,
        position: int,
        offsets: int,
        progress: Progress,
    ) -> dict[str, SingleMeasurement | MeasurementError]:
        """Return each SAE's measurement by its id, or the error that prevented it.

        Args:
            subjects: the SAEs, each with the interventions it needs.
            position: of the token to substitute.
            offsets: number of positions after it that are read out too, within the context.
            progress: called with the number of positions just read out.

        Raises:
            NotApplicable: if there is no such position, or no token there may be substituted.

        Source:
            docs/metrics.md (single_token); Gurnee 2024, "Single Token Intervention Results".
        """
        where = stretch(self._engine.tokens, position, offsets=offsets)
        failed: dict[str, SingleMeasurement | MeasurementError] = {}
        gathering: list[_SubjectSums] = []
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

    def _prepared(self, subject: Subject, names: list[str], where: Stretch) -> _SubjectSums:
        edges = tuple(range(min(where.width, 2) + 1))
        sums = TokenSums(len(where.kept), where.width, edges)
        with_clusters(sums, self._engine.tokens)
        return _SubjectSums(self._places.of(subject), names, sums)

    def _measure_batch(
        self, windows: Windows, batch: WindowBatch, gathering: list[_SubjectSums]
    ) -> None:
        hidden: dict[str, Tensor] = {}
        for g in gathering:
            missing = [name for name in g.interventions if _key(g, name) not in hidden]
            changed = _substitutions(g, batch, missing, stages=windows.stages)
            hidden |= windows.resume(batch, g.at.site, changed)
        with windows.stages(READOUT):
            ce, readouts = read_out(windows.host, batch.final, hidden, targets=batch.targets)
        with windows.stages(FOLD):
            for g in gathering:
                own = {name: readouts[_key(g, name)] for name in g.interventions}
                fold(g.sums, ce, own, at=batch.scored)

    def _finished(self, windows: Windows, g: _SubjectSums) -> SingleMeasurement:
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

    def _examples(self, windows: Windows, g: _SubjectSums) -> tuple[Example, ...]:
        """Return examples at quantiles of the tokens' KL under the SAE."""
        substituted = windows.where.kept.numpy()
        kl = g.sums.by_sequence.get(in_bin("sae.kl", 0), np.zeros(len(substituted)))
        chosen = spread_over(kl, substituted, quantiles=QUANTILES)
        return tuple(self._example(windows, g, sequence) for sequence in chosen)

    def _example(self, windows: Windows, g: _SubjectSums, sequence: int) -> Example:
        batch = windows.batch(slice(sequence, sequence + 1))
        names = [name for name in IN_EXAMPLES if name in g.interventions]
        x = _substitutions(g, batch, names, stages=windows.stages)
        hidden = windows.resume(batch, g.at.site, {name: x[_key(g, name)] for name in names})
        read = batch.window.whole.ids[0, : windows.where.position + 1].tolist()
        changed = {name: rows[0] for name, rows in hidden.items()}
        place = self._engine.tokens.first + sequence
        return example(windows.host, read, batch.final[0], changed, sequence=place)


def _substitutions(
    g: _SubjectSums, batch: WindowBatch, names: Sequence[str], *, stages: Stages
) -> dict[str, Tensor]:
    """Return x′ of the substituted tokens for each intervention that can be computed."""
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


def _key(g: _SubjectSums, name: str) -> str:
    """Name a substitution; SAEs at one site share those that do not depend on the SAE."""
    owner = str(g.at.site) if name in INDEPENDENT_OF_SAE else g.at.subject.id
    return f"{owner}/{name}"


class OneTokenMeasurer(SingleTokenMeasurer):
    """Measures SAEs with one token of each sequence substituted."""

    experiment: OneToken

    def run(self, targets: Targets, *, progress: ProgressBar) -> tuple[Mapping[str, Any], Stages]:
        """Measure all SAEs on the bench's sequences."""
        tokens, wanted = self.experiment, [(t.subject, t.interventions) for t in targets]
        engine = SingleEngine(self.bench.places, batch_size=self.bench.settings.batch_size)
        count = len(self.bench.part(self.bench.tokens).ids) * (1 + tokens.offsets)
        label = f"{self.label(targets)}, token {tokens.position}"
        with progress(label, count) as advance:
            by_name = engine.measure(wanted, **asdict(tokens), progress=advance)
        return by_name, engine.stages
