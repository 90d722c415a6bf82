"""What a repair fits: an SAE with a factor for each feature, or its own training continued."""

import copy
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from saebench.errors import SubjectError
from saebench.fit.repair import Method
from saebench.fit.training.training_sae import dense, saelens_loss
from saebench.formats.library_warnings import without_harmless
from saebench.formats.saelens import inference_sae

PENALTIES = {
    "standard": "l1_coefficient",
    "gated": "l1_coefficient",
    "jumprelu": "l0_coefficient",
}
ROWS_AT_ONCE = 4096
DEAD_AFTER = 1000  # steps without firing: SAELens' own default


class ScaledSAE(nn.Module):
    """y = W_d(s ⊙ f(x)) + b, of which a method fits some parameters.

    An encoder that subtracts b_dec from its input goes on subtracting the old one: otherwise
    fitting the output's bias would change the features of a frozen encoder.

    Args:
        sae: a SAELens SAE; copied, not changed.
        method: which parameters are fitted.

    Source:
        Wright & Sharkey 2024, "Addressing feature suppression in SAEs", table 1.
    """

    def __init__(self, sae: Any, method: Method) -> None:
        super().__init__()
        self.method = method
        self.sae: Any = _with_plain_topk(copy.deepcopy(sae)).requires_grad_(False)
        for name in method.encoder:
            parameter = getattr(self.sae, name, None)
            if isinstance(parameter, nn.Parameter):
                parameter.requires_grad_(True)
        decoder, bias = self.sae.W_dec.detach(), self.sae.b_dec.detach()
        self.scale = nn.Parameter(torch.ones_like(decoder[:, 0]))
        self.directions = nn.Parameter(decoder.clone(), requires_grad=method.fits_directions)
        self.bias = nn.Parameter(bias.clone(), requires_grad=method.fits_output_bias)

    def features(self, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens features"]:
        """Return the features; without a gradient where the encoder is frozen."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.method.keeps_features):
            return dense(self.sae.encode(x))

    def forward(self, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens d"]:
        """Return the reconstruction."""
        features = self.features(x)
        output = (features * self.scale) @ self.directions + self.bias
        # Undoes encode's normalisation: SAELens stores its factors between the two calls.
        return self.sae.run_time_activation_norm_fn_out(output)

    @torch.no_grad()
    def folded(self) -> Any:
        """Return an ordinary SAELens SAE that computes the same: s is folded into W_dec.

        Where the output's bias changed and the encoder subtracts it from its input, the encoder's
        biases make up for the difference: features agree to rounding.
        """
        sae = copy.deepcopy(self.sae)
        sae.W_dec.copy_(self.scale[:, None] * self.directions)
        change = (self.bias - sae.b_dec).double()
        if sae.cfg.apply_b_dec_to_input and bool(change.any()):
            for name, shift in _bias_shifts(sae, change @ sae.W_enc.double()).items():
                bias = getattr(sae, name)
                bias.copy_(bias.double() + shift)
        sae.b_dec.copy_(self.bias)
        return sae.requires_grad_(True)


class ScaledTask:
    """Fits a scaled SAE to reconstruct, by the squared error alone.

    Args:
        sae: a SAELens SAE.
        method: what is fitted.
        validation: activations for the checks.
    """

    def __init__(self, sae: Any, method: Method, validation: Float[Tensor, "tokens d"]) -> None:
        self.scaled = ScaledSAE(sae, method)
        self._validation = validation

    @property
    def module(self) -> nn.Module:
        """The scaled SAE."""
        return self.scaled

    def loss(self, batch: Float[Tensor, "tokens d"]) -> Tensor:
        """Return the squared error, summed over components, mean over tokens."""
        return F.mse_loss(self.scaled(batch), batch, reduction="sum") / len(batch)

    def check(self) -> float:
        """Return the squared error on the validation activations."""
        return squared_error(self.scaled, self._validation)

    def finished(self) -> Any:
        """Return the repaired SAE."""
        return self.scaled.folded()


@torch.no_grad()
def squared_error(sae: nn.Module, x: Float[Tensor, "tokens d"]) -> float:
    """Return ‖x̂ - x‖² as a mean over tokens, summed in fp64."""
    total = sum(
        float((cast("Tensor", sae(rows)) - rows).double().square().sum())
        for rows in x.split(ROWS_AT_ONCE)
    )
    return total / len(x)


def _bias_shifts(sae: Any, shift: Tensor) -> dict[str, Tensor]:
    """Return the shift of each encoder bias; a gated SAE's magnitudes have their own weights."""
    if getattr(sae, "r_mag", None) is not None:
        return {"b_gate": shift, "b_mag": shift * sae.r_mag.double().exp()}
    return {"b_enc": shift}


def _with_plain_topk(sae: Any) -> Any:
    """Fold a TopK SAE's decoder norms away: it ranks features by them, and the fit changes them."""
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        sae.fold_W_dec_norm()
        sae.cfg.rescale_acts_by_decoder_norm = False
    return sae


class BaselineTask:
    """Goes on training an SAE with its sparsity penalty, by SAELens' own loss.

    Args:
        sae: a SAELens SAE, whose metadata says how it was trained.
        validation: activations for the checks.
        coefficient: of the penalty; None takes the metadata's.

    Raises:
        SubjectError: where it is not known how the SAE was trained.
    """

    def __init__(
        self, sae: Any, validation: Float[Tensor, "tokens d"], *, coefficient: float | None = None
    ) -> None:
        self._training = _Training(training_sae(sae, coefficient=coefficient))
        self._validation = validation

    @property
    def module(self) -> nn.Module:
        """The training SAE, with the number of steps since each feature fired."""
        return self._training

    def loss(self, batch: Float[Tensor, "tokens d"]) -> Tensor:
        """Return SAELens' training loss."""
        return self._training.loss(batch)

    def check(self) -> float:
        """Return the squared error on the validation activations, without the penalty."""
        return squared_error(self._training.sae, self._validation)

    def finished(self) -> Any:
        """Return the SAE in its inference form."""
        return inference_sae(self._training.sae)


class _Training(nn.Module):
    """A training SAE, and the number of steps since each feature fired."""

    silent_steps: Tensor

    def __init__(self, sae: Any) -> None:
        super().__init__()
        self.sae: Any = sae
        steps = torch.zeros(sae.cfg.d_sae, dtype=torch.int64)
        self.register_buffer("silent_steps", steps.to(sae.W_dec.device))

    def loss(self, batch: Tensor) -> Tensor:
        coefficients = self.sae.get_coefficients().items()
        loss, fired = saelens_loss(
            self.sae,
            batch,
            coefficients={n: float(getattr(c, "value", c)) for n, c in coefficients},
            dead=self.silent_steps > DEAD_AFTER,
        )
        self.silent_steps = torch.where(fired, 0, self.silent_steps + 1)
        return loss


def training_sae(sae: Any, *, coefficient: float | None = None) -> Any:
    """Return SAELens' training form of a trained SAE.

    Args:
        sae: the SAE; left as it is.
        coefficient: of the penalty; None takes the metadata's.

    Raises:
        SubjectError: where the metadata does not say how the SAE was trained, or SAELens cannot
            train it.
    """
    from sae_lens import TrainingSAE
    from sae_lens.saes.sae import TrainingSAEConfig

    config = sae.cfg.to_dict() | _training_details(sae, coefficient)
    try:
        with without_harmless():
            training = TrainingSAE.from_dict(TrainingSAEConfig.from_dict(config).to_dict())
        state = dict(sae.state_dict())
        if "topk_threshold" in training.state_dict():
            state["topk_threshold"] = state.pop("threshold").double().mean()
        training.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise SubjectError(
            f"baseline: SAELens cannot go on training this {sae.cfg.architecture()} SAE: {error}"
        ) from error
    return training.to(sae.W_dec.device)


def _training_details(sae: Any, coefficient: float | None) -> dict[str, Any]:
    metadata = sae.cfg.metadata
    architecture = metadata.training_architecture or sae.cfg.architecture()
    details = dict(metadata.training_architecture_details or {})
    penalty = PENALTIES.get(architecture)
    if coefficient is not None and penalty is not None:
        details[penalty] = coefficient
    if penalty is not None and penalty not in details:
        raise SubjectError(
            f"baseline: the metadata has no training_architecture_details.{penalty}, the weight of "
            "the sparsity penalty that the SAE was trained with; give it: --coefficient X"
        )
    if architecture == "batchtopk" and "k" not in details:
        raise SubjectError(
            "baseline: the metadata has no training_architecture_details.k, BatchTopK's number of "
            "features a token; the SAE's training cannot be continued"
        )
    return {"architecture": architecture, **details}
