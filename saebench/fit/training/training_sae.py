"""SAELens' training SAEs: made, begun from another SAE or near the identity, kept in scale."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from saebench.errors import OptionError, SubjectError
from saebench.fit.training.objectives import Sparsity

WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")
BEGINS = {"standard": "standard", "topk": "topk", "batchtopk": "jumprelu"}
BARELY = 0.01  # how strongly a feature that the identity does not need is encoded


def make_sae(
    *, d_in: int, d_sae: int, sparsity: Sparsity, metadata: dict[str, Any], seed: int
) -> Any:
    """Return a SAELens training SAE with random weights of a seed.

    Args:
        d_in: width of the activations.
        d_sae: number of features.
        sparsity: its kind.
        metadata: where it belongs.
        seed: of the decoder's directions.

    Raises:
        OptionError: where more features are to be kept than there are.
    """
    from sae_lens import TrainingSAE
    from sae_lens.saes.sae import SAEMetadata, TrainingSAEConfig

    if sparsity.kind != "l1" and sparsity.value > d_sae:
        raise OptionError(f"--sparsity {sparsity}: the SAE has {d_sae} features")
    config = TrainingSAEConfig.from_dict({"d_in": d_in, "d_sae": d_sae, **sparsity.config()})
    config.metadata = SAEMetadata(**metadata)
    sae = TrainingSAE.from_dict(config.to_dict())
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(d_sae, d_in, generator=generator, dtype=torch.float32)
    directions *= (config.decoder_init_norm or 1.0) / directions.norm(dim=1, keepdim=True)
    with torch.no_grad():
        sae.W_dec.copy_(directions)
        sae.W_enc.copy_(directions.T)
    return sae


@torch.no_grad()
def begin_from(sae: Any, other: Any, *, where: str) -> None:
    """Take another SAE's weights.

    Args:
        sae: the training SAE.
        other: a SAELens SAE in its inference form.
        where: what it is called in messages.

    Raises:
        SubjectError: where it is of another kind or size.
    """
    kind = sae.cfg.architecture()
    found, wanted = other.cfg.architecture(), BEGINS[kind]
    if found != wanted:
        raise SubjectError(
            f"--init {where}: is a {found} SAE; a {kind} one is begun from a {wanted} SAE"
        )
    if sae.W_enc.shape != other.W_enc.shape:
        raise SubjectError(
            f"--init {where}: has {tuple(other.W_enc.shape)} weights (d_in, d_sae), "
            f"expected {tuple(sae.W_enc.shape)}; give --expansion as it was trained with"
        )
    for name in WEIGHTS:
        getattr(sae, name).copy_(getattr(other, name))
    if kind == "topk" and not getattr(other.cfg, "rescale_acts_by_decoder_norm", False):
        # Ours ranks by pre-activations times these norms, that one by the former alone.
        _scale_rows(sae, 1 / sae.W_dec.norm(dim=1))
    if "topk_threshold" in sae.state_dict():
        sae.topk_threshold.fill_(float(other.threshold.double().mean()))


@torch.no_grad()
def begin_near_identity(sae: Any) -> None:
    """Let two features encode each component, as relu(±x); the others barely do anything.

    Raises:
        OptionError: where there are fewer than two features a component.
    """
    d = sae.cfg.d_in
    if sae.cfg.d_sae < 2 * d:
        raise OptionError(f"--init identity: needs --expansion 2 or more for {d} components")
    one = torch.eye(d, dtype=sae.W_dec.dtype, device=sae.W_dec.device)
    both = torch.cat([one, -one])
    directions = sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True)
    directions[: 2 * d] = both
    sae.W_dec.copy_(directions)
    sae.W_enc.copy_(BARELY * directions.T)
    sae.W_enc[:, : 2 * d] = both.T


class TrainedSAE(nn.Module):
    """A training SAE, how many tokens it saw, and since when each feature has not fired.

    Args:
        sae: SAELens' training form.
    """

    silent: Tensor
    seen: Tensor
    norm: Tensor

    def __init__(self, sae: Any) -> None:
        super().__init__()
        self.sae: Any = sae
        device = sae.W_dec.device
        silent = torch.zeros(sae.cfg.d_sae, dtype=torch.int64, device=device)
        self.register_buffer("silent", silent)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64, device=device))
        self.register_buffer("norm", sae.W_dec.detach().norm(dim=1).clone())

    @torch.no_grad()
    def count(self, fired: Bool[Tensor, "features"], *, tokens: int) -> None:
        """Note which features fired at some tokens, and how many these were."""
        self.seen += tokens
        self.silent = torch.where(fired, 0, self.silent + tokens)

    def silent_for(self, tokens: int) -> Bool[Tensor, "features"]:
        """Return which features have not fired for so many tokens."""
        return self.silent > tokens

    @torch.no_grad()
    def keep_norms(self) -> None:
        """Give each decoder row the norm back that it began with; what the SAE does stays.

        A feature's size can be in its encoder or its decoder: nothing in the whole model's loss
        tells them apart, so one of the two would drift.
        """
        norm = self.sae.W_dec.norm(dim=1)
        _scale_rows(self.sae, torch.where(norm > 0, self.norm / norm, 1.0))


def _scale_rows(sae: Any, factor: Float[Tensor, "features"]) -> None:
    """Scale the decoder rows, and the encoder the other way."""
    sae.W_dec.mul_(factor[:, None])
    sae.W_enc.div_(factor)
    sae.b_enc.div_(factor)
