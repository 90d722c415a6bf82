"""The interventions x → x′, as docs/metrics.md defines them: pure functions of activations."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saebench.errors import UndefinedDirection
from saebench.measures.names import SKIP_ONLY, check_names, components_of
from saebench.substitution.batches import IMMEDIATE, DeferredChecks
from saebench.substitution.noise import NoiseSource, below
from saebench.substitution.reference import Reference


@dataclass(frozen=True)
class BankErrors:
    """The SAE's errors on the bank of the corpus statistics, and their mean ē.

    Attributes:
        errors: x - x̂ of each activation of the bank.
        mean: ē, their mean, float64.
        features_mean: the mean of what a skip transcoder's features add on the bank; None
            without a skip path.
        unread_mean: the model does not read an activation's component along 𝟏, as all its norms
            subtract it (LayerNorm): the error's component along 𝟏 is left out of its size too.
    """

    errors: Float[Tensor, "bank d"]
    mean: Float[Tensor, "d"]
    unread_mean: bool
    features_mean: Float[Tensor, "d"] | None = None

    @classmethod
    def of(
        cls,
        x: Float[Tensor, "bank d"],
        x_hat: Float[Tensor, "bank d"],
        *,
        unread_mean: bool,
        skipped: Float[Tensor, "bank d"] | None = None,
    ) -> "BankErrors":
        """Return the errors of reconstructions of the bank.

        Args:
            x: the bank's activations where the SAE writes.
            x_hat: the SAE's output for them.
            unread_mean: the model does not read the component along 𝟏.
            skipped: the part of the output that comes from a skip path.
        """
        errors = x - x_hat
        features = None if skipped is None else (x_hat - skipped).double().mean(dim=0)
        return cls(errors, errors.double().mean(dim=0), unread_mean, features)

    def centred(self, errors: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens d"]:
        """Return e - ē, without its component along 𝟏 where the model does not read that.

        Example:
            >>> bank = BankErrors.of(torch.ones(2, 2), torch.zeros(2, 2), unread_mean=False)
            >>> bank.centred(torch.tensor([[1.0, 3.0]])).tolist()
            [[0.0, 2.0]]
        """
        rest = errors - self.mean.to(errors.dtype)
        return rest - rest.mean(dim=-1, keepdim=True) if self.unread_mean else rest

    @cached_property
    def next_error(self) -> Int[Tensor, "bank"] | None:
        """For each entry of the bank the first one from it on, in a circle, that has an error.

        An entry that the SAE reconstructs exactly has no error whose direction could be used. None
        where no entry has an error.
        """
        has_error = has_errors(self.errors) & (self.centred(self.errors).norm(dim=-1) > 0)
        places = has_error.nonzero()[:, 0]
        if not len(places):
            return None
        own = torch.arange(len(self.errors), device=places.device)
        return places[torch.searchsorted(places, own) % len(places)]


def has_errors(errors: Float[Tensor, "tokens d"]) -> Bool[Tensor, "tokens"]:
    """Return where x̂ is not exactly x.

    Example:
        >>> has_errors(torch.tensor([[0.0, 0.0], [0.0, 1e-30]])).tolist()
        [False, True]
    """
    return (errors != 0).any(dim=-1)


@dataclass(frozen=True)
class Tokens:
    """The tokens to substitute: their activations, reconstructions and positions in the run.

    Attributes:
        x: clean activations.
        x_hat: the SAE's reconstructions.
        l0: the number of the SAE's active features at each token.
        sequence: each token's sequence index in the run.
        position: its position in that sequence.
        reference: corpus statistics at this hook; None if no intervention needs them.
        bank: the SAE's errors on the reference's bank; None if no intervention needs them.
        seed: the run's root seed.
        skipped: the part of the reconstructions that comes from a skip path; None without one.
        deferred_checks: collects the checks for undefined directions; by default an undefined
            direction raises immediately.
    """

    x: Float[Tensor, "tokens d"]
    x_hat: Float[Tensor, "tokens d"]
    l0: Float[Tensor, "tokens"]
    sequence: Int[Tensor, "tokens"]
    position: Int[Tensor, "tokens"]
    reference: Reference | None
    bank: BankErrors | None
    seed: int
    skipped: Float[Tensor, "tokens d"] | None = None
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

    @property
    def on_bank(self) -> BankErrors:
        """The SAE's errors on the bank.

        Raises:
            ValueError: if they were not computed.
        """
        if self.bank is None:
            raise ValueError("this intervention needs the SAE's errors on the bank")
        return self.bank

    @property
    def radius(self) -> Float[Tensor, "tokens 1"]:
        """‖e - ē‖: an offset that is the same at every token does not make noise larger.

        It is 0 where the SAE is exact: no error there, so no random one in its place.
        """
        errors = self.x - self.x_hat
        size = self.on_bank.centred(errors).norm(dim=-1, keepdim=True)
        return torch.where(has_errors(errors)[:, None], size, 0.0)

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
        first = torch.where(self.is_own(first), (first + 1) % size, first)
        others = size - bank.kind_size[first]
        step = below(words[:, 1], others)
        behind = bank.kind_start[first] + bank.kind_size[first]
        own = self.is_own(bank.by_kind[(behind + step) % size])
        step = torch.where(own, (step + 1) % others.clamp_min(1), step)
        return torch.stack([first, bank.by_kind[(behind + step) % size]], dim=1)

    def is_own(self, entry: Int[Tensor, "tokens"]) -> Bool[Tensor, "tokens"]:
        """Return where an entry of the bank is the token itself."""
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


def _at_distance(
    tokens: Tokens, radius: Float[Tensor, "tokens 1"], direction: Tensor, *, of: str
) -> Float[Tensor, "tokens d"]:
    """Return x + radius·direction/‖direction‖; where the radius is 0, x, whatever the direction."""
    return tokens.x + radius * tokens.unit(direction, of=of, needed=radius[:, 0] > 0)


def _sae(tokens: Tokens) -> Tensor:
    return tokens.x_hat


def _norm_corrected(tokens: Tokens) -> Tensor:
    norm = tokens.x.norm(dim=-1, keepdim=True)
    return tokens.unit(tokens.x_hat, of="norm_corrected: x̂", needed=_every(tokens)) * norm


def _sae_norm(tokens: Tokens) -> Tensor:
    norm = tokens.x_hat.norm(dim=-1, keepdim=True)
    return tokens.unit(tokens.x, of="sae_norm: x", needed=_every(tokens)) * norm


def _eps_random(tokens: Tokens) -> Tensor:
    noise = tokens.noise("eps_random")
    return _at_distance(tokens, tokens.radius, noise, of="eps_random: the noise")


def _eps_random_uncentred(tokens: Tokens) -> Tensor:
    # The same direction as eps_random: the two differ by the radius alone.
    eps = (tokens.x - tokens.x_hat).norm(dim=-1, keepdim=True)
    return _at_distance(tokens, eps, tokens.noise("eps_random"), of="eps_random: the noise")


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
    direction = tokens.noise("cov_random") @ factor.T
    return _at_distance(tokens, tokens.radius, direction, of="cov_random: d")


def _real_difference(tokens: Tokens) -> Tensor:
    picked = tokens.others("real_difference")
    bank = tokens.corpus.bank
    difference = bank[picked[:, 0]] - bank[picked[:, 1]]
    return _at_distance(tokens, tokens.radius, difference, of="real_difference: aᵢ - aⱼ")


def _error_shuffled(tokens: Tokens) -> Tensor:
    bank, picked = tokens.on_bank, tokens.others("error_shuffled")[:, 0]
    if bank.next_error is None:  # the SAE errs at none of the other tokens
        return tokens.x
    picked = bank.next_error[picked]
    after = bank.next_error[(picked + 1) % len(bank.errors)]
    picked = torch.where(tokens.is_own(picked), after, picked)
    error = bank.centred(bank.errors[picked])
    return _at_distance(tokens, tokens.radius, error, of="error_shuffled: the other token's error")


def _pca(tokens: Tokens, k: Float[Tensor, "tokens"]) -> Float[Tensor, "tokens d"]:
    """Return μ plus each token's k largest components of x - μ in the eigenbasis of Σ."""
    corpus = tokens.corpus
    if not bool(corpus.basis.any()):
        raise UndefinedDirection(
            "pca_matched: the activations' covariance is not finite, so it has no eigenbasis"
        )
    mean = corpus.mean
    along = (tokens.x.double() - mean).float() @ corpus.basis
    kept = torch.where(largest(along, k), along, 0.0)
    return (mean + (kept @ corpus.basis.T).double()).to(tokens.x.dtype)


def largest(values: Float[Tensor, "rows d"], k: Float[Tensor, "rows"]) -> Bool[Tensor, "rows d"]:
    """Return a mask of each row's k largest absolute values; ties go to the lower index.

    Args:
        values: the rows.
        k: how many of each row; d or more for all.

    Example:
        >>> largest(torch.tensor([[1.0, -3.0, 3.0, 0.0]]), torch.tensor([2.0])).tolist()
        [[False, True, True, False]]
    """
    size, width = values.abs(), values.shape[-1]
    k = k.long().clamp(0, width)
    most = max(1, int(k.max())) if len(k) else 1
    ordered = size.topk(most, dim=-1).values
    least = ordered.gather(1, (k - 1).clamp_min(0)[:, None])
    chosen = (size >= least) & (k > 0)[:, None]
    tied = (chosen.sum(dim=-1) > k).nonzero()[:, 0]
    if len(tied):
        rank = size[tied].argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        chosen[tied] = rank < k[tied, None]
    return chosen


def _pca_matched(tokens: Tokens) -> Tensor:
    return _pca(tokens, tokens.l0)


def _skip_only(tokens: Tokens) -> Tensor:
    features = tokens.on_bank.features_mean
    if tokens.skipped is None or features is None:
        raise ValueError("skip_only needs a transcoder with a skip path")
    return (tokens.skipped.double() + features).to(tokens.x.dtype)


def _zero(tokens: Tokens) -> Tensor:
    return torch.zeros_like(tokens.x)


def _mean(tokens: Tokens) -> Tensor:
    return tokens.corpus.mean.to(tokens.x.dtype).expand_as(tokens.x)


_RULES: dict[str, Callable[[Tokens], Tensor]] = {
    "sae": _sae,
    "norm_corrected": _norm_corrected,
    "sae_norm": _sae_norm,
    "eps_random": _eps_random,
    "eps_random_uncentred": _eps_random_uncentred,
    "theta_random_x": _theta_random_x,
    "theta_random_sae": _theta_random_sae,
    "cov_random": _cov_random,
    "real_difference": _real_difference,
    "error_shuffled": _error_shuffled,
    "pca_matched": _pca_matched,
    SKIP_ONLY: _skip_only,
    "zero": _zero,
    "mean": _mean,
}


def substitute(name: str, tokens: Tokens) -> Float[Tensor, "tokens d"]:
    """Return x′ for each token; the inputs are not changed.

    Args:
        name: one of `names.INTERVENTIONS`, or ``pca[K]`` for K principal components at each token.
        tokens: what to substitute.

    Raises:
        OptionError: for an unknown name.
        UndefinedDirection: if the direction of a vector of length zero is needed.

    Source:
        docs/metrics.md; Gurnee 2024, "SAE reconstruction errors are (empirically) pathological",
        "Intervention Types"; arXiv 2410.12555 (``cov_random``, ``real_difference``).
    """
    check_names([name])
    k = components_of(name)
    if k is not None:
        return _pca(tokens, torch.full_like(tokens.l0, k))
    return _RULES[name](tokens)
