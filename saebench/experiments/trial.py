"""Each SAE tried on a few activations before the run: it fits its hooks, and is what it says."""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saebench.data.tokens import TokenSet
from saebench.errors import HookError, SubjectError
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
# Relative, of a token's reconstruction. What is the same in exact arithmetic is within 1e-5 in
# fp32, and within 1e-2 in half precision.
CLOSE, CLOSE_HALF = 1e-3, 5e-2
# A feature on the edge of firing may do so on one matrix kernel and not on another.
FEW = 2  # tokens


def find_place(host: Host, subject: Subject) -> Site:
    """Return where the SAE reads, once two made-up activations went through it.

    Raises:
        UsageError: where the model has no such hook, the SAE does not fit it, or gives what is no
            features or no reconstruction.
    """
    site = site_of(host, subject)
    reads = reading_site(host, subject, writes=site)
    x = torch.ones(2, reads.width, dtype=torch.float32, device=host.device)
    try:
        found = subject.reconstruct(x)
    except SubjectError as error:
        if error.__cause__ is None:
            raise
        raise HookError(
            f"{subject.source}: cannot reconstruct activations of width {reads.width} at "
            f"{reads.hook} of {host.name}: {error.__cause__}"
        ) from error
    if found.x_hat.shape != (2, site.width):
        raise HookError(
            f"{subject.source}: gives {found.x_hat.shape[-1]} components for {site.width} at "
            f"{site.hook} of {host.name}"
        )
    return reads


def try_on(host: Host, subjects: Iterable[Subject], tokens: TokenSet) -> None:
    """Hold what each SAE does against itself, on activations of the first sequence.

    Raises:
        SubjectError: for one whose reconstruction is not its forward's, or not the token's own.
    """
    sites = [(s, reading_site(host, s, writes=site_of(host, s))) for s in subjects]
    ids, counted = (part[:1].to(host.device) for part in (tokens.ids, tokens.counted))
    places = list(dict.fromkeys(site for _, site in sites))
    found = Passes(host).clean(ids, places, stop_early=True).activations
    for subject, site in sites:
        rows = read_rows(site, found[site], counted)[:TRIED]
        if len(rows):
            hold_against_itself(subject, rows)


@torch.inference_mode()
def hold_against_itself(subject: Subject, x: Float[Tensor, "tokens d"]) -> None:
    """Refuse an SAE whose reconstruction is not its forward's, or not the token's own.

    Args:
        subject: the SAE.
        x: some of its activations.

    Raises:
        SubjectError: naming what differs, and by how much.
    """
    once = subject.reconstruct(x)
    if not torch.isfinite(once.x_hat).all():
        return  # every case of it becomes an ERROR that says so
    whole = subject.calls.forward(x, width=once.x_hat.shape[-1])
    if whole is not None and _differ(subject, once.x_hat, whole):
        raise SubjectError(
            f"{subject.source}: decode(encode(x)) is not what forward(x) gives: on {len(x)} "
            f"activations they differ by {_off(once.x_hat, whole):.1%} of forward's length "
            f"(encode: {float(once.l0.mean()):.1f} features a token); what forward does beside "
            "them, such as keeping the k largest, belongs into encode or decode: wrap the SAE in a "
            "module that does it there"
        )
    if is_known(subject.sae):
        return
    again = subject.reconstruct(x).x_hat
    if _differ(subject, again, once.x_hat):
        raise SubjectError(
            f"{subject.source}: reconstructs the same {len(x)} activations otherwise each time (by "
            f"{_off(again, once.x_hat):.1%} of their length): it draws at random or keeps what it "
            "saw before, so no number of it could be reproduced; switch that off in evaluation"
        )
    alone = torch.cat([subject.reconstruct(row).x_hat for row in x.split(1)])
    if _differ(subject, alone, once.x_hat):
        raise SubjectError(
            f"{subject.source}: what it makes of an activation depends on those that it is given "
            f"beside it: alone, {len(x)} of them are reconstructed {_off(alone, once.x_hat):.1%} "
            "off; a BatchTopK SAE needs its threshold, or a fixed k for each token in evaluation"
        )


def _differ(subject: Subject, found: Tensor, expected: Tensor) -> bool:
    half = subject.calls.dtype in (torch.float16, torch.bfloat16)
    length = expected.norm(dim=-1).clamp_min(1e-12)
    off = (found - expected).norm(dim=-1) / length
    # Not "above": NaN differs too.
    apart = ~(off <= (CLOSE_HALF if half else CLOSE))
    return int(apart.sum()) > min(FEW, len(off) - 1)


def _off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp_min(1e-12))


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
    for rows in cut(len(ids), sequences_at_once(host, context=ids.shape[1], vectors=2)):
        clean = passes.clean(ids[rows].to(host.device), [site], stop_early=True)
        x = read_rows(site, clean.activations[site], seen[rows].to(host.device))
        total += float(x.norm(dim=-1).cpu().double().sum())
    return total
