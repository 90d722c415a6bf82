"""SAELens' run_evals: one SAE at a time, KL and cross-entropy only."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Int
from torch import Tensor

from perf.figures import Figures, Runner, joined
from perf.peers.lens import TokenStore


def saelens_runner(
    model: Any,
    ids: Int[Tensor, "sequences context"],
    saes: Mapping[str, Any],
    *,
    batch: int,
    bos: int,
) -> Runner:
    """Return a call that evaluates the SAEs one after the other.

    Args:
        model: a HookedTransformer or a TransformerBridge.
        ids: the tokens.
        saes: SAELens SAEs by name.
        batch: sequences at once.
        bos: the id left out of reconstruction and scoring, which leaves position 0 out.
    """
    from sae_lens.evals import EvalConfig, run_evals
    from sae_lens.training.activation_scaler import ActivationScaler

    ids = ids.to(next(iter(saes.values())).W_dec.device)
    config = EvalConfig(batch, len(ids) // batch, compute_kl=True, compute_ce_loss=True)

    def evaluated(sae: Any) -> Figures:
        store: Any = TokenStore(ids, batch=batch)
        metrics, _ = run_evals(
            sae, store, model, ActivationScaler(), config, exclude_special_tokens=[bos]
        )
        return core_figures(metrics)

    return lambda: joined({name: evaluated(sae) for name, sae in saes.items()})


def core_figures(metrics: Mapping[str, Mapping[str, float]]) -> Figures:
    """Return the figures of SAELens' result, whose form is sae_bench's too.

    Its ablation is named apart from our ``zero``: it ablates position 0 as well.
    """
    behaviour = metrics["model_behavior_preservation"]
    performance = metrics["model_performance_preservation"]
    return Figures(
        {
            "kl.sae": behaviour["kl_div_with_sae"],
            "ce.clean": performance["ce_loss_without_sae"],
            "ce.sae": performance["ce_loss_with_sae"],
            "kl.zero_everywhere": behaviour["kl_div_with_ablation"],
            "ce.zero_everywhere": performance["ce_loss_with_ablation"],
        }
    )
