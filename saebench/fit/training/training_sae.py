"""SAELens' training SAEs: built, initialised, encoded and decoded with gradients."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float
from torch import Tensor, nn

from saebench.errors import OptionError, SubjectError
from saebench.fit.training import Sparsity
from saebench.subjects.features import SPARSE_FROM, SPARSE_SHARE, Active

WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")
BEGINS = {"standard": "standard", "topk": "topk", "batchtopk": "jumprelu"}
BARELY = 0.01  # how strongly a feature that the identity does not need is encoded


def make_sae(
    *, d_in: int, d_sae: int, sparsity: Sparsity, metadata: dict[str, Any], seed: int
) -> Any:
    """Return a SAELens training SAE with random weights.

    Args:
        d_in: width of the activations.
        d_sae: number of features.
        sparsity: its penalty, or number of features a token.
        metadata: SAELens' metadata: its model, hook and context.
        seed: of the decoder's directions.

    Raises:
        OptionError: for a TopK of more features than there are.
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
    """Initialise with another SAE's weights.

    Args:
        sae: the training SAE.
        other: a SAELens SAE in its inference form.
        where: its SPEC, for messages.

    Raises:
        SubjectError: where it is of another kind or size.
    """
    kind = sae.cfg.architecture()
    given, expected = other.cfg.architecture(), BEGINS[kind]
    if given != expected:
        raise SubjectError(
            f"--init {where}: is a {given} SAE; a {kind} one is begun from a {expected} SAE"
        )
    if sae.W_enc.shape != other.W_enc.shape:
        raise SubjectError(
            f"--init {where}: has {tuple(other.W_enc.shape)} weights (d_in, d_sae), "
            f"expected {tuple(sae.W_enc.shape)}; give --expansion as it was trained with"
        )
    for name in WEIGHTS:
        getattr(sae, name).copy_(getattr(other, name))
    if kind == "topk" and not getattr(other.cfg, "rescale_acts_by_decoder_norm", False):
        # The training SAE ranks by pre-activation times decoder norm, the other by the former.
        _scale_rows(sae, 1 / sae.W_dec.norm(dim=1))
    if "topk_threshold" in sae.state_dict():
        sae.topk_threshold.fill_(float(other.threshold.double().mean()))


@torch.no_grad()
def begin_near_identity(sae: Any) -> None:
    """Initialise two features of each component as relu(±x), and the others close to zero.

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
    """A training SAE, its number of tokens so far, and those since each feature fired.

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
        """Count a batch's tokens, and those since each feature fired.

        Args:
            fired: the features that are not zero at one of the tokens or more.
            tokens: how many there are.
        """
        self.seen += tokens
        self.silent = torch.where(fired, 0, self.silent + tokens)

    def silent_for(self, tokens: int) -> Bool[Tensor, "features"]:
        """Return the features that have not fired for so many tokens."""
        return self.silent > tokens

    @torch.no_grad()
    def keep_norms(self) -> None:
        """Scale each decoder row back to its first norm, without a change of the SAE's output.

        The whole model's loss does not change when a feature is scaled up in its encoder and down
        in its decoder, so that the norms would drift.
        """
        norm = self.sae.W_dec.norm(dim=1)
        _scale_rows(self.sae, torch.where(norm > 0, self.norm / norm, 1.0))


def _scale_rows(sae: Any, factor: Float[Tensor, "features"]) -> None:
    """Scale the decoder rows, and the encoder the other way."""
    sae.W_dec.mul_(factor[:, None])
    sae.W_enc.div_(factor)
    sae.b_enc.div_(factor)


@dataclass(frozen=True)
class Coded:
    """A batch of activations, encoded and decoded.

    Attributes:
        x_hat: reconstructions.
        fired: the features that are not zero at one of the tokens or more.
        values: of features, among them all that are not zero.
        size: Σ f·‖d‖, a mean over tokens; None where it was not asked for.
    """

    x_hat: Float[Tensor, "tokens d"]
    fired: Bool[Tensor, "features"]
    values: Float[Tensor, "..."]
    size: Float[Tensor, ""] | None


def code(sae: Any, x: Float[Tensor, "tokens d"], *, sized: bool = False) -> Coded:
    """Encode and decode as SAELens does, with the same gradients.

    A TopK SAE's few features are selected without a gradient and decoded as a list; of other SAEs
    with many features, only those that fire are decoded. That changes no gradient: a feature that
    is zero gets none through ReLU or TopK.

    Args:
        sae: SAELens' training form, built by :func:`make_sae`.
        x: activations.
        sized: give the size, chosen L1 penalises.

    Example:
        >>> sae = make_sae(d_in=4, d_sae=16, sparsity=Sparsity("topk", 2), metadata={}, seed=0)
        >>> x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
        >>> torch.allclose(code(sae, x).x_hat, sae(x), atol=1e-6)
        True
    """
    if sae.cfg.architecture() == "topk" and not sized:
        return _topk(sae, x)
    features, _ = sae.encode_with_hidden_pre(x)
    size = sizes(sae, features).mean() if sized else None
    fired = features.detach().ne(0).any(dim=0)
    return Coded(_decoded(sae, features), fired, features, size)


def sizes(sae: Any, features: Float[Tensor, "tokens features"]) -> Float[Tensor, "tokens"]:
    """Return Σ f·‖d‖ of each token: SAELens' L1 penalty, chosen no rescaling changes."""
    return features @ sae.W_dec.norm(dim=1)


def _topk(sae: Any, x: Tensor) -> Coded:
    """Select each token's k features by SAELens' ranking, and decode these alone."""
    before = sae.process_sae_in(x) @ sae.W_enc + sae.b_enc
    with torch.no_grad():
        rank = before
        if sae.cfg.rescale_acts_by_decoder_norm:
            rank = before * sae.W_dec.norm(dim=1)
        chosen = rank.topk(sae.cfg.k, dim=1, sorted=False).indices
    # The norm that SAELens multiplies features by is divided out again where they are decoded.
    values = before.gather(1, chosen).relu()
    x_hat = F.embedding_bag(chosen, sae.W_dec, per_sample_weights=values, mode="sum") + sae.b_dec
    fired = torch.zeros(len(sae.W_dec), dtype=torch.bool, device=x.device)
    fired[chosen[values.detach() > 0]] = True
    return Coded(x_hat, fired, values, None)


def _decoded(sae: Any, features: Tensor) -> Tensor:
    most = SPARSE_SHARE * features.numel()
    if features.shape[1] < SPARSE_FROM or int(features.detach().count_nonzero()) > most:
        return sae.decode(features)
    rescaled = getattr(sae.cfg, "rescale_acts_by_decoder_norm", False)
    return Active.of(features).decoded(sae.W_dec, sae.b_dec, rescaled=rescaled)


def dense(features: Float[Tensor, "tokens features"]) -> Float[Tensor, "tokens features"]:
    """Return features as an ordinary tensor; SAELens' TopK may give a sparse one."""
    return features.to_dense() if features.is_sparse else features


def saelens_loss(
    sae: Any,
    x: Float[Tensor, "tokens d"],
    *,
    coefficients: dict[str, float],
    dead: Bool[Tensor, "features"],
) -> tuple[Float[Tensor, ""], Bool[Tensor, "features"]]:
    """Return SAELens' training loss, and the features that fired at one of the tokens or more.

    Args:
        sae: SAELens' training form.
        x: activations.
        coefficients: of its penalties, by name.
        dead: the features that its auxiliary loss is to revive.
    """
    from sae_lens.saes.sae import TrainStepInput

    output = sae.training_forward_pass(
        TrainStepInput(
            sae_in=x,
            coefficients=coefficients,
            dead_neuron_mask=dead,
            n_training_steps=0,
            is_logging_step=False,
        )
    )
    return output.loss, dense(output.feature_acts.detach()).ne(0).any(dim=0)
