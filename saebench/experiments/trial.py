"""Checks of each SAE on a few activations before the run: hooks, reconstruction, normalisation."""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saebench.data.tokens import TokenSet
from saebench.errors import HookError, SubjectError
from saebench.experiments.bypass import (
    Untouched,
    differ,
    refuse_bypass,
    refuse_skip_at_one_hook,
    refuse_two_names_of_one_activation,
    relative_gap,
)
from saebench.formats.metadata import SubjectMetadata
from saebench.subjects.hooks import Site
from saebench.subjects.host import Host
from saebench.subjects.modules import is_known
from saebench.subjects.normalisation import folded_by
from saebench.subjects.sae import Subject
from saebench.substitution.batches import cut, read_rows, sequences_at_once
from saebench.substitution.gathering import reading_site, site_of
from saebench.substitution.passes import Passes

TRIED = 16  # activations


def find_place(host: Host, subject: Subject) -> Site:
    """Return the site that the SAE reads at, after checking its shapes on two constant activations.

    Raises:
        UsageError: if the model has no such hook, the SAE does not fit it, its output is not
            features or not a reconstruction, or a skip path leads from a hook to itself.
    """
    site = site_of(host, subject)
    reads = reading_site(host, subject, writes=site)
    refuse_skip_at_one_hook(subject, reads=reads, writes=site)
    x = torch.ones(2, reads.width, dtype=torch.float32, device=host.device)
    try:
        x_hat = subject.reconstruct(x).x_hat
    except SubjectError as error:
        if error.__cause__ is None:
            raise
        raise HookError(
            f"{subject.source}: cannot reconstruct activations of width {reads.width} at "
            f"{reads.hook} of {host.name}: {error.__cause__}"
        ) from error
    if x_hat.shape != (2, site.width):
        raise HookError(
            f"{subject.source}: gives {x_hat.shape[-1]} components for {site.width} at "
            f"{site.hook} of {host.name}"
        )
    return reads


def try_on(host: Host, subjects: Iterable[Subject], tokens: TokenSet) -> None:
    """Check each SAE's consistency on activations of the first sequence.

    Raises:
        SubjectError: as :func:`hold_against_itself` does, and for a skip path between two names
            of one activation.
    """
    written = [(s, site_of(host, s)) for s in subjects]
    sites = [(s, reading_site(host, s, writes=site), site) for s, site in written]
    ids, counted = (part[:1].to(host.device) for part in (tokens.ids, tokens.counted))
    places = list(dict.fromkeys(site for _, reads, writes in sites for site in (reads, writes)))
    activations = Passes(host).clean(ids, places, stop_early=True).activations
    for subject, *both in sites:
        given, compared = (read_rows(s, activations[s], counted)[:TRIED] for s in both)
        if len(given):
            refuse_two_names_of_one_activation(subject, given, compared)
            hold_against_itself(subject, given)


@torch.inference_mode()
def hold_against_itself(subject: Subject, x: Float[Tensor, "tokens d"]) -> None:
    """Check that decode(encode(x)) is forward(x), is reproducible, and depends on features alone.

    Each token's features must depend on that token alone, and its reconstruction on them alone.

    Args:
        subject: the SAE.
        x: some of its activations.

    Raises:
        SubjectError: naming what differs, and by how much.
    """
    untouched = Untouched(subject)
    first = subject.reconstruct(x)
    if not torch.isfinite(first.x_hat).all():
        return  # every case of this SAE ends with an ERROR that says so
    forward = subject.calls.forward(x, width=first.x_hat.shape[-1])
    if forward is not None and differ(subject, first.x_hat, forward):
        raise SubjectError(
            f"{subject.source}: decode(encode(x)) is not what forward(x) gives: on {len(x)} "
            f"activations they differ by {relative_gap(first.x_hat, forward):.1%} of forward's "
            f"length (encode: {float(first.l0.mean()):.1f} features a token); what forward does "
            "in addition, such as keeping the k largest, belongs into encode or decode: wrap the "
            "SAE in a module that does it there"
        )
    if not is_known(subject.sae):
        _hold_against_repetition(subject, x, first.x_hat)
    refuse_bypass(subject, x, untouched)


def _hold_against_repetition(subject: Subject, x: Tensor, first: Tensor) -> None:
    """Check that reconstructing again, and each activation alone, gives the same."""
    second = subject.reconstruct(x).x_hat
    if differ(subject, second, first):
        raise SubjectError(
            f"{subject.source}: reconstructs the same {len(x)} activations differently each time "
            f"(by {relative_gap(second, first):.1%} of their length): it is random or "
            "has a state, so that no metric of it is reproducible; switch that off in evaluation"
        )
    alone = torch.cat([subject.reconstruct(row).x_hat for row in x.split(1)])
    if differ(subject, alone, first):
        raise SubjectError(
            f"{subject.source}: its reconstruction of an activation depends on the others in its "
            f"batch: alone, {len(x)} activations are reconstructed with a difference of "
            f"{relative_gap(alone, first):.1%}; a BatchTopK SAE needs its threshold, or a "
            "fixed k for each token in evaluation"
        )


DIGITS = 6  # all processes of a run round to the same factor, and a user can pass it as an option


def with_estimated_norm(host: Host, subject: Subject, tokens: TokenSet) -> Subject:
    """Return an SAE with a normalisation factor, estimated on the tokens, folded into its weights.

    Raises:
        SubjectError: if none of the tokens is one that the SAE was trained on.
    """
    site = reading_site(host, subject, writes=site_of(host, subject))
    mask = trained_on(tokens.ids, subject.metadata, host)
    count = int(mask.sum())
    if count == 0:
        raise SubjectError(
            f"{subject.source}: --sae-norm-factor estimate: none of the texts' tokens is one that "
            "it was trained on (exclude_special_tokens, seqpos_slice); give the number"
        )
    mean = _norms(host, site, tokens.ids, mask) / count
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
    """Return a mask of the tokens that the SAE's training uses, by its metadata."""
    mask = torch.ones_like(ids, dtype=torch.bool)
    excluded = metadata.excluded_tokens
    if excluded is not False:
        left_out = sorted(host.special_ids) if excluded is True else list(excluded)
        mask &= ~torch.isin(ids, torch.tensor(left_out, dtype=ids.dtype))
    if metadata.seqpos_slice:
        within = torch.zeros(ids.shape[1], dtype=torch.bool)
        within[list(range(ids.shape[1]))[slice(*metadata.seqpos_slice)]] = True
        mask &= within
    return mask


def _norms(
    host: Host,
    site: Site,
    ids: Int[Tensor, "sequences context"],
    mask: Bool[Tensor, "sequences context"],
) -> float:
    """Return Σ‖x‖ over the masked tokens, summed in float64."""
    passes, total = Passes(host), 0.0
    for rows in cut(len(ids), sequences_at_once(host, context=ids.shape[1], vectors=2)):
        clean = passes.clean(ids[rows].to(host.device), [site], stop_early=True)
        x = read_rows(site, clean.activations[site], mask[rows].to(host.device))
        total += float(x.norm(dim=-1).cpu().double().sum())
    return total
