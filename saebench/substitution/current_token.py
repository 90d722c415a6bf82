"""The model's cross-entropy from the current token alone: what it predicts without context."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saebench.data.tokens import TokenSet
from saebench.subjects.host import Host
from saebench.substitution.passes import Passes
from saebench.substitution.readout import Readout

AT_ONCE = 256  # distinct tokens in a pass: always as many, so that no result depends on the others


def prefix_of(host: Host, bos: int | None) -> int | None:
    """Return the token before the current one: BOS where sequences begin with it, else EOS.

    Args:
        host: the model.
        bos: the token that the run's sequences begin with; None without one.

    Returns:
        None where the tokenizer has no EOS either: the model then sees the current token alone.
    """
    return getattr(host.tokenizer, "eos_token_id", None) if bos is None else bos


@torch.inference_mode()
def current_token_ce(
    host: Host, tokens: TokenSet, *, prefix: int | None
) -> Float[Tensor, "sequences context"]:
    """Return -ln P(x_{t+1} | prefix, x_t), in nats, at each token with a target; 0 elsewhere.

    The model runs once for each distinct x_t.

    Args:
        host: the model.
        tokens: the sequences.
        prefix: the token before the current one; None for none.

    Source:
        docs/metrics.md (fidelity, ``context_recovered``).
    """
    mask = tokens.has_target
    targets = tokens.ids.roll(-1, dims=1)
    pairs = torch.stack([tokens.ids[mask], targets[mask]], dim=1)
    out = torch.zeros(tokens.ids.shape, dtype=torch.float32)
    if len(pairs):
        distinct, which = pairs.unique(dim=0, return_inverse=True)
        out[mask] = torch.cat(list(_of_pairs(host, distinct, prefix)))[which]
    return out.to(host.device)


def _of_pairs(
    host: Host, pairs: Int[Tensor, "pairs 2"], prefix: int | None
) -> Iterator[Float[Tensor, "some"]]:
    """Yield the cross-entropy of each pair of a token and its next one, sorted by the token."""
    passes, read_out = Passes(host), Readout(host)
    current, of_current = pairs[:, 0].unique_consecutive(return_inverse=True)
    for start in range(0, len(current), AT_ONCE):
        some = current[start : start + AT_ONCE]
        inside = (of_current >= start) & (of_current < start + len(some))
        row, goals = of_current[inside] - start, pairs[inside, 1]
        final = passes.clean(_contexts(some, prefix).to(host.device), []).final
        assert final is not None
        yield read_out.cross_entropy(final[:, -1], row=row, targets=goals).cpu()


def _contexts(current: Int[Tensor, "tokens"], prefix: int | None) -> Int[Tensor, "rows length"]:
    padded = torch.cat([current, current[:1].expand(AT_ONCE - len(current))])
    if prefix is None:
        return padded[:, None]
    return torch.stack([torch.full_like(padded, prefix), padded], dim=1)
