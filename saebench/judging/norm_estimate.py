"""The normalisation factor of an SAE that was trained on scaled activations, from the run's texts.

SAELens' ActivationsStore estimates √d / E‖x‖ over the activations that it trains on: every token,
BOS among them, but those of ``exclude_special_tokens`` and outside ``seqpos_slice``.
"""

import math

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saebench.data.tokens import TokenSet
from saebench.errors import SubjectError
from saebench.subjects.hooks import Site
from saebench.subjects.host import Host
from saebench.subjects.metadata import SubjectMetadata
from saebench.subjects.normalisation import folded_by
from saebench.subjects.sae import Subject
from saebench.substitution.batches import cut
from saebench.substitution.engine import site_of
from saebench.substitution.memory import sequences_at_once
from saebench.substitution.passes import Passes
from saebench.substitution.reading import reading_site
from saebench.substitution.rows import read_rows

DIGITS = 6  # processes that share a run out find the same factor, and a user can give it again


def with_estimated_norm(host: Host, subject: Subject, tokens: TokenSet) -> Subject:
    """Return an SAE with the factor estimated on tokens folded into its weights.

    Raises:
        SubjectError: where no token is of those that it was trained on.
    """
    site = reading_site(host, subject, writes=site_of(host, subject))
    seen = trained_on(tokens.ids, subject.metadata, host)
    count = int(seen.sum())
    if count == 0:
        raise SubjectError(
            f"{subject.source}: --sae-norm-factor estimate: none of the texts' tokens is one that "
            "it was trained on (exclude_special_tokens, seqpos_slice); give the number"
        )
    mean = _norms(host, site, tokens.ids, seen) / count
    factor = float(f"{math.sqrt(site.width) / mean:.{DIGITS}g}")
    return folded_by(
        subject,
        factor,
        note=f"normalisation factor {factor:.{DIGITS}g}, estimated as √{site.width} over the mean "
        f"norm of {count} activations at {site.hook} (--sae-norm-factor estimate)",
    )


def trained_on(
    ids: Int[Tensor, "sequences context"], metadata: SubjectMetadata, host: Host
) -> Bool[Tensor, "sequences context"]:
    """Return which tokens are of those that training counts."""
    seen = torch.ones_like(ids, dtype=torch.bool)
    excluded = metadata.excluded_tokens
    if excluded is not False:
        left_out = sorted(host.special_ids) if excluded is True else list(excluded)
        seen &= ~torch.isin(ids, torch.tensor(left_out, dtype=ids.dtype))
    if metadata.seqpos_slice:
        within = torch.zeros(ids.shape[1], dtype=torch.bool)
        within[list(range(ids.shape[1]))[slice(*metadata.seqpos_slice)]] = True
        seen &= within
    return seen


def _norms(
    host: Host,
    site: Site,
    ids: Int[Tensor, "sequences context"],
    seen: Bool[Tensor, "sequences context"],
) -> float:
    """Return Σ‖x‖ over the tokens, summed in float64."""
    passes, total = Passes(host), 0.0
    for rows in cut(len(ids), sequences_at_once(host, context=ids.shape[1], kept=2)):
        clean = passes.clean(ids[rows].to(host.device), [site], stop_early=True)
        x = read_rows(site, clean.activations[site], seen[rows].to(host.device))
        total += float(x.norm(dim=-1).cpu().double().sum())
    return total
