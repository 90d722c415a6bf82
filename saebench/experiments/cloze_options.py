"""Cloze options: which of a prompt's options is likeliest, clean and with an SAE in the prompt."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saebench.data.cloze_tokens import Choice, ClozeTokens
from saebench.errors import SaebenchError
from saebench.measures.state import State, concatenated, state
from saebench.subjects.hooks import Site
from saebench.subjects.host import Host
from saebench.subjects.sae import Subject
from saebench.substitution.batches import read_rows, write_rows
from saebench.substitution.engine import Progress
from saebench.substitution.gathering import reading_site, site_of
from saebench.substitution.passes import CleanPass, Passes

TOLERANCE = 1e-4  # of ln p, in fp32: the cached pass multiplies matrices of different shapes


@dataclass(frozen=True)
class OptionAnswers(State):
    """Whether the answer is the likeliest option, prompt by prompt.

    Attributes:
        offered: True for prompts with options.
        clean: True if the clean model scores the answer likeliest; False without options.
        changed: the same with the SAE substituted at every counted token of the prompt.
    """

    offered: np.ndarray = state(concatenated)
    clean: np.ndarray = state(concatenated)
    changed: np.ndarray = state(concatenated)

    @classmethod
    def of_none(cls, prompts: int) -> "OptionAnswers":
        """Return the answers of prompts without options."""
        none = np.zeros(prompts, dtype=bool)
        return cls(none, none, none)


class OptionEngine:
    """Scores options by Σ ln p of the word and the rest of its sentence, given the prompt.

    The prompt is run once, and its keys and values are used for all of its options. Whether that
    gives what full passes give is tried on the first prompt that needs the cache; if not, full
    passes are run.

    Source:
        Radford et al. 2019 (GPT-2), section 3.2: CBT's options.
    """

    def __init__(self, host: Host, prompts: ClozeTokens) -> None:
        self.host = host
        self.prompts = prompts
        self._passes = Passes(host)
        self._before = self._passes if host.original is None else Passes(host.original)
        self._cached: bool | None = None

    def measure(
        self, subjects: Sequence[Subject], *, progress: Progress
    ) -> dict[str, OptionAnswers]:
        """Return each SAE's answers, by its id; empty if no prompt has options."""
        choices = self.prompts.choices
        if not any(choices):
            return {}
        sites = {s.id: self._sites(s) for s in subjects}
        clean = np.zeros(len(choices), dtype=bool)
        changed = {s.id: clean.copy() for s in subjects}
        for i, choice in enumerate(choices):
            if choice is None:
                continue
            scorer = self._scorer(i, choice, list(sites.values()))
            of_original = scorer.of_model(self._before).log_p(None)
            clean[i] = int(of_original.argmax()) == choice.right
            for subject in subjects:
                scores = scorer.log_p((subject, *sites[subject.id]))
                changed[subject.id][i] = int(scores.argmax()) == choice.right
            progress(scorer.tokens)
        offered = np.array([choice is not None for choice in choices])
        return {name: OptionAnswers(offered, clean, right) for name, right in changed.items()}

    def _sites(self, subject: Subject) -> tuple[Site, Site]:
        site = site_of(self.host, subject)
        return site, reading_site(self.host, subject, writes=site)

    def _scorer(self, i: int, choice: Choice, sites: list[tuple[Site, Site]]) -> "_Scorer":
        end = int(self.prompts.length[i] - self.prompts.answer[i])
        ids = self.prompts.ids[i, :end].to(self.host.device)
        counted = self.prompts.counted[i, :end].to(self.host.device)
        places = list(dict.fromkeys(site for both in sites for site in both))
        scorer = _Scorer(self._passes, ids, counted, choice, places)
        if self._cached is None and scorer.needs_cache:
            self._cached = scorer.cache_is_right()
        scorer.cached = bool(self._cached)
        return scorer


Substituted = tuple[Subject, Site, Site] | None


class _Scorer:
    """One prompt with its options."""

    def __init__(
        self, passes: Passes, ids: Tensor, counted: Tensor, choice: Choice, places: list[Site]
    ) -> None:
        self.cached = False
        self._passes = passes
        self._host = passes.host
        self._prompt = ids
        self._counted = counted[None]
        self._tails, self._real = _padded(choice.tails, ids.device)
        self._places = places
        self._base: dict[bool, CleanPass] = {}

    def of_model(self, passes: Passes) -> "_Scorer":
        """Return the same prompt and options for another model of the same tokenizer."""
        if passes is self._passes:
            return self
        other = copy(self)
        other._passes, other._host, other._base = passes, passes.host, {}
        return other

    @property
    def tokens(self) -> int:
        """Number of tokens of the prompt and its options."""
        return len(self._prompt) + int(self._real.sum())

    @property
    def needs_cache(self) -> bool:
        """True if an option has tokens after its first, which the prompt alone does not predict."""
        return self._tails.shape[1] > 1

    @torch.inference_mode()
    def log_p(self, what: Substituted) -> Float[Tensor, "options"]:
        """Return Σ ln p of each option, clean or with an SAE substituted in the prompt."""
        final = self._from_cache(what) if self.cached else self._from_full_rows(what)
        logits = self._host.logits(final.flatten(0, 1)).unflatten(0, self._tails.shape)
        log_p = logits.log_softmax(dim=-1).gather(-1, self._tails[..., None])[..., 0]
        return log_p.double().where(self._real, 0).sum(dim=1)

    def cache_is_right(self) -> bool:
        """True if the options' scores with cached keys and values agree with full passes."""
        expected = self.log_p(None)
        self.cached = True
        try:
            cached = self.log_p(None)
        except (SaebenchError, AttributeError, TypeError, ValueError, NotImplementedError):
            # A model without a usable cache raises one of these.
            return False
        tolerance = TOLERANCE if self._host.is_fp32 else 8 * self._host.rounding
        return bool(((cached - expected).abs() <= tolerance * expected.abs().clamp_min(1)).all())

    def _from_cache(self, what: Substituted) -> Float[Tensor, "options tail d"]:
        """Run the prompt once, then the options with its keys and values."""
        run, ids = self._host.run, self._prompt[None]
        with self._substituted(ids, what):
            prompt = run(input_ids=ids, use_cache=True)
        last = prompt[0][:, -1:].expand(len(self._tails), -1, -1)
        if not self.needs_cache:
            return last
        cache = prompt.past_key_values
        cache.batch_repeat_interleave(len(self._tails))
        fed = self._tails[:, :-1].contiguous()
        return torch.cat(
            [last, run(input_ids=fed, past_key_values=cache, use_cache=True)[0]], dim=1
        )

    def _from_full_rows(self, what: Substituted) -> Float[Tensor, "options tail d"]:
        """Run the prompt followed by the option, for each option."""
        ids = torch.cat([self._prompt.expand(len(self._tails), -1), self._tails], dim=1)
        with self._substituted(ids, what):
            final = self._host.final_hidden(ids)
        return final[:, len(self._prompt) - 1 : -1]

    def _substituted(
        self, ids: Int[Tensor, "rows pos"], what: Substituted
    ) -> AbstractContextManager[None]:
        if what is None:
            return nullcontext()
        subject, site, reads = what
        base = self._clean(ids)
        counted = self._counted.new_zeros(ids.shape)
        counted[:, : len(self._prompt)] = self._counted
        x_hat = subject.reconstruct(read_rows(reads, base.activations[reads], counted)).x_hat
        changed = base.activations[site].clone()
        write_rows(site, changed, x_hat, counted)
        return self._passes.substituted(base, site, changed)

    def _clean(self, ids: Tensor) -> CleanPass:
        """Return the clean pass, run once for all SAEs."""
        if self.cached not in self._base:
            self._base[self.cached] = self._passes.clean(ids, self._places)
        return self._base[self.cached]


def _padded(
    tails: Sequence[Sequence[int]], device: torch.device
) -> tuple[Int[Tensor, "options tail"], Tensor]:
    """Return the options' ids, padded at the end, and a mask of the tokens that are not padding."""
    longest = max(map(len, tails))
    ids = torch.tensor([[*tail, *[0] * (longest - len(tail))] for tail in tails], device=device)
    real = torch.tensor([[t < len(tail) for t in range(longest)] for tail in tails], device=device)
    return ids, real
