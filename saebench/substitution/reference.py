"""Corpus statistics for interventions: mean, covariance and a bank of sample activations."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

BANK_SIZE = 4096


@dataclass(frozen=True)
class Reference:
    """Statistics of the activations of a reference set: the run's first sequences, in any shard.

    Attributes:
        mean: mean activation, float64.
        factor: L with L·Lᵀ = Σ + λI, λ = 1e-6·tr(Σ)/d, float64.
        basis: the eigenvectors of Σ as columns, that of the largest eigenvalue first, fp32; zero
            where Σ is not finite.
        bank: activations of tokens spread evenly over the set.
        sequence: the sequence that each bank entry comes from.
        position: its position in that sequence.
        by_kind: the entries' indices, grouped by equal activation.
        kind_start: for each entry the start of its group in ``by_kind``.
        kind_size: for each entry the size of its group.
    """

    mean: Float[Tensor, "d"]
    factor: Float[Tensor, "d d"]
    basis: Float[Tensor, "d d"]
    bank: Float[Tensor, "bank d"]
    sequence: Int[Tensor, "bank"]
    position: Int[Tensor, "bank"]
    by_kind: Int[Tensor, "bank"]
    kind_start: Int[Tensor, "bank"]
    kind_size: Int[Tensor, "bank"]


class ReferenceSums:
    """Computes a reference from batches of activations."""

    def __init__(self, d: int, *, tokens: int) -> None:
        """Prepare for about ``tokens`` tokens of width ``d``."""
        self._count = 0
        self._sum = torch.zeros(d, dtype=torch.float64)  # update moves it to its data's device
        self._products = torch.zeros(d, d, dtype=torch.float64)
        self._stride = max(1, -(-tokens // BANK_SIZE))
        self._bank: list[tuple[Tensor, Tensor, Tensor]] = []

    def update(
        self,
        x: Float[Tensor, "tokens d"],
        sequence: Int[Tensor, "tokens"],
        position: Int[Tensor, "tokens"],
    ) -> None:
        """Add tokens, in the order of the run."""
        wide = x.double()
        self._sum = self._sum.to(x.device) + wide.sum(dim=0)
        self._products = self._products.to(x.device) + wide.T @ wide
        picked = torch.arange(-self._count % self._stride, len(x), self._stride, device=x.device)
        self._bank.append((x[picked].float(), sequence[picked], position[picked]))
        self._count += len(x)

    def compute(self, device: torch.device) -> Reference:
        """Return the reference.

        Raises:
            ValueError: if no token was added.
        """
        if self._count == 0:
            raise ValueError("a reference of no tokens is undefined")
        mean = self._sum.cpu() / self._count
        covariance = self._products.cpu() / self._count - torch.outer(mean, mean)
        d = len(mean)
        ridge = 1e-6 * covariance.trace() / d
        # Σ of constant or non-finite activations has no factor. It is then zero, and cov_random,
        # the only intervention that needs it, raises an error.
        factor, failed = torch.linalg.cholesky_ex(
            covariance + ridge * torch.eye(d, dtype=torch.float64)
        )
        factor = torch.zeros_like(factor) if failed else factor
        bank, sequence, position = (torch.cat(parts) for parts in zip(*self._bank, strict=True))
        by_kind, kind_start, kind_size = kinds_of(bank)
        return Reference(
            mean=mean.to(device),
            factor=factor.to(device),
            basis=principal_basis(covariance).to(device),
            bank=bank,
            sequence=sequence,
            position=position,
            by_kind=by_kind,
            kind_start=kind_start,
            kind_size=kind_size,
        )


def principal_basis(covariance: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """Return the covariance's eigenvectors as columns, that of the largest eigenvalue first.

    The sign of each is that which makes its largest entry positive.

    Args:
        covariance: float64.

    Example:
        >>> principal_basis(torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64))).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    if not torch.isfinite(covariance).all():
        return torch.zeros_like(covariance, dtype=torch.float32)
    vectors = torch.linalg.eigh(covariance).eigenvectors.flip(1)
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    return (vectors * largest.sign()).float().contiguous()


def kinds_of(bank: Float[Tensor, "bank d"]) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``by_kind``, ``kind_start`` and ``kind_size`` of a bank.

    Example:
        >>> kinds_of(torch.tensor([[1.0], [0.0], [1.0]]))[2].tolist()
        [2, 1, 2]
    """
    kind, counts = bank.unique(dim=0, return_inverse=True, return_counts=True)[1:]
    starts = counts.cumsum(0) - counts
    return kind.argsort(stable=True), starts[kind], counts[kind]
