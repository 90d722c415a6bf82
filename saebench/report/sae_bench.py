"""A run in the layout of SAEBench's core evaluation, so that its plots and tables read ours.

Its schema demands every number. One that this run has not measured is -1, which is what SAEBench
itself writes for a number that it could not compute; ``eval_result_unstructured`` lists them.
"""

from datetime import datetime
from typing import Any

from saebench.report.sae_lens import (
    NOTES,
    cases_of,
    config_of,
    data_of,
    grouped_metrics,
    model_name,
    names_of,
    token_stats,
    values_of,
)
from saebench.report.shapes import reading_series
from saebench.results import Run, SubjectRecord
from saebench.store.file_names import file_part

ABSENT = -1
DEMANDED = {
    "model_behavior_preservation": ("kl_div_score", "kl_div_with_ablation", "kl_div_with_sae"),
    "model_performance_preservation": (
        "ce_loss_score", "ce_loss_with_ablation", "ce_loss_with_sae", "ce_loss_without_sae",
    ),
    "reconstruction_quality": (
        "explained_variance", "explained_variance_legacy", "mse", "cossim",
    ),
    "shrinkage": ("l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias"),
    "sparsity": ("l0", "l1"),
    "token_stats": ("total_tokens_eval_reconstruction", "total_tokens_eval_sparsity_variance"),
    "misc_metrics": (
        "freq_over_1_percent", "freq_over_10_percent", "normalized_freq_over_1_percent",
        "normalized_freq_over_10_percent", "average_max_encoder_cosine_sim",
        "average_max_decoder_cosine_sim", "frac_alive",
    ),
}  # fmt: skip
MSE = "mse is the mean over tokens of ‖x − x̂‖²; SAEBench 0.6.0 also divides by the batch's tokens"


def to_sae_bench(run: Run, sae: SubjectRecord) -> dict[str, Any]:
    """Return one SAE's ``…_eval_results.json``.

    Source:
        sae-bench 0.6.0, ``sae_bench.evals.core.eval_output.CoreEvalOutput``.
    """
    with reading_series(sae.id):
        found = grouped_metrics(run, sae) | {
            "token_stats": token_stats(run, sae),
            "misc_metrics": _misc(run, sae),
        }
    metrics = {
        group: {name: found.get(group, {}).get(name, ABSENT) for name in names}
        for group, names in DEMANDED.items()
    }
    absent = [
        n for group, names in DEMANDED.items() for n in names if n not in found.get(group, {})
    ]
    release, id = names_of(sae)
    return {
        "eval_type_id": "core",
        "eval_config": _eval_config(run, sae),
        "eval_id": run.run.id,
        "datetime_epoch_millis": int(datetime.fromisoformat(run.run.started).timestamp() * 1000),
        "eval_result_metrics": metrics,
        "eval_result_details": [],
        "eval_result_unstructured": {"saebench": _beyond(run, sae, absent)},
        "sae_bench_commit_hash": f"saebench {run.harness.get('version', 'unknown')}",
        "sae_lens_id": id,
        "sae_lens_release_id": release,
        "sae_lens_version": run.env.get("sae-lens"),
        "sae_cfg_dict": config_of(run, sae),
    }


def file_name(sae: SubjectRecord) -> str:
    """Return the name by which SAEBench finds an SAE's results.

    Example:
        >>> file_name(SubjectRecord("a", "org/rel:b/c", "", "", "topk", "", "", 4, 8, None))
        'org_rel_b_c_eval_results.json'
    """
    return file_part("_".join(names_of(sae))) + "_eval_results.json"


def _misc(run: Run, sae: SubjectRecord) -> dict[str, float]:
    values = values_of(run, sae)
    found = {"frac_alive": 1 - values["sparsity.dead"]} if "sparsity.dead" in values else {}
    series = next((c.series for c in cases_of(run, sae) if c.property == "sparsity"), {})
    for limit, name in (("0.01", "1_percent"), ("0.1", "10_percent")):
        shares = series.get("frequent", {}).get(limit)
        if shares:
            found[f"freq_over_{name}"] = shares["features"]
            found[f"normalized_freq_over_{name}"] = shares["firing"]
    return found


def _eval_config(run: Run, sae: SubjectRecord) -> dict[str, Any]:
    data = data_of(run, sae)
    return {
        "model_name": model_name(run, sae),
        "llm_dtype": run.models[0].dtype if run.models else "float32",
        "batch_size_prompts": data.sequences if data else 0,
        "n_eval_reconstruction_batches": 1,
        "n_eval_sparsity_variance_batches": 1,
        "dataset": data.name if data else "unknown",
        "context_size": data.context if data else 0,
        "compute_kl": True,
        "compute_ce_loss": True,
        "compute_l2_norms": True,
        "compute_sparsity_metrics": True,
        "compute_variance_metrics": True,
        "compute_featurewise_density_statistics": False,
        "compute_featurewise_weight_based_metrics": False,
        "exclude_special_tokens_from_reconstruction": True,
        "verbose": False,
    }


def _beyond(run: Run, sae: SubjectRecord, absent: list[str]) -> dict[str, Any]:
    """Return what the layout has no room for: verdicts, gates with intervals, what is absent."""
    cases = cases_of(run, sae)
    return {
        "not_measured": absent,
        "notes": [*NOTES, MSE],
        "weights_sha256": sae.weights_sha256,
        "verdicts": {case.kind: case.verdict.value for case in cases},
        "gates": [
            {
                "rule": gate.rule,
                "observed": gate.observed,
                "ci": [gate.ci.low, gate.ci.high] if gate.ci else None,
                "verdict": gate.verdict.value,
                "role": "secondary" if gate.secondary else "primary",
            }
            for case in cases
            for gate in case.gates
        ],
    }
