"""Counter-based random numbers: noise is a pure function of where it is used."""

import hashlib
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_WORD = 0xFFFFFFFF
# On a CPU four int64 arrays of this length stay in the second-level cache; a GPU needs many
# counters to be fully used.
_COUNTERS_AT_ONCE = {"cpu": 1 << 15, "cuda": 1 << 23}


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], *, key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the four 32-bit words of Philox4x32-10 for each counter, as int64.

    The products wrap modulo 2^64 and the shift is masked, so the high word is right although
    int64 is signed. Integers only: every device gives the same words.

    Source:
        Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = ((p1 >> 32) & _WORD) ^ c1 ^ k0, ((p0 >> 32) & _WORD) ^ c3 ^ k1
        c1, c3 = p1 & _WORD, p0 & _WORD
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return c0, c1, c2, c3


@dataclass(frozen=True)
class NoiseSource:
    """Random numbers for one intervention of one run.

    Every number is a pure function of (root seed, intervention, sequence, position, draw,
    component): it does not depend on the batch size, the shard, or the other cases of the run.
    All devices give the same integers; their normals agree up to the rounding of log and cos.

    Example:
        >>> source = NoiseSource(0, "eps_random")
        >>> token = (torch.tensor([3]), torch.tensor([7]))
        >>> two = source.normal(torch.tensor([3, 4]), torch.tensor([7, 7]), d=5)
        >>> bool((source.normal(*token, d=5) == two[:1]).all())
        True
    """

    seed: int
    intervention: str

    def normal(
        self,
        sequence: Int[Tensor, "tokens"],
        position: Int[Tensor, "tokens"],
        *,
        d: int,
        draw: int | Int[Tensor, "tokens"] = 0,
    ) -> Float[Tensor, "tokens d"]:
        """Return standard normal vectors (Box–Muller), one for each token, in float32."""
        blocks = math.ceil(d / 4)
        draws = torch.full_like(sequence, draw) if isinstance(draw, int) else draw
        out = torch.empty(len(sequence), blocks * 4, dtype=torch.float32, device=sequence.device)
        most = _COUNTERS_AT_ONCE.get(sequence.device.type, _COUNTERS_AT_ONCE["cuda"])
        step = max(1, most // blocks)
        for start in range(0, len(sequence), step):
            rows = slice(start, start + step)
            words = self._words(sequence[rows], position[rows], draws[rows], blocks)
            out[rows] = _box_muller(words)
        return out[:, :d]

    def integers(
        self, sequence: Int[Tensor, "tokens"], position: Int[Tensor, "tokens"]
    ) -> Int[Tensor, "tokens 4"]:
        """Return four integers in ``[0, 2^32)`` for each token; :func:`below` narrows the range."""
        words = self._words(sequence, position, torch.zeros_like(sequence), 1)
        return torch.stack([w[:, 0] for w in words], dim=1)

    def _words(
        self, sequence: Tensor, position: Tensor, draw: Tensor, blocks: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        block = torch.arange(blocks, device=sequence.device).expand(len(sequence), blocks)
        spread = [block, position[:, None], sequence[:, None], draw[:, None]]
        counter = tuple(c.expand_as(block).long() for c in spread)
        return philox(counter, key=self._key())  # pyright: ignore[reportArgumentType]

    def _key(self) -> tuple[int, int]:
        digest = hashlib.sha256(f"{self.seed}/{self.intervention}".encode()).digest()
        return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


def below(words: Int[Tensor, "tokens"], high: Int[Tensor, "tokens"] | int) -> Int[Tensor, "tokens"]:
    """Return integers in ``[0, high)``, uniform up to a bias of high/2^32; ``high`` below 2^31."""
    return (words * high) >> 32


def _box_muller(words: tuple[Tensor, Tensor, Tensor, Tensor]) -> Float[Tensor, "tokens d"]:
    w0, w1, w2, w3 = (w.float() for w in words)
    pairs = []
    for magnitude, angle in ((w0, w1), (w2, w3)):
        # (w + 1)/2^32 is in (0, 1], so its logarithm is finite.
        radius = magnitude.add_(1).mul_(2.0**-32).log_().mul_(-2).sqrt_()
        angle = angle.mul_(2 * math.pi * 2.0**-32)
        pairs += [radius * angle.cos(), radius * angle.sin()]
    return torch.stack(pairs, dim=-1).flatten(start_dim=1)
