"""13-grams of token ids as 64-bit hashes: what near-copies and training texts are found by."""

import numpy as np
from jaxtyping import Int, UInt64

GRAM = 13  # tokens, as in the decontamination of GPT-3's evaluations (Brown et al. 2020, C)
CHARACTERS = 30  # in about so many a gram must lie: 13 letters of a character model are two words
SEED = 2_020_0513  # of the hash's factors
LARGEST = 1 << 64


def gram_length(characters: int, tokens: int) -> int:
    """Return how many tokens a gram has: 13, or more where they hold less than 30 characters.

    Args:
        characters: of some texts.
        tokens: of the same texts.

    Example:
        >>> gram_length(4000, 1000), gram_length(1000, 1000)
        (13, 30)
    """
    return max(GRAM, round(CHARACTERS * tokens / characters)) if characters else GRAM


def gram_hashes(
    ids: Int[np.ndarray, "*rows tokens"], *, length: int = GRAM
) -> UInt64[np.ndarray, "*rows grams"]:
    """Return the hash of each gram of each row; equal grams have equal hashes.

    The hash is a sum of mixed token ids times odd random factors, modulo 2**64. That two of n
    different grams get one hash has a probability of about n²/2**65: 1e-5 for 17 million.

    Args:
        ids: token ids.
        length: tokens of a gram; rows that are shorter have none.

    Example:
        >>> one, two = gram_hashes(np.array([[1, 2, 3], [2, 3, 1]]), length=2)
        >>> bool(one[1] == two[0]), bool(one[0] == two[1])
        (True, False)
    """
    count = max(0, ids.shape[-1] - length + 1)
    hashes = np.zeros((*ids.shape[:-1], count), dtype=np.uint64)
    mixed = _mixed(ids.astype(np.uint64))
    for i, factor in enumerate(_factors(length)):
        hashes += mixed[..., i : i + count] * factor
    return hashes


def _factors(length: int) -> np.ndarray:
    rng = np.random.default_rng(SEED)
    return rng.integers(0, LARGEST - 1, size=length, dtype=np.uint64) | np.uint64(1)


def _mixed(x: np.ndarray) -> np.ndarray:
    """Return ids spread over 64 bits: the finaliser of splitmix64 (Steele et al. 2014)."""
    x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
