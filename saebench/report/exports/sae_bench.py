"""A run in the layout of SAEBench's core evaluation, for its plots and tables.

Its schema demands every number. One that SAEBench would compute otherwise, or that this run has
not measured, is -1, as SAEBench itself writes for what it could not compute;
``eval_result_unstructured`` lists them with the reasons.
"""

import re
from datetime import datetime
from typing import Any

from saebench.records.inputs import ALL_COUNT, FIRST, SPECIAL, SubjectRecord
from saebench.records.run import Run
from saebench.report.exports.sae_lens import (
    LOCAL,
    METRICS,
    OF_ABLATION,
    OF_FEATURES,
    POOLED,
    TRANSCODES,
    config_of,
    data_of,
    model_name,
    names_of,
    token_stats,
    transcodes,
    values_of,
)
from saebench.report.style import reading_series
from saebench.text import LONGEST, file_part

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
OF_NO_RELEASE = (LOCAL, "demo")
CUSTOM = "custom_sae"  # what SAEBench calls an SAE that is of no release
# Of which no feature is negative: SAEBench sums features and counts those above 0.
POSITIVE = (
    "standard", "topk", "batchtopk", "matryoshka_batchtopk", "jumprelu", "gated", "groupmax",
    "transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder",
)  # fmt: skip
FOLDED = ("standard", "jumprelu", "gated")  # of a release: SAEBench folds their decoders' norms
ABLATED = "-1 for {names}: SAEBench ablates special tokens too, saebench no token that it excludes"
OTHER_TOKENS = (
    "-1 for what rests on other tokens: SAEBench leaves out special tokens alone, of this run "
    "count {rule}, and position 0 is {first}"
)
SIGNED = "-1 for l1 and densities: SAEBench sums signed features and counts those above 0"
MSE = "mse and explained_variance are SAEBench's formulas, with all sequences as one batch"


def to_sae_bench(run: Run, sae: SubjectRecord) -> dict[str, Any]:
    """Return one SAE's ``…_eval_results.json``.

    Source:
        sae-bench 0.6.0, ``sae_bench.evals.core.eval_output.CoreEvalOutput``.
    """
    with reading_series(sae.id):
        measured = _measured(run, sae) | {"token_stats": token_stats(run, sae)}
    metrics = {
        group: {name: measured.get(group, {}).get(name, ABSENT) for name in names}
        for group, names in DEMANDED.items()
    }
    absent = [
        n for group, names in DEMANDED.items() for n in names if n not in measured.get(group, {})
    ]
    release, id = _names(sae)
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
    """Return the name by which SAEBench finds an SAE's results: its tables are joined by it.

    Source:
        sae-bench 0.6.0, ``sae_bench_utils.general_utils.get_results_filepath``.

    Example:
        >>> file_name(SubjectRecord("a", "org/rel:b/c", "", "", "topk", "", "", 4, 8, None))
        'org_rel_b_c_eval_results.json'
    """
    theirs = "_".join(_names(sae)).replace("/", "_")
    harmless = re.fullmatch(r"\w[\w.,+=@ ()-]*", theirs, re.ASCII)
    fits = harmless and len(theirs) <= LONGEST and file_part(theirs[:1]) == theirs[:1]
    name = theirs if fits and not file_part(theirs).startswith("_") else file_part(theirs)
    return f"{name}_eval_results.json"


def _names(sae: SubjectRecord) -> tuple[str, str]:
    """Return an SAE's release and id; an SAE of no release is SAEBench's custom one of its name."""
    release, id = names_of(sae)
    return (sae.id, CUSTOM) if release in OF_NO_RELEASE else (release, id)


def _measured(run: Run, sae: SubjectRecord) -> dict[str, dict[str, float]]:
    """Return what SAEBench would give of an SAE, by group and name."""
    if not _shares_tokens(run, sae):
        return {}
    values = values_of(run, sae)
    groups = {
        group: {
            theirs: values[ours]
            for theirs, ours in names.items()
            if ours in values and theirs not in OF_ABLATION
        }
        for group, names in METRICS.items()
        if group == OF_FEATURES or not transcodes(sae)
    }
    return groups | _by_their_formulas(run, sae, groups) | {"misc_metrics": _misc(run, sae)}


def _by_their_formulas(
    run: Run, sae: SubjectRecord, groups: dict[str, dict[str, float]]
) -> dict[str, dict[str, float]]:
    """Return the groups of which SAEBench defines a number otherwise than SAELens does.

    Source:
        sae-bench 0.6.0, ``sae_bench.evals.core.main.get_sparsity_and_variance_metrics``: the
        total variance is E‖x‖² − (E‖x‖²/d)², mse is divided by the batch's tokens, and l1 is a
        release's with decoder norms folded into the features.
    """
    values = values_of(run, sae)
    quality, sparsity = dict(groups.get("reconstruction_quality", {})), dict(groups[OF_FEATURES])
    mse, square = quality.pop("mse", None), values.get("means.squared_norm")
    quality.pop("explained_variance", None)
    if mse is not None:
        quality["mse"] = mse / _tokens(run, sae, "fidelity.mse")
        if square is not None and square != (square / sae.d_in) ** 2 and sae.d_in:
            quality["explained_variance"] = 1 - mse / (square - (square / sae.d_in) ** 2)
    folded = names_of(sae)[0] not in OF_NO_RELEASE and sae.architecture in FOLDED
    l1 = values.get("sparsity.l1_unit_decoder" if folded else "sparsity.l1")
    sparsity.pop("l1", None)
    if l1 is not None and sae.architecture in POSITIVE:
        sparsity["l1"] = l1
    return {"reconstruction_quality": quality, OF_FEATURES: sparsity}


def _tokens(run: Run, sae: SubjectRecord, metric: str) -> int:
    return next(m.n.tokens for c in run.cases_of(sae.id) for m in c.metrics if m.name == metric)


def _shares_tokens(run: Run, sae: SubjectRecord) -> bool:
    """True where every token but the special ones counts: SAEBench leaves out no others."""
    data = data_of(run, sae)
    policies = data.policies if data else {}
    return policies.get("scored") != ALL_COUNT and policies.get(FIRST) == SPECIAL


def _why_absent(run: Run, sae: SubjectRecord) -> list[str]:
    data = data_of(run, sae)
    policies = data.policies if data else {}
    notes = [POOLED, MSE]
    if not _shares_tokens(run, sae):
        rule, first = policies.get("scored", "unknown"), policies.get(FIRST, "not recorded")
        notes.append(OTHER_TOKENS.format(rule=rule, first=first))
    else:
        notes.append(ABLATED.format(names=", ".join(OF_ABLATION)))
    if sae.architecture not in POSITIVE:
        notes.append(SIGNED)
    return [*notes, TRANSCODES] if transcodes(sae) else notes


def _misc(run: Run, sae: SubjectRecord) -> dict[str, float]:
    if sae.architecture not in POSITIVE:
        return {}
    values = values_of(run, sae)
    misc = {"frac_alive": 1 - values["sparsity.dead"]} if "sparsity.dead" in values else {}
    series = next((c.series for c in run.cases_of(sae.id) if c.property == "sparsity"), {})
    for limit, name in (("0.01", "1_percent"), ("0.1", "10_percent")):
        shares = series.get("frequent", {}).get(limit)
        if shares:
            misc[f"freq_over_{name}"] = shares["features"]
            misc[f"normalized_freq_over_{name}"] = shares["firing"]
    return misc


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
    cases = run.cases_of(sae.id)
    return {
        "not_measured": absent,
        "notes": _why_absent(run, sae),
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
