"""Checks that a reconstruction depends on its activation through the SAE's features alone.

An SAE whose output reaches the activation by another way has any explained variance that it likes,
with any number of active features: a linear skip path at one hook, an activation remembered from
``encode`` to ``decode``, or one that is written into the features' signs or last digits.
"""

import copy

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saebench.errors import SubjectError
from saebench.subjects.hooks import Site
from saebench.subjects.modules import Calls, is_known
from saebench.subjects.sae import Subject

# Relative difference of a token's reconstruction. Values that are equal in exact arithmetic agree
# to 1e-5 in fp32, and to 1e-2 in half precision.
CLOSE, CLOSE_HALF = 1e-3, 5e-2
# Tokens that may differ: a feature near its threshold may fire with one matrix kernel and not with
# another.
FEW = 2
NUDGE = 2**-7  # by which each feature is changed, relatively: half precision's last digit
# A linear decoder's output changes by about as much as its features do, relatively, and where
# they cancel by several times as much.
JUMP = 24 * NUDGE


def refuse_skip_at_one_hook(subject: Subject, *, reads: Site, writes: Site) -> None:
    """Refuse a skip path from a hook to itself.

    Args:
        subject: the SAE.
        reads: where it reads.
        writes: where its output is compared and substituted.

    Raises:
        SubjectError: naming the hook.
    """
    if subject.has_skip and reads == writes:
        raise SubjectError(_skip_text(subject, f"reads and writes at {writes.hook}"))


def refuse_two_names_of_one_activation(
    subject: Subject, given: Float[Tensor, "tokens d"], compared: Float[Tensor, "tokens width"]
) -> None:
    """Refuse an SAE that reads and writes one activation by two names.

    Such are a block's output and the next block's input. A skip path would hand the activation
    through. Without one, the SAE calls itself a transcoder, which is not gated by principal
    components of its output, nor by single tokens: an SAE does not choose that by its metadata.

    Args:
        subject: the SAE.
        given: the activations that it reads.
        compared: those of the same tokens where it writes.

    Raises:
        SubjectError: if they are equal.
    """
    reads, writes = subject.metadata.input_hook, subject.metadata.hook
    if not (subject.has_skip or reads is not None) or given.shape != compared.shape:
        return
    if differing(subject, given, compared).any():
        return
    if subject.has_skip:
        raise SubjectError(_skip_text(subject, f"reads {reads}, which is what {writes} is"))
    raise SubjectError(
        f"{subject.source}: its metadata makes it a transcoder from {reads} to {writes}, which are "
        "one activation here: it is an SAE, and is judged as one without hook_name_out and with an "
        "SAE's architecture"
    )


def _skip_text(subject: Subject, where: str) -> str:
    return (
        f"{subject.source}: has a linear skip path (W_skip) and {where}: the skip path can hand "
        "the activation through with no active feature, so that this is no SAE; expected a skip "
        "transcoder's output at another hook (hook_name_out in its metadata, --sae-hook-out), or "
        "an SAE without W_skip"
    )


class Untouched:
    """A copy of an SAE that has not been given any activation; it shares the SAE's parameters.

    Args:
        subject: the SAE, before it is given the activations to be checked.
    """

    def __init__(self, subject: Subject) -> None:
        shared = {id(parameter): parameter for parameter in subject.sae.parameters()}
        try:
            sae = copy.deepcopy(subject.sae, shared)
        except Exception:
            # A user's module may hold what cannot be copied; it is then checked itself.
            sae = subject.sae
        self._calls = Calls(sae, subject.source)

    def decode(
        self, features: Float[Tensor, "tokens features"], *, after: Float[Tensor, "tokens d"]
    ) -> Float[Tensor, "tokens width"]:
        """Return the reconstruction of some features after encoding other activations.

        Args:
            features: they are not changed; zeros lose their sign.
            after: the activations that are encoded first.
        """
        self._calls.encode(after)
        return self._calls.decode(features + 0.0, like=after)


@torch.inference_mode()
def refuse_bypass(subject: Subject, x: Float[Tensor, "tokens d"], untouched: Untouched) -> None:
    """Check that reconstructions are functions of the features, and of x's mean and norm alone.

    SAELens' normalisations keep the mean and standard deviation of each activation, or its norm,
    from encode to decode; activations that differ in everything else are encoded in between.

    Args:
        subject: the SAE.
        x: some of its activations.
        untouched: a copy that was made before it was given them.

    Raises:
        SubjectError: naming the way by which the activation reaches the output.
    """
    features = subject.calls.encode(x)
    expected = subject.calls.decode(features.clone(), like=x)
    if not torch.isfinite(expected).all():
        return  # every case of this SAE ends with an ERROR that says so
    others = alike_but_for_direction(x)
    again = untouched.decode(features, after=others)
    if differ(subject, again, expected):
        raise SubjectError(
            f"{subject.source}: its reconstruction is not a function of its features: decoded "
            f"again after other activations, the features of {len(x)} activations give "
            f"reconstructions that are {relative_gap(again, expected):.1%} off; decode must not "
            "use what encode was given, but for the activation's mean and norm"
        )
    _refuse_without_features(subject, x, features, again)
    if not is_known(subject.sae):
        _refuse_jumps(subject, features, untouched, others, again)


def alike_but_for_direction(x: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens d"]:
    """Return random activations, each with the mean and the norm of one of x.

    Example:
        >>> x = torch.tensor([[1.0, 2.0, 6.0]])
        >>> other = alike_but_for_direction(x)
        >>> round(other.mean().item(), 4), round(other.square().sum().item(), 3)
        (3.0, 41.0)
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device)
    mean = x.double().mean(dim=-1, keepdim=True)
    size = (x.double() - mean).norm(dim=-1, keepdim=True)
    drawn = drawn - drawn.mean(dim=-1, keepdim=True)
    length = drawn.norm(dim=-1, keepdim=True).clamp_min(1e-300)  # zero for a width of one
    return (mean + drawn * size / length).to(x.dtype)


def _refuse_without_features(
    subject: Subject, x: Tensor, features: Tensor, decoded: Tensor
) -> None:
    """Refuse an output that varies with the activation though no feature is active.

    Args:
        subject: the SAE.
        x: some of its activations.
        features: theirs.
        decoded: what these features give without the activations.
    """
    if features.count_nonzero() > 0 or len(x) < 2:
        return
    x_hat = subject.reconstruct(x).x_hat
    if differing(subject, x_hat, decoded).any():
        raise SubjectError(
            f"{subject.source}: no feature is active at any of {len(x)} activations, and its "
            "output varies with them all the same: it reaches them by a way around the features "
            "(W_skip)"
        )


def _refuse_jumps(
    subject: Subject, features: Tensor, untouched: Untouched, others: Tensor, decoded: Tensor
) -> None:
    """Refuse an output that is another one for nearly the same features.

    Such features are a code whose digits hold more than their sizes.
    """
    generator = torch.Generator().manual_seed(1)
    signs = torch.randint(2, features.shape, generator=generator).to(features) * 2 - 1
    nudged = untouched.decode(features * (1 + NUDGE * signs), after=others)
    at_zero = untouched.decode(torch.zeros_like(features), after=others)
    moved, size = (nudged - decoded).norm(dim=-1), (decoded - at_zero).norm(dim=-1)
    jumps = ~(moved <= JUMP * size + CLOSE * decoded.norm(dim=-1))
    if int(jumps.sum()) > len(features) // 2:
        raise SubjectError(
            f"{subject.source}: its reconstructions of {int(jumps.sum())} of {len(features)} "
            f"activations change by {float((moved / size.clamp_min(1e-12)).median()):.0%} where "
            f"each feature changes by {NUDGE:.1%}: its decoder reads more from the features than "
            "how active they are, so that the number of active ones says nothing about it"
        )


def differing(subject: Subject, actual: Tensor, expected: Tensor) -> Bool[Tensor, "tokens"]:
    """Return the tokens at which a reconstruction is another one by more than rounding."""
    half = subject.calls.dtype in (torch.float16, torch.bfloat16)
    length = expected.norm(dim=-1).clamp_min(1e-12)
    # Not ">": NaN counts as different too.
    return ~((actual - expected).norm(dim=-1) / length <= (CLOSE_HALF if half else CLOSE))


def differ(subject: Subject, actual: Tensor, expected: Tensor) -> bool:
    """True where reconstructions differ at more tokens than those near a threshold."""
    return int(differing(subject, actual, expected).sum()) > min(FEW, len(expected) - 1)


def relative_gap(actual: Tensor, expected: Tensor) -> float:
    """Return the difference of reconstructions as a share of their length."""
    return float((actual - expected).norm() / expected.norm().clamp_min(1e-12))
