"""Readout: KL, CE, TV and top-1 from final hidden states, unembedded block by block."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saebench.measures.divergence import (
    RowReadout,
    clean_rows,
    compare,
    cross_entropy,
    in_float64,
)
from saebench.subjects.host import Host
from saebench.substitution.batches import IMMEDIATE, DeferredChecks

# Logits in memory at once. A matrix product should have many rows, of the clean pass and of every
# intervention together, since each product reads all of the unembedding. The elementwise work after
# it should have few: on a CPU a block and the four others that are read with it stay in the cache.
PRODUCT = {"cpu": 768 * 50_257, "cuda": 4096 * 50_257}
BLOCK = {"cpu": 8 * 50_257, "cuda": 1024 * 50_257}


@dataclass(frozen=True)
class Repeated:
    """Final hidden states that are each the same for ``times`` consecutive rows."""

    hidden: Float[Tensor, "different d"]
    times: int


Changed = Float[Tensor, "rows d"] | Repeated


def every_row(changed: Changed) -> Float[Tensor, "rows d"]:
    """Return the final hidden state of every row."""
    if isinstance(changed, Repeated):
        return changed.hidden.repeat_interleave(changed.times, dim=0)
    return changed


class Readout:
    """Reads out batches of final hidden states, reusing the memory for logits.

    Args:
        host: the model, for its unembedding.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._memory = torch.empty(0, dtype=torch.float32)

    @torch.inference_mode()
    def __call__(
        self,
        clean: Float[Tensor, "rows d"],
        changed: Mapping[str, Changed],
        *,
        targets: Int[Tensor, "rows"],
        deferred_checks: DeferredChecks = IMMEDIATE,
    ) -> tuple[Float[Tensor, "rows"], dict[str, RowReadout]]:
        """Return the clean cross-entropy of each row, and each intervention's readout.

        The clean distribution of a block of rows is computed once for all interventions.

        Args:
            clean: final hidden states of the clean pass.
            changed: those of each intervention.
            targets: true next tokens.
            deferred_checks: collects the checks for rows that overflow fp32; by default such rows
                are computed again in float64.
        """
        ce: list[Tensor] = []
        parts: dict[str, list[RowReadout]] = {name: [] for name in changed}
        for rows in _cut(len(clean), self._rows_at_once(changed.values())):
            hidden = [clean[rows], *(_hidden(side, rows) for side in changed.values())]
            base, *others = self._logits(hidden)
            for block in _cut(len(base), self._at_once(BLOCK)):
                goals = targets[rows][block]
                side = clean_rows(base[block])
                ce.append(cross_entropy(side, goals))
                for (name, of), logits in zip(changed.items(), others, strict=True):
                    changed_rows = logits[_places(of, rows, block)]
                    parts[name].append(compare(side, changed_rows, targets=goals, settle=False))
        joined = {name: _joined(chunks) for name, chunks in parts.items()}
        settled = {
            name: self._settled(readout, clean, changed[name], targets, deferred_checks)
            for name, readout in joined.items()
        }
        return torch.cat(ce), settled

    @torch.inference_mode()
    def cross_entropy(
        self,
        states: Float[Tensor, "rows d"],
        *,
        row: Int[Tensor, "pairs"],
        targets: Int[Tensor, "pairs"],
    ) -> Float[Tensor, "pairs"]:
        """Return -ln P(target) of pairs of a final hidden state and a next token, in nats.

        Args:
            states: final hidden states, each unembedded once.
            row: the hidden state of each pair.
            targets: its next token.
        """
        row, targets = row.to(states.device), targets.to(states.device)
        out = torch.empty(len(row), dtype=torch.float32, device=states.device)
        for rows in _cut(len(states), self._at_once(PRODUCT)):
            logits = self._logits([states[rows]])[0]
            pairs = ((row >= rows.start) & (row < rows.stop)).nonzero()[:, 0]
            local = row[pairs] - rows.start
            own = logits[local, targets[pairs]]
            out[pairs] = logits.logsumexp(dim=-1)[local] - own
        return out

    def _settled(
        self,
        readout: RowReadout,
        clean: Tensor,
        changed: Changed,
        targets: Tensor,
        deferred_checks: DeferredChecks,
    ) -> RowReadout:
        """Compute the rows that overflow fp32 again in float64."""
        if deferred_checks.defer(readout.overflowed):
            return readout
        rows = readout.overflowed.nonzero()[:, 0]
        for some in rows.split(max(1, int(self._at_once(BLOCK)))) if len(rows) else ():
            place = some // changed.times if isinstance(changed, Repeated) else some
            states = changed.hidden if isinstance(changed, Repeated) else changed
            sides = (self._host.logits(clean[some]), self._host.logits(states[place]))
            for name, values in in_float64(*sides, targets=targets[some]).items():
                # The values may be beyond fp32 too: the column then becomes float64.
                column = getattr(readout, name).to(values.dtype)
                column[some] = values
                readout = replace(readout, **{name: column})
        return readout

    def _rows_at_once(self, changed: Iterable[Changed]) -> float:
        """Return how many rows of the clean pass to unembed together, a multiple of a block."""
        rows = int(self._at_once(PRODUCT) / _sides(changed))
        block = int(self._at_once(BLOCK))
        return rows if rows < block else rows - rows % max(1, block)

    def _at_once(self, logits: Mapping[str, int]) -> float:
        """Return how many rows have the number of logits given for the host's device."""
        most = logits.get(self._host.device.type, logits["cuda"])
        return most / self._host.vocab_size

    def _logits(self, hidden: Sequence[Tensor]) -> Sequence[Float[Tensor, "rows vocab"]]:
        """Unembed several parts' rows in one product."""
        sizes = [len(part) for part in hidden]
        rows = torch.cat(list(hidden))
        if len(self._memory) < len(rows):
            self._memory = self._host.logits_memory(len(rows))
        return self._host.logits(rows, out=self._memory[: len(rows)]).split(sizes)


def read_out(
    host: Host,
    clean: Float[Tensor, "rows d"],
    changed: Mapping[str, Changed],
    *,
    targets: Int[Tensor, "rows"],
) -> tuple[Float[Tensor, "rows"], dict[str, RowReadout]]:
    """Read out one batch, as :class:`Readout` does."""
    return Readout(host)(clean, changed, targets=targets)


def _sides(changed: Iterable[Changed]) -> float:
    """Return how many rows are unembedded for each row of the clean pass, itself included."""
    return 1 + sum(1 / side.times if isinstance(side, Repeated) else 1 for side in changed)


def _cut(rows: int, size: float) -> Iterator[slice]:
    step = max(1, int(size))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _hidden(side: Changed, rows: slice) -> Float[Tensor, "different d"]:
    """Return the final hidden states of the rows, each repeated state once."""
    if not isinstance(side, Repeated):
        return side[rows]
    return side.hidden[rows.start // side.times : -(-rows.stop // side.times)]


def _places(side: Changed, rows: slice, block: slice) -> slice | Int[Tensor, "rows"]:
    """Return the index of each row's logits in a block; one index if all rows share a state."""
    if not isinstance(side, Repeated):
        return block
    before = rows.start // side.times
    first, last = ((rows.start + row) // side.times for row in (block.start, block.stop - 1))
    if first == last:
        return slice(first - before, first - before + 1)
    row = torch.arange(block.start, block.stop, device=side.hidden.device) + rows.start
    return row // side.times - before


def _joined(chunks: list[RowReadout]) -> RowReadout:
    return RowReadout(
        kl=torch.cat([c.kl for c in chunks]),
        ce=torch.cat([c.ce for c in chunks]),
        tv=torch.cat([c.tv for c in chunks]),
        agrees=torch.cat([c.agrees for c in chunks]),
    )
