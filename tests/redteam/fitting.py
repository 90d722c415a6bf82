"""How adversaries are fitted: least squares, k-means, and short training."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from redteam.modules import Coder, top
from redteam.world import World

STEPS, BATCH = 600, 512


def least_squares(
    features: Float[Tensor, "tokens n"], x: Float[Tensor, "tokens d"], *, ridge: float = 1e-3
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "d"]]:
    """Return the decoder and bias that reconstruct activations best from their features."""
    f = torch.cat([features, torch.ones(len(features), 1)], dim=1).double()
    square = f.T @ f + ridge * len(f) * 1e-3 * torch.eye(f.shape[1], dtype=torch.float64)
    solved = torch.linalg.solve(square, f.T @ x.double()).float()
    return solved[:-1], solved[-1]


def k_means(x: Float[Tensor, "tokens d"], n: int, *, rounds: int = 12) -> Float[Tensor, "n d"]:
    """Return n cluster means (Lloyd's algorithm)."""
    centres = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(5))[:n]].clone()
    for _ in range(rounds):
        place = torch.cat([torch.cdist(rows, centres).argmin(dim=1) for rows in x.split(4096)])
        sums = torch.zeros_like(centres).index_add(0, place, x)
        count = place.bincount(minlength=n)[:, None]
        centres = torch.where(count > 0, sums / count.clamp_min(1), centres)
    return centres


class TopK(nn.Module):
    """A TopK SAE with trainable weights."""

    def __init__(self, x: Tensor, *, width: int, k: int) -> None:
        super().__init__()
        drawn = torch.randn(width, x.shape[1], generator=torch.Generator().manual_seed(6))
        drawn /= drawn.norm(dim=1, keepdim=True)
        self.k, self.scale = k, (x - x.mean(dim=0)).norm(dim=1).mean()
        self.W_enc, self.W_dec = nn.Parameter(drawn.T.clone()), nn.Parameter(drawn)
        self.b_enc, self.b_dec = nn.Parameter(torch.zeros(width)), nn.Parameter(x.mean(dim=0))

    def encode(self, x: Tensor) -> Tensor:
        return top(((x - self.b_dec) @ self.W_enc + self.b_enc).relu(), self.k)

    def forward(self, x: Tensor) -> Tensor:
        return self.encode(x) @ self.W_dec + self.b_dec

    def coder(self) -> Coder:
        """Return what was trained."""
        frozen = self.requires_grad_(False)
        return Coder(frozen.encode, frozen.W_dec, frozen.b_dec)


def train_topk(x: Float[Tensor, "tokens d"], *, k: int, width: int = 512) -> Coder:
    """Train a TopK SAE on the squared error, quickly."""
    sae = TopK(x, width=width, k=k)
    optimiser = torch.optim.Adam(sae.parameters(), lr=2e-3)
    for rows in _batches(len(x), BATCH, STEPS):
        loss = (sae(x[rows]) - x[rows]).square().sum(dim=1).mean() / sae.scale**2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return sae.coder()


def train_on_kl(
    world: World, *, k: int, width: int = 512, steps: int = 500, squared_error: float = 0.0
) -> Coder:
    """Train a TopK SAE on the KL of the model's predictions, and little or nothing else."""
    sae, ids = TopK(world.fit().x, width=width, k=k), world.ids(world.fitted)
    optimiser = torch.optim.Adam(sae.parameters(), lr=1e-3)
    for rows in _batches(len(ids), 8, steps):
        with torch.no_grad():
            clean = world.model(ids[rows]).logits[:, 1:].log_softmax(dim=-1)
        seen: list[Tensor] = []

        def change(x: Tensor, seen: list[Tensor] = seen) -> Tensor:
            x_hat = sae(x.flatten(0, 1)).view_as(x)
            seen.append((x_hat - x).square().sum(dim=-1).mean() / sae.scale**2)
            return x_hat

        with world.before_block(change):
            changed = world.model(ids[rows]).logits[:, 1:].log_softmax(dim=-1)
        kl = F.kl_div(changed, clean, log_target=True, reduction="none").sum(dim=-1).mean()
        optimiser.zero_grad()
        (kl + squared_error * seen[0]).backward()
        optimiser.step()
    return sae.coder()


def read_directions(world: World, *, texts: int = 24, draws: int = 8) -> Float[Tensor, "d d"]:
    """Return orthonormal rows, those that the model's predictions react to most first.

    They are the eigenvectors of the mean outer product of gradients of random projections of the
    log-probabilities with respect to the activations.
    """
    ids = world.ids(world.fitted[:texts])
    generator = torch.Generator().manual_seed(7)
    d = world.fit().x.shape[1]
    total = torch.zeros(d, d, dtype=torch.float64)
    for _ in range(draws):
        held: list[Tensor] = []

        def change(x: Tensor, held: list[Tensor] = held) -> Tensor:
            held.append(x.detach().clone().requires_grad_())
            return held[0]

        with world.before_block(change), torch.enable_grad():
            log_p = world.model(ids).logits.log_softmax(dim=-1)
            drawn = torch.randn(log_p.shape, generator=generator) * log_p.detach().exp().sqrt()
            (gradient,) = torch.autograd.grad((log_p * drawn).sum(), held)
        g = gradient.flatten(0, 1).double()
        total += g.T @ g
    return torch.linalg.eigh(total)[1].flip(1).T.float()


def _batches(n: int, size: int, steps: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(8)
    for _ in range(steps):
        yield torch.randint(n, (min(size, n),), generator=generator)
