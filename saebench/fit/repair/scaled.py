"""An SAE with a factor for each feature between encoder and decoder, and its folding back."""

import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from saebench.fit.repair.before_after import AFTER
from saebench.fit.repair.repair_job import Method
from saebench.formats.metadata import SubjectMetadata
from saebench.options import Overrides
from saebench.records.repair import RepairRecipe
from saebench.subjects.loading import load_subject
from saebench.subjects.references import find_subjects
from saebench.subjects.sae import Subject

ROWS_AT_ONCE = 4096


class ScaledSAE(nn.Module):
    """y = W_d(s ⊙ f(x)) + b, of which a method fits some parameters.

    The encoder goes on subtracting the SAE's old b_dec from its input, where it does so: else
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
            found = self.sae.encode(x)
            return found.to_dense() if found.is_sparse else found

    def forward(self, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens d"]:
        """Return the reconstruction."""
        features = self.features(x)
        output = (features * self.scale) @ self.directions + self.bias
        # Undoes what encode normalised: SAELens keeps the factors between the two.
        return self.sae.run_time_activation_norm_fn_out(output)

    @torch.no_grad()
    def folded(self) -> Any:
        """Return an ordinary SAELens SAE that gives the same: s goes into W_dec.

        Where the output's bias moved and the encoder subtracts it from its input, the encoder's
        biases take up the difference: features agree to rounding.
        """
        sae = copy.deepcopy(self.sae)
        sae.W_dec.copy_(self.scale[:, None] * self.directions)
        moved = (self.bias - sae.b_dec).double()
        if sae.cfg.apply_b_dec_to_input and bool(moved.any()):
            through = moved @ sae.W_enc.double()
            for name, shift in _bias_shifts(sae, through).items():
                bias = getattr(sae, name)
                bias.copy_(bias.double() + shift)
        sae.b_dec.copy_(self.bias)
        return sae.requires_grad_(True)


class ScaledTask:
    """Fits a scaled SAE to reconstruct, by the squared error alone.

    Args:
        sae: a SAELens SAE.
        method: what is fitted.
        held: activations that checks are made on.
    """

    def __init__(self, sae: Any, method: Method, held: Float[Tensor, "tokens d"]) -> None:
        self.scaled = ScaledSAE(sae, method)
        self._held = held

    @property
    def module(self) -> nn.Module:
        """The scaled SAE."""
        return self.scaled

    def loss(self, batch: Float[Tensor, "tokens d"]) -> Tensor:
        """Return the squared error, summed over components, mean over tokens."""
        return F.mse_loss(self.scaled(batch), batch, reduction="sum") / len(batch)

    def check(self) -> float:
        """Return the squared error on the held activations."""
        return squared_error(self.scaled, self._held)

    def finished(self) -> Any:
        """Return the SAE that was made."""
        return self.scaled.folded()


@torch.no_grad()
def squared_error(sae: nn.Module, x: Float[Tensor, "tokens d"]) -> float:
    """Return ‖x̂ - x‖² as a mean over tokens, summed in fp64."""
    total = sum(
        float((cast("Tensor", sae(rows)) - rows).double().square().sum())
        for rows in x.split(ROWS_AT_ONCE)
    )
    return total / len(x)


def _bias_shifts(sae: Any, through: Tensor) -> dict[str, Tensor]:
    """Return what each encoder bias takes up; a gated SAE's magnitudes have their own weights."""
    if getattr(sae, "r_mag", None) is not None:
        return {"b_gate": through, "b_mag": through * sae.r_mag.double().exp()}
    return {"b_enc": through}


def _with_plain_topk(sae: Any) -> Any:
    """Fold a TopK SAE's decoder norms away: it ranks by them, and they are to change."""
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        sae.fold_W_dec_norm()
        sae.cfg.rescale_acts_by_decoder_norm = False
    return sae


RECORD_FILE = "repair.json"


def save_repaired(
    sae: Any, directory: Path, *, metadata: SubjectMetadata, recipe: RepairRecipe
) -> None:
    """Write an SAE as SAELens does, with the recipe and all that places it in its metadata.

    Args:
        sae: the repaired SAE.
        directory: an empty one.
        metadata: where the SAE belongs, the user's overrides included.
        recipe: of the repair.
    """
    told = sae.cfg.metadata
    told.hook_name = metadata.hook
    told.model_name = metadata.model_name
    told.context_size = metadata.training_context
    told.prepend_bos = metadata.prepend_bos
    told.repair = asdict(recipe) | {"fitted": list(recipe.fitted)}
    sae.to("cpu").save_model(directory)


def load_saved(directory: Path, like: Subject, *, shown: str, device: torch.device) -> Subject:
    """Return the written SAE, loaded as anybody would.

    Args:
        directory: where it was written.
        like: the SAE before.
        shown: what its source is called.
        device: the model's.
    """
    (reference,) = find_subjects([str(directory)])
    reference = replace(reference, id=AFTER, source=shown)
    subject = load_subject(reference, overrides=Overrides(), device=str(device))
    subject.metadata = like.metadata
    return subject
