"""The baseline of repair: the SAE's ordinary training continued, by SAELens' own loss."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saebench.errors import SubjectError
from saebench.fit.repair.scaled import squared_error
from saebench.formats.library_warnings import without_harmless
from saebench.formats.saelens import inference_sae

DEAD_AFTER = 1000  # steps without firing: SAELens' own default
PENALTIES = ("l1_coefficient", "l0_coefficient")


class BaselineTask:
    """Goes on training an SAE with its sparsity penalty.

    Args:
        sae: a SAELens SAE, whose metadata says how it was trained.
        held: activations that checks are made on.
        coefficient: of the penalty; None takes the metadata's.

    Raises:
        SubjectError: where it is not known how the SAE was trained.
    """

    def __init__(
        self, sae: Any, held: Float[Tensor, "tokens d"], *, coefficient: float | None = None
    ) -> None:
        self._training = _Training(training_sae(sae, coefficient=coefficient))
        self._held = held

    @property
    def module(self) -> nn.Module:
        """The training SAE, and for how long each feature has not fired."""
        return self._training

    def loss(self, batch: Float[Tensor, "tokens d"]) -> Tensor:
        """Return SAELens' training loss."""
        return self._training.loss(batch)

    def check(self) -> float:
        """Return the squared error on the held activations, without the penalty."""
        return squared_error(self._training.sae, self._held)

    def finished(self) -> Any:
        """Return the SAE in its inference form."""
        return inference_sae(self._training.sae)


class _Training(nn.Module):
    silent_steps: Tensor

    def __init__(self, sae: Any) -> None:
        super().__init__()
        self.sae: Any = sae
        steps = torch.zeros(sae.cfg.d_sae, dtype=torch.int64)
        self.register_buffer("silent_steps", steps.to(sae.W_dec.device))

    def loss(self, batch: Tensor) -> Tensor:
        from sae_lens.saes.sae import TrainStepInput

        coefficients = self.sae.get_coefficients().items()
        output = self.sae.training_forward_pass(
            TrainStepInput(
                sae_in=batch,
                coefficients={n: float(getattr(c, "value", c)) for n, c in coefficients},
                dead_neuron_mask=self.silent_steps > DEAD_AFTER,
                n_training_steps=0,
                is_logging_step=False,
            )
        )
        features = output.feature_acts.detach()
        fired = (features.to_dense() if features.is_sparse else features).ne(0).any(dim=0)
        self.silent_steps = torch.where(fired, 0, self.silent_steps + 1)
        return output.loss


def training_sae(sae: Any, *, coefficient: float | None = None) -> Any:
    """Return SAELens' training form of a trained SAE.

    Args:
        sae: the SAE; left as it is.
        coefficient: of the penalty; None takes the metadata's.

    Raises:
        SubjectError: where the metadata does not say how it was trained, or it cannot go on.
    """
    from sae_lens import TrainingSAE
    from sae_lens.saes.sae import TrainingSAEConfig

    config = sae.cfg.to_dict() | _training_details(sae, coefficient)
    try:
        with without_harmless():
            made = TrainingSAE.from_dict(TrainingSAEConfig.from_dict(config).to_dict())
        state = dict(sae.state_dict())
        if "topk_threshold" in made.state_dict():
            state["topk_threshold"] = state.pop("threshold").double().mean()
        made.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise SubjectError(
            f"baseline: SAELens cannot go on training this {sae.cfg.architecture()} SAE: {error}"
        ) from error
    return made.to(sae.W_dec.device)


def _training_details(sae: Any, coefficient: float | None) -> dict[str, Any]:
    metadata = sae.cfg.metadata
    architecture = metadata.training_architecture or sae.cfg.architecture()
    details = dict(metadata.training_architecture_details or {})
    wanted = {"standard": "l1_coefficient", "gated": "l1_coefficient", "jumprelu": "l0_coefficient"}
    penalty = wanted.get(architecture)
    if coefficient is not None and penalty is not None:
        details[penalty] = coefficient
    if penalty is not None and penalty not in details:
        raise SubjectError(
            f"baseline: the metadata has no training_architecture_details.{penalty}, the weight of "
            "the sparsity penalty that the SAE was trained with; give it: --coefficient X"
        )
    if architecture == "batchtopk" and "k" not in details:
        raise SubjectError(
            "baseline: the metadata has no training_architecture_details.k, how many features "
            "BatchTopK kept; the SAE's training cannot be continued"
        )
    return {"architecture": architecture, **details}
