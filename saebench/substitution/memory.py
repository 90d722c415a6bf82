"""How much to do at once: as much as is fastest, and as fits in free memory."""

import torch

from saebench.subjects.host import Host

# Tokens of one pass. On a CPU more gains nothing, and activations leave the cache; a GPU wants
# many, to keep all of it busy.
TOKENS_A_PASS = {"cpu": 2048, "cuda": 32_768}
SHARE_OF_FREE = 0.25
HIDDEN_BYTES = 256 << 20  # of what a batch's interventions leave behind, on a CPU


def tokens_a_pass(host: Host) -> int:
    """Return how many tokens to run through the model at once.

    A pass needs about the width of the MLP, three times over, for each token.
    """
    most = TOKENS_A_PASS.get(host.device.type, TOKENS_A_PASS["cuda"])
    told = getattr(host.config, "intermediate_size", None) or 4 * host.d_model
    inner = max(told) if isinstance(told, list | tuple) else told  # some have one for each block
    return max(1, min(most, int(_to_use(host.device) / (3 * 4 * inner))))


def sequences_at_once(host: Host, *, context: int, kept: int) -> int:
    """Return how many sequences to take together.

    Args:
        host: the model.
        context: tokens of a sequence.
        kept: vectors of the residual stream's width that are kept of every token.
    """
    by_memory = int(_to_use(host.device) / (kept * context * host.d_model * 4))
    return max(1, min(by_memory, tokens_a_pass(host) // context))


def _to_use(device: torch.device) -> float:
    """Return the bytes that a batch may take: a share of what is free."""
    if device.type == "cuda":
        return SHARE_OF_FREE * torch.cuda.mem_get_info(device)[0]
    import psutil

    return min(HIDDEN_BYTES, SHARE_OF_FREE * psutil.virtual_memory().available)
