"""Cloze prompts: the answer's probability, clean and with the SAE in the prompt."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float
from scipy.sparse import csr_array, vstack
from torch import Tensor

from saebench.data.cloze_tokens import ClozeTokens
from saebench.errors import NotApplicable
from saebench.experiments.base import ACTIVE, Extent, Measurer, Results, Targets
from saebench.experiments.cloze_options import OptionAnswers, OptionEngine
from saebench.measures.resources import CLEAN, READOUT, RESUME, Stages
from saebench.measures.state import (
    State,
    concatenated,
    concatenated_if_any,
    merged,
    stacked,
    state,
    total,
)
from saebench.progress import ProgressBar
from saebench.records.metric import CLUSTER
from saebench.subjects.hooks import Site
from saebench.subjects.host import Host
from saebench.subjects.sae import Subject
from saebench.substitution.batches import read_rows, tokens_a_pass, write_rows
from saebench.substitution.engine import Progress
from saebench.substitution.gathering import reading_site, site_of
from saebench.substitution.measurement import silence
from saebench.substitution.passes import CleanPass, Passes

LAST_TOKENS = 32  # of a prompt: a feature active in these counts (Anders & Bloom 2024)
ROWS_AT_ONCE = 256  # of logits: 50 MB at a vocabulary of 50,000


@dataclass(frozen=True)
class Answers(State):
    """A model's predictions of each prompt's answer.

    Attributes:
        log_probability: ln p of the complete answer, teacher-forced, in nats.
        first: True if the answer's first token is the argmax.
        whole: True if every token of the answer is the argmax.
        ce: mean cross-entropy of the prompt's own tokens, in nats; None if not measured.
    """

    log_probability: np.ndarray = state(concatenated)
    first: np.ndarray = state(concatenated)
    whole: np.ndarray = state(concatenated)
    ce: np.ndarray | None = state(concatenated, default=None)


@dataclass(frozen=True)
class ClozeMeasurement(State):
    """The answers with one SAE and those of the clean model, prompt by prompt.

    Attributes:
        clean: the clean model's answers; of a patched model, those of the original.
        changed: the answers with the SAE substituted at every counted token of the prompt.
        squared_error: mean ‖x - x̂‖² over the prompt.
        l0: mean number of active features over the prompt.
        cut: prompts shortened to the model's context.
        options: the answers chosen from the prompts' options; None if no prompt has any.
        active: the features active on each prompt, that is at any counted one of its last 32
            tokens; None if they were not requested.
        clusters: the cluster of each prompt, if any prompts repeat each other.
    """

    clean: Answers = state(merged)
    changed: Answers = state(merged)
    squared_error: np.ndarray = state(concatenated)
    l0: np.ndarray = state(concatenated)
    cut: int = state(total)
    options: OptionAnswers | None = state(merged, default=None)
    active: csr_array | None = state(stacked, default=None)
    clusters: np.ndarray | None = state(concatenated_if_any, default=None)

    @classmethod
    def merged(cls, parts: Sequence[Any]) -> Self:
        """Return the merged parts; a part without options has none for each of its prompts."""
        if any(part.options is not None for part in parts):
            parts = [
                replace(p, options=p.options or OptionAnswers.of_none(len(p.l0))) for p in parts
            ]
        return super().merged(parts)

    def check(self) -> None:
        """Refuse an SAE of which no feature fires at any prompt.

        Raises:
            MeasurementError: with the number of prompts.
        """
        if len(self.l0) and not self.l0.any():
            raise silence(len(self.l0), "prompts")

    def table(self) -> dict[str, np.ndarray]:
        """Return one row for each prompt: the prompt is the unit of resampling."""
        clean, changed = self.clean, self.changed
        table = {
            "n.prompts": np.ones(len(clean.log_probability)),
            "clean.whole": clean.whole.astype(float),
            "clean.first": clean.first.astype(float),
            "sae.whole": changed.whole.astype(float),
            "sae.first": changed.first.astype(float),
            "delta": changed.log_probability - clean.log_probability,
            "squared_error": self.squared_error,
            "l0": self.l0,
        }
        if clean.ce is not None and changed.ce is not None:
            table["ce_increase"] = changed.ce - clean.ce
        if self.options is not None:
            table["n.options"] = self.options.offered.astype(float)
            table["clean.options"] = self.options.clean.astype(float)
            table["sae.options"] = self.options.changed.astype(float)
        if self.clusters is not None:
            table[CLUSTER] = self.clusters.astype(float)
        return table


class ClozeEngine:
    """Measures SAEs of one model on cloze prompts, with one clean pass for all of them.

    Args:
        host: the model.
        prompts: the prompts and their answers.
        batch_size: prompts in a batch; if None, chosen from their length.
    """

    def __init__(self, host: Host, prompts: ClozeTokens, *, batch_size: int | None = None) -> None:
        self.host = host
        self.prompts = prompts
        self.stages = Stages(host.device)
        self._batch_size = batch_size
        self._passes = Passes(host)
        # A model that was patched for its SAE answers for the SAE; the original is compared with.
        self._reference = host.original or host
        self._before = self._passes if host.original is None else Passes(host.original)

    def measure(
        self, subjects: Sequence[Subject], *, progress: Progress, active: Collection[str] = ()
    ) -> dict[str, ClozeMeasurement]:
        """Return each SAE's measurement, by its id.

        Args:
            subjects: the SAEs.
            progress: called with the number of tokens just finished.
            active: ids of the SAEs whose active features are stored for each prompt.
        """
        sites = {s.id: site_of(self.host, s) for s in subjects}
        reads = {s.id: reading_site(self.host, s, writes=sites[s.id]) for s in subjects}
        clean: list[tuple[Tensor, ...]] = []
        changed: dict[str, list[tuple[Tensor, ...]]] = {s.id: [] for s in subjects}
        features: dict[str, list[csr_array]] = {sae: [] for sae in active}
        for rows in self._batches():
            ids = self._trimmed(self.prompts.ids, rows)
            counted = self._trimmed(self.prompts.counted, rows)
            with self.stages(CLEAN):
                both = (*sites.values(), *reads.values())
                base = self._passes.clean(ids, list(dict.fromkeys(both)))
                before = base if self._before is self._passes else self._before.clean(ids, [])
            assert before.final is not None
            clean.append(self._answers(self._reference, before.final, ids, rows))
            for subject in subjects:
                places = sites[subject.id], reads[subject.id]
                changed[subject.id].append(self._with_sae(subject, counted, base, places, rows))
                if subject.id in features:
                    place, last = reads[subject.id], self._last(counted, rows)
                    x = base.activations[place]
                    features[subject.id].append(_active(subject, place, x, last))
            progress(len(rows) * self.prompts.ids.shape[1])
        joined = {
            name: self._joined(clean, parts, features.get(name, []))
            for name, parts in changed.items()
        }
        options = OptionEngine(self.host, self.prompts).measure(subjects, progress=progress)
        return {name: replace(each, options=options.get(name)) for name, each in joined.items()}

    def _batches(self) -> list[Tensor]:
        """Return batches of prompts of similar length, so that there is little padding."""
        order = self.prompts.length.argsort(stable=True)
        by_tokens = max(1, tokens_a_pass(self.host) // int(self.prompts.length.max()))
        return list(order.split(self._batch_size or by_tokens))

    def _trimmed(self, table: Tensor, rows: Tensor) -> Tensor:
        longest = int(self.prompts.length[rows].max())
        return table[rows, :longest].to(self.host.device)

    def _last(self, counted: Bool[Tensor, "batch pos"], rows: Tensor) -> Bool[Tensor, "batch pos"]:
        """Return the counted ones of each prompt's last tokens."""
        end = (self.prompts.length - self.prompts.answer)[rows].to(counted.device)[:, None]
        place = torch.arange(counted.shape[1], device=counted.device)[None]
        return counted & (place >= end - LAST_TOKENS)

    def _with_sae(
        self,
        subject: Subject,
        counted: Tensor,
        base: CleanPass,
        places: tuple[Site, Site],
        rows: Tensor,
    ) -> tuple[Tensor, ...]:
        site, reads = places
        activation = base.activations[site]
        x = read_rows(site, activation, counted)
        read = read_rows(reads, base.activations[reads], counted)
        reconstruction = subject.reconstruct(read, stages=self.stages)
        with self.stages(RESUME):
            changed = activation.clone()
            write_rows(site, changed, reconstruction.x_hat, counted)
            final = self._passes.resume(base, site, changed[None])[0]
        error = (x - reconstruction.x_hat).double().square().sum(dim=-1)
        return (
            *self._answers(self.host, final, base.ids, rows),
            _mean_by_row(error, counted),
            _mean_by_row(reconstruction.l0.double(), counted),
        )

    @torch.inference_mode()
    def _answers(
        self, host: Host, final: Float[Tensor, "batch pos d"], ids: Tensor, rows: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the answer's ln p, whether its first and all tokens are right, the prompt's CE."""
        length = self.prompts.length[rows].to(ids.device)[:, None]
        begin = length - self.prompts.answer[rows].to(ids.device)[:, None]
        place = torch.arange(ids.shape[1], device=ids.device)[None]
        # The token at one position is predicted at the position before it.
        predicts = (place + 1 >= begin) & (place + 1 < length)
        targets = ids.roll(-1, dims=1)[predicts]
        with self.stages(READOUT):
            logits = host.logits(final[predicts])
            log_p = logits.log_softmax(dim=-1).gather(1, targets[:, None])[:, 0].double()
            right = logits.argmax(dim=-1) == targets
        wrong = _sum_by_row((~right).double(), predicts)
        first = (place + 1 == begin)[predicts]
        first_right = _sum_by_row((right & first).double(), predicts)
        inside = self._trimmed(self.prompts.counted, rows) & (place + 1 < begin)
        ce = self._prompt_ce(host, final, ids, inside)
        return _sum_by_row(log_p, predicts), first_right > 0, wrong == 0, ce

    def _prompt_ce(
        self, host: Host, final: Tensor, ids: Tensor, mask: Tensor
    ) -> Float[Tensor, "batch"]:
        """Return each prompt's mean CE of the next token, at the positions in the mask."""
        rows = zip(
            final[mask].split(ROWS_AT_ONCE),
            ids.roll(-1, dims=1)[mask].split(ROWS_AT_ONCE),
            strict=True,
        )
        ce = [F.cross_entropy(host.logits(f), t, reduction="none") for f, t in rows]
        return _mean_by_row(torch.cat(ce).double(), mask)

    def _joined(
        self,
        clean: list[tuple[Tensor, ...]],
        changed: list[tuple[Tensor, ...]],
        features: list[csr_array],
    ) -> ClozeMeasurement:
        order = torch.cat(self._batches())
        base = [_in_order(column, order) for column in zip(*clean, strict=True)]
        *answers, error, l0 = (_in_order(column, order) for column in zip(*changed, strict=True))
        active = None
        if features:
            active = csr_array(vstack(features))[order.argsort().numpy()]
        return ClozeMeasurement(
            Answers(*base), Answers(*answers), error, l0, self.prompts.cut, active=active,
            clusters=self.prompts.clusters,
        )  # fmt: skip


def _active(
    subject: Subject, site: Site, activation: Tensor, last: Bool[Tensor, "batch pos"]
) -> csr_array:
    """Return which features are active on each prompt of a batch."""
    fired = subject.active(read_rows(site, activation, last))
    by_prompt = fired.split(last.sum(dim=1).tolist())
    return csr_array(torch.stack([tokens.any(dim=0) for tokens in by_prompt]).cpu().numpy())


def _sum_by_row(values: Tensor, mask: Bool[Tensor, "batch pos"]) -> Float[Tensor, "batch"]:
    spread = torch.zeros(mask.shape, dtype=values.dtype, device=values.device)
    spread[mask] = values
    return spread.sum(dim=1)


def _mean_by_row(values: Tensor, mask: Bool[Tensor, "batch pos"]) -> Float[Tensor, "batch"]:
    return _sum_by_row(values, mask) / mask.sum(dim=1).clamp_min(1)


def _in_order(column: Sequence[Tensor], order: Tensor) -> np.ndarray:
    joined = torch.cat(list(column)).cpu()
    out = torch.empty_like(joined)
    out[order] = joined
    return out.numpy()


class ClozeMeasurer(Measurer):
    """Measures SAEs on the run's cloze prompts."""

    def extent(self, targets: Targets) -> Extent:
        """Return the prompts; undivided if there are none."""
        if self.bench.texts.prompts is None:
            return super().extent(targets)
        prompts = self.bench.readings.prompts()
        return Extent(len(prompts.ids), prompts.ids.shape[1], prompts.fingerprint)

    def tokens_of(self, subject: Subject) -> ClozeTokens:  # noqa: ARG002
        """Return the prompts.

        Raises:
            NotApplicable: if there are none.
        """
        return self.bench.readings.prompts()

    def measure(self, targets: Targets, *, progress: ProgressBar) -> Results:
        """Measure all SAEs; without prompts every one of them fails."""
        bench = self.bench
        try:
            prompts = bench.readings.prompts()
        except NotApplicable as error:
            return Results.failed(targets, error)
        bench.data[str(self.experiment)] = bench.readings.record_of_prompts()
        prompts = prompts if bench.rows is None else prompts.part(bench.rows)
        active = {target.name for target in targets if ACTIVE in target.keep}
        subjects = [target.subject for target in targets]
        with progress(f"{self.label(targets)}, cloze", prompts.tokens) as advance:
            engine = ClozeEngine(bench.host, prompts, batch_size=bench.settings.batch_size)
            by_name = engine.measure(subjects, active=active, progress=advance)
        bench.count_cost(self.experiment, targets, engine.stages, tokens=prompts.ids)
        return Results.of(by_name)
