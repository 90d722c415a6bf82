"""Sparse coding over random directions: what a greedy search does with a dictionary of noise."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saebench.measures.state import State, state
from saebench.subjects.sae import Reconstruction
from saebench.substitution.reference import Reference

TOKENS = 256  # of the bank
MOST_DIRECTIONS = 8192


@dataclass(frozen=True)
class PursuitErrors(State):
    """Squared errors at some tokens of the bank, of the SAE and of a random dictionary.

    Attributes:
        sae: ‖x - x̂‖².
        random: ‖x - x_omp‖², with as many active directions as the SAE has active features.
        text: the text of each token; sequences that repeat each other are one.
    """

    sae: Float[np.ndarray, "tokens"] = state()
    random: Float[np.ndarray, "tokens"] = state()
    text: Int[np.ndarray, "tokens"] = state()

    @classmethod
    def of(
        cls,
        reference: Reference,
        made: Reconstruction,
        *,
        features: int,
        seed: int,
        clusters: Int[np.ndarray, "sequences"] | None = None,
    ) -> "PursuitErrors":
        """Return the errors on a bank.

        Args:
            reference: the corpus statistics where the SAE writes.
            made: the SAE's output for the bank.
            features: number of the SAE's features, of which the dictionary has as many.
            seed: the run's root seed.
            clusters: the text of each sequence of the run; None where all differ.
        """
        some = slice(None, None, max(1, -(-len(reference.bank) // TOKENS)))
        x, l0 = reference.bank[some], made.l0[some]
        centred = (x.double() - reference.mean).float()
        left = omp_errors(centred, l0, directions=min(features, MOST_DIRECTIONS), seed=seed)
        error = (x - made.x_hat[some]).double().square().sum(dim=-1)
        sequence = reference.sequence[some].cpu().numpy()
        text = sequence if clusters is None else clusters[sequence]
        return cls(error.cpu().numpy(), left.cpu().numpy(), text)

    def by_text(self) -> dict[str, np.ndarray]:
        """Return the sums of each text that has a token among them."""
        _, index = np.unique(self.text, return_inverse=True)
        counts = np.bincount(index).astype(np.float64)
        sums = {"sae": np.bincount(index, self.sae), "random": np.bincount(index, self.random)}
        return sums | {"n": counts}


def omp_errors(
    x: Float[Tensor, "tokens d"], k: Float[Tensor, "tokens"], *, directions: int, seed: int
) -> Float[Tensor, "tokens"]:
    """Return ‖x - x_omp‖² of orthogonal matching pursuit over random unit vectors.

    At each token the direction that correlates most with what is left is added, k times, and x is
    projected on those chosen.

    Args:
        x: activations less their mean.
        k: directions of each token.
        directions: size of the dictionary.
        seed: of the dictionary.

    Source:
        Pati, Rezaiifar & Krishnaprasad 1993, "Orthogonal matching pursuit".

    Example:
        >>> x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
        >>> omp_errors(x, torch.tensor([0.0, 2.0, 4.0]), directions=64, seed=0)[2].item() < 1e-9
        True
    """
    generator = torch.Generator().manual_seed(seed)
    dictionary = torch.randn(directions, x.shape[1], generator=generator, dtype=torch.float32)
    dictionary = (dictionary / dictionary.norm(dim=-1, keepdim=True)).to(x.device)
    left, chosen = x.clone(), x.new_zeros(len(x), 0, x.shape[1])
    for step in range(min(int(k.max()) if len(k) else 0, x.shape[1], directions)):
        best = (left @ dictionary.T).abs().argmax(dim=-1)
        new = _orthogonal(_orthogonal(dictionary[best], chosen), chosen)
        unit = new / new.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        along = torch.linalg.vecdot(left, unit)[:, None] * unit
        left = torch.where((step < k)[:, None], left - along, left)
        chosen = torch.cat([chosen, unit[:, None]], dim=1)
    return left.double().square().sum(dim=-1)


def _orthogonal(
    vectors: Float[Tensor, "tokens d"], to: Float[Tensor, "tokens chosen d"]
) -> Float[Tensor, "tokens d"]:
    along = torch.einsum("td,tcd->tc", vectors, to)
    return vectors - torch.einsum("tc,tcd->td", along, to)
