"""Windows: one substituted token of each sequence and the positions after it, in batches."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saebench.data.tokens import TokenSet
from saebench.errors import NotApplicable
from saebench.experiments.base import Extent, Measurer, Results, Target, Targets
from saebench.measures.resources import CLEAN, RESUME, Stages
from saebench.progress import ProgressBar
from saebench.subjects.hooks import Site
from saebench.subjects.sae import Subject
from saebench.substitution.batches import read_rows, tokens_a_pass, write_rows
from saebench.substitution.engine import Engine
from saebench.substitution.gathering import Scored, bank_errors, check_first_look, site_of
from saebench.substitution.interventions import BankErrors, Tokens
from saebench.substitution.prefix import PrefixPasses, Window
from saebench.substitution.reference import Reference

KEY_BYTES = 128 << 20  # of keys and values: of a batch's prefixes, or of one pass
HIDDEN_BYTES = 128 << 20


@dataclass(frozen=True)
class Stretch:
    """The positions that are run: the substituted one and those after it.

    Attributes:
        position: of the substituted token.
        width: number of positions that are read out, the substituted one included.
        cut: number of requested offsets that lie beyond the context.
        kept: mask of the sequences in which the substituted token counts.
    """

    position: int
    width: int
    cut: int
    kept: Bool[Tensor, "sequences"]

    @property
    def left_out(self) -> int:
        """Number of sequences with a special token at the position, which is not substituted."""
        return int((~self.kept).sum())


def stretch(
    tokens: TokenSet, position: int, *, offsets: int, sequences: int | None = None
) -> Stretch:
    """Return the positions to run, within the context.

    Args:
        tokens: the run's sequences.
        position: of the token to substitute.
        offsets: number of positions after it that are read out too.
        sequences: use only this many of the run's first sequences; all if None.

    Raises:
        NotApplicable: if there is no such position, or no token there may be substituted.
    """
    context = tokens.ids.shape[1]
    if position >= context:
        raise NotApplicable(
            f"position {position} lies beyond the sequences, which have {context} tokens; choose "
            "an earlier one (--sae-position N, of the draws --sae-draw-position N), or measure on "
            "longer ones (--sae-context T)"
        )
    first = None if sequences is None else max(0, sequences - tokens.first)
    counted = tokens.counted[:first, position]
    if not counted.any() and not tokens.is_part:
        raise NotApplicable(
            f"position {position} is substituted in no sequence: position 0 and special tokens "
            "never are; choose another (--sae-position N, of the draws --sae-draw-position N), or "
            "count them too (--sae-score-bos)"
        )
    width = min(offsets + 1, context - position)
    return Stretch(position, width, offsets + 1 - width, counted)


@dataclass(frozen=True)
class WindowBatch:
    """A batch of windows after the clean pass.

    Attributes:
        window: the clean pass.
        at: mask of the substituted tokens, at most one in each sequence.
        scored: the tokens whose predictions are read out.
        targets: the next token of each scored one.
        sequence: the substituted tokens' sequence indices in the run.
        position: their positions.
    """

    window: Window
    at: Bool[Tensor, "batch window"]
    scored: Scored
    targets: Int[Tensor, "tokens"]
    sequence: Int[Tensor, "substituted"]
    position: Int[Tensor, "substituted"]

    @property
    def final(self) -> Float[Tensor, "tokens d"]:
        """The clean final hidden states of the scored tokens."""
        final = self.window.tail.final
        assert final is not None
        return final[self.scored.counted]


class Windows:
    """Runs windows of an engine's tokens, clean and with one site substituted.

    Args:
        engine: provides the model and the tokens.
        where: the positions to run.
        sites: where activations are read and substituted.
        batch_size: sequences in a batch; if None, chosen from the model's size.

    Attributes:
        stages: the time of each stage.
    """

    def __init__(
        self,
        engine: Engine,
        where: Stretch,
        sites: Sequence[Site],
        batch_size: int | None = None,
    ) -> None:
        self.host = engine.host
        self.where = where
        self.stages = Stages(engine.host.device)
        self.passes = PrefixPasses(engine.host, position=where.position)
        self._tokens = engine.tokens
        self._batch_size = batch_size
        self._sites = list(dict.fromkeys(sites))

    def batches(self, *, jobs: int) -> Iterator[WindowBatch]:
        """Yield batches of all sequences in order, with those left out not substituted.

        Args:
            jobs: number of substitutions whose final hidden states are in memory at once.
        """
        n = len(self.where.kept)
        size = self._batch_size or self._sequences_at_once(jobs)
        for start in range(0, n, size):
            rows = slice(start, min(start + size, n))
            if self.where.kept[rows].any():
                yield self.batch(rows)

    def stack(self, batch: WindowBatch) -> int:
        """Return how many substitutions of the batch are run in one pass."""
        where, scored = self.where, batch.scored.counted
        by_keys = KEY_BYTES // (2 * 4 * self.host.d_model * (where.position + where.width))
        return max(1, min(tokens_a_pass(self.host) // scored.numel(), by_keys // len(scored)))

    def resume(
        self, batch: WindowBatch, site: Site, changed: Mapping[str, Tensor]
    ) -> dict[str, Float[Tensor, "tokens d"]]:
        """Return the final hidden states of the scored tokens under each x′."""
        base = batch.window.tail.activations[site]
        at_once, names, hidden = self.stack(batch), list(changed), {}
        for start in range(0, len(names), at_once):
            some = names[start : start + at_once]
            with self.stages(RESUME):
                stacked = base.expand(len(some), *base.shape).clone()
                for place, name in zip(stacked, some, strict=True):
                    write_rows(site, place, changed[name], batch.at)
                final = self.passes.resume(batch.window, site, stacked)
                hidden |= {n: f[batch.scored.counted] for n, f in zip(some, final, strict=True)}
        return hidden

    @torch.inference_mode()
    def batch(self, rows: slice) -> WindowBatch:
        """Run the clean pass of these sequences, and return their windows."""
        device, start = self.host.device, self.where.position
        span = slice(start, start + self.where.width)
        substituted = self.where.kept[rows].to(device)
        ids = self._tokens.ids[rows].to(device)
        with self.stages(CLEAN):
            window = self.passes.clean(ids[:, : span.stop], self._sites)
        counted = self._tokens.counted[rows, span].to(device) & substituted[:, None]
        has_target = self._tokens.has_target[rows, span].to(device) & substituted[:, None]
        at = torch.zeros_like(counted)
        at[:, 0] = substituted
        sequence = substituted.nonzero()[:, 0] + rows.start + self._tokens.first
        targets = ids.roll(-1, dims=1)[:, span][counted]
        scored = Scored(rows, counted, has_target)
        position = torch.full_like(sequence, start)
        return WindowBatch(window, at, scored, targets, sequence, position)

    def _sequences_at_once(self, jobs: int) -> int:
        where, wide = self.where, self.host.d_model * 4
        layers = max(1, len(self.host.blocks) - min(site.block for site in self._sites))
        by_keys = KEY_BYTES // (2 * wide * layers * max(1, where.position))
        by_hidden = HIDDEN_BYTES // (jobs * wide * where.width)
        by_tokens = tokens_a_pass(self.host) // (where.position + where.width)
        return max(1, min(by_keys, by_hidden, by_tokens))


@dataclass(frozen=True)
class Placed:
    """An SAE at its site in the model.

    Attributes:
        subject: the SAE.
        site: where it reads and writes.
        reference: corpus statistics at the site.
        bank: the SAE's errors on the reference's bank.
        seed: root seed of all noise.
    """

    subject: Subject
    site: Site
    reference: Reference
    bank: BankErrors
    seed: int

    def tokens(self, batch: WindowBatch, *, stages: Stages) -> Tokens:
        """Return the batch's substituted tokens with their reconstructions."""
        x = read_rows(self.site, batch.window.tail.activations[self.site], batch.at)
        made = self.subject.reconstruct(x, stages=stages)
        place = (batch.sequence, batch.position, self.reference, self.bank)
        return Tokens(x, made.x_hat, made.l0, *place, self.seed)


class Places:
    """Cache of SAEs at their sites, shared by all single-token experiments.

    Args:
        engine: provides the run's model, seed and corpus statistics.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._placed: dict[str, Placed] = {}

    def of(self, subject: Subject) -> Placed:
        """Return an SAE at its site.

        Raises:
            MeasurementError: if its reconstructions of the reference's bank cannot be measured.
        """
        if subject.id not in self._placed:
            site = site_of(self.engine.host, subject)
            reference = self.engine.reference(site)
            made = subject.reconstruct_many(reference.bank)
            check_first_look(subject, reference.bank, made.x_hat)
            errors = bank_errors(self.engine.host, site, reference.bank, made)
            self._placed[subject.id] = Placed(subject, site, reference, errors, self.engine.seed)
        return self._placed[subject.id]


class SingleTokenEngine:
    """The engine of measurements at single tokens: each adds its ``measure``.

    Args:
        places: the SAEs at their sites, with the run's model, tokens and seed.
        batch_size: sequences in a batch; if None, chosen from the model's size.

    Attributes:
        stages: the time that the last measurement took, by stage.
    """

    def __init__(self, places: Places, *, batch_size: int | None = None) -> None:
        self._places = places
        self._engine = places.engine
        self._batch_size = batch_size
        self.stages = Stages(self._engine.host.device)


class SingleTokenMeasurer(Measurer):
    """Base of the single-token measurers, which do not measure transcoders."""

    def extent(self, targets: Targets) -> Extent:  # noqa: ARG002
        """Return the run's sequences."""
        return self.bench.extent

    def corpora(self, targets: Targets) -> list[TokenSet]:  # noqa: ARG002
        """Return the run's sequences."""
        return [self.bench.tokens]

    def measure(self, targets: Targets, *, progress: ProgressBar) -> Results:
        """Measure all SAEs except transcoders."""
        results = Results(failures={t.name: _transcoder(t) for t in targets if _reads_elsewhere(t)})
        plain = [target for target in targets if target.name not in results.failures]
        if not plain:
            return results
        try:
            by_name, stages = self.run(plain, progress=progress)
        except NotApplicable as error:
            return results | Results.failed(plain, error)
        ids = self.bench.part(self.bench.tokens).ids
        self.bench.count_cost(self.experiment, plain, stages, tokens=ids)
        return results | Results.of(by_name)

    @abstractmethod
    def run(self, targets: Targets, *, progress: ProgressBar) -> tuple[Mapping[str, Any], Stages]:
        """Return each SAE's measurement by its id, and the time of each stage."""


def _reads_elsewhere(target: Target) -> bool:
    return target.subject.metadata.input_hook is not None


def _transcoder(target: Target) -> NotApplicable:
    """Return why a transcoder cannot be measured on single tokens."""
    return NotApplicable(
        f"single tokens: {target.name} is a transcoder, which reads at "
        f"{target.subject.metadata.input_hook}; only SAEs that read where they write can be"
    )
