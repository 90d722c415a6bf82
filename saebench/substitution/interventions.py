"""The interventions x → x′, as docs/metrics.md defines them: pure functions of activations."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saebench.errors import UndefinedDirection
from saebench.measures.names import check_names
from saebench.substitution.batches import IMMEDIATE, DeferredChecks
from saebench.substitution.noise import NoiseSource, below
from saebench.substitution.reference import Reference


@dataclass(frozen=True)
class Tokens:
    """The tokens to substitute: their activations, reconstructions and positions in the run.

    Attributes:
        x: clean activations.
        x_hat: the SAE's reconstructions.
        sequence: each token's sequence index in the run.
        position: its position in that sequence.
        reference: corpus statistics at this hook; None if no intervention needs them.
        bank_errors: the SAE's errors on the reference's bank.
        seed: the run's root seed.
        deferred_checks: collects the checks for undefined directions; by default an undefined
            direction raises immediately.
    """

    x: Float[Tensor, "tokens d"]
    x_hat: Float[Tensor, "tokens d"]
    sequence: Int[Tensor, "tokens"]
    position: Int[Tensor, "tokens"]
    reference: Reference | None
    bank_errors: Float[Tensor, "bank d"]
    seed: int
    deferred_checks: DeferredChecks = IMMEDIATE

    @property
    def corpus(self) -> Reference:
        """The corpus statistics.

        Raises:
            ValueError: if none were computed.
        """
        if self.reference is None:
            raise ValueError("this intervention needs corpus statistics; none were computed")
        return self.reference

    def noise(self, name: str) -> Float[Tensor, "tokens d"]:
        """Return the intervention's standard normal vector for each token."""
        source = NoiseSource(self.seed, name)
        return source.normal(self.sequence, self.position, d=self.x.shape[-1])

    def others(self, name: str) -> Int[Tensor, "tokens 2"]:
        """Return two bank entries for each token, of different activations and of other tokens.

        Before the first block of a model without absolute positions, all occurrences of one
        token have the same activation, so that their difference has no direction.
        """
        bank = self.corpus
        size = len(bank.bank)
        if size < 4:
            raise UndefinedDirection(
                f"{name}: needs 4 or more other tokens to draw from, the reference set has {size}; "
                "measure on more sequences"
            )
        words = NoiseSource(self.seed, name).integers(self.sequence, self.position)
        first = below(words[:, 0], size)
        first = torch.where(self._is_own(first), (first + 1) % size, first)
        others = size - bank.kind_size[first]
        step = below(words[:, 1], others)
        behind = bank.kind_start[first] + bank.kind_size[first]
        own = self._is_own(bank.by_kind[(behind + step) % size])
        step = torch.where(own, (step + 1) % others.clamp_min(1), step)
        return torch.stack([first, bank.by_kind[(behind + step) % size]], dim=1)

    def _is_own(self, entry: Int[Tensor, "tokens"]) -> Bool[Tensor, "tokens"]:
        bank = self.corpus
        return (bank.sequence[entry] == self.sequence) & (bank.position[entry] == self.position)

    def unit(self, vectors: Tensor, *, of: str, needed: Bool[Tensor, "tokens"]) -> Tensor:
        """Return the vectors scaled to length one.

        Args:
            vectors: one for each token.
            of: what they are, for the error message.
            needed: the tokens whose direction is used.

        Raises:
            UndefinedDirection: naming the first needed token whose vector has length zero.
        """
        norm = vectors.norm(dim=-1, keepdim=True)
        undefined = needed & ~(norm[:, 0] > 0)
        if not self.deferred_checks.defer(undefined) and undefined.any():
            at = int(undefined.nonzero()[0])
            raise UndefinedDirection(
                f"{of} has length zero at sequence {int(self.sequence[at])}, position "
                f"{int(self.position[at])} ({int(undefined.sum())} such tokens in this batch): "
                "its direction is undefined, so this intervention cannot be computed"
            )
        return vectors / norm.clamp_min(torch.finfo(norm.dtype).tiny)


def _every(tokens: Tokens) -> Bool[Tensor, "tokens"]:
    return torch.ones_like(tokens.sequence, dtype=torch.bool)


def _at_error_distance(
    tokens: Tokens, direction: Float[Tensor, "tokens d"], *, of: str
) -> Float[Tensor, "tokens d"]:
    """Return x + ε·direction/‖direction‖; where ε = 0, x, whatever the direction."""
    eps = (tokens.x - tokens.x_hat).norm(dim=-1, keepdim=True)
    return tokens.x + eps * tokens.unit(direction, of=of, needed=eps[:, 0] > 0)


def _sae(tokens: Tokens) -> Tensor:
    return tokens.x_hat


def _norm_corrected(tokens: Tokens) -> Tensor:
    norm = tokens.x.norm(dim=-1, keepdim=True)
    return tokens.unit(tokens.x_hat, of="norm_corrected: x̂", needed=_every(tokens)) * norm


def _sae_norm(tokens: Tokens) -> Tensor:
    norm = tokens.x_hat.norm(dim=-1, keepdim=True)
    return tokens.unit(tokens.x, of="sae_norm: x", needed=_every(tokens)) * norm


def _eps_random(tokens: Tokens) -> Tensor:
    return _at_error_distance(tokens, tokens.noise("eps_random"), of="eps_random: the noise")


def _at_error_angle(tokens: Tokens, name: str) -> Float[Tensor, "tokens d"]:
    """Return random unit vectors whose angle from x is that between x and x̂."""
    needed = _every(tokens)
    along = tokens.unit(tokens.x, of=f"{name}: x", needed=needed)
    reconstruction = tokens.unit(tokens.x_hat, of=f"{name}: x̂", needed=needed)
    noise = tokens.noise(name)
    across = noise - torch.linalg.vecdot(noise, along)[:, None] * along
    across = tokens.unit(across, of=f"{name}: the noise", needed=needed)
    cosine = torch.linalg.vecdot(along, reconstruction)[:, None].clamp(-1, 1)
    return cosine * along + (1 - cosine.square()).sqrt() * across


def _theta_random_x(tokens: Tokens) -> Tensor:
    return _at_error_angle(tokens, "theta_random_x") * tokens.x.norm(dim=-1, keepdim=True)


def _theta_random_sae(tokens: Tokens) -> Tensor:
    return _at_error_angle(tokens, "theta_random_sae") * tokens.x_hat.norm(dim=-1, keepdim=True)


def _cov_random(tokens: Tokens) -> Tensor:
    # The difference of two standard normals is √2 times a standard normal, and only the direction
    # of L(z₁ - z₂) is used: one draw gives the same distribution.
    factor = tokens.corpus.factor.to(tokens.x.dtype)
    return _at_error_distance(tokens, tokens.noise("cov_random") @ factor.T, of="cov_random: d")


def _real_difference(tokens: Tokens) -> Tensor:
    picked = tokens.others("real_difference")
    bank = tokens.corpus.bank
    difference = bank[picked[:, 0]] - bank[picked[:, 1]]
    return _at_error_distance(tokens, difference, of="real_difference: aᵢ - aⱼ")


def _error_shuffled(tokens: Tokens) -> Tensor:
    error = tokens.bank_errors[tokens.others("error_shuffled")[:, 0]]
    return _at_error_distance(tokens, error, of="error_shuffled: the other token's error")


def _zero(tokens: Tokens) -> Tensor:
    return torch.zeros_like(tokens.x)


def _mean(tokens: Tokens) -> Tensor:
    return tokens.corpus.mean.to(tokens.x.dtype).expand_as(tokens.x)


_RULES: dict[str, Callable[[Tokens], Tensor]] = {
    "sae": _sae,
    "norm_corrected": _norm_corrected,
    "sae_norm": _sae_norm,
    "eps_random": _eps_random,
    "theta_random_x": _theta_random_x,
    "theta_random_sae": _theta_random_sae,
    "cov_random": _cov_random,
    "real_difference": _real_difference,
    "error_shuffled": _error_shuffled,
    "zero": _zero,
    "mean": _mean,
}


def substitute(name: str, tokens: Tokens) -> Float[Tensor, "tokens d"]:
    """Return x′ for each token; the inputs are not changed.

    Args:
        name: one of `names.INTERVENTIONS`.
        tokens: what to substitute.

    Raises:
        OptionError: for an unknown name.
        UndefinedDirection: if the direction of a vector of length zero is needed.

    Source:
        docs/metrics.md; Gurnee 2024, "SAE reconstruction errors are (empirically) pathological",
        "Intervention Types"; arXiv 2410.12555 (``cov_random``, ``real_difference``).
    """
    check_names([name])
    return _RULES[name](tokens)
