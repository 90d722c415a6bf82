"""A run in the layout of SAELens' evaluations, for tools that read those.

A number has SAELens' name only where SAELens itself would give it on the same tokens. Others are
left out, as SAELens leaves out what was not asked for, and ``notes`` of ``eval_cfg`` lists them
with the reasons.
"""

from typing import Any

from saebench.records.inputs import ALL_COUNT, FIRST, SPECIAL, DatasetRecord, SubjectRecord
from saebench.records.run import Run
from saebench.report.style import reading_series

POOLED = "sums are divided once over all tokens, as SAELens does in one batch of all sequences"
ABLATED = (
    "SAELens ablates special tokens too, saebench the tokens alone that it substitutes: "
    "{names} left out"
)
OTHER_TOKENS = (
    "SAELens leaves out special tokens alone, saebench position 0 too, which is {first} here: "
    "numbers on other tokens left out"
)
TRANSCODES = (
    "SAELens compares a transcoder's output with its input and substitutes it there: all but its "
    "features' numbers left out"
)
OF_ABLATION = (
    "kl_div_score", "kl_div_with_ablation", "ce_loss_score", "ce_loss_with_ablation",
)  # fmt: skip
OF_FEATURES = "sparsity"
LOCAL = "local"  # what an SAE of no release is called
METRICS = {
    "model_behavior_preservation": {
        "kl_div_score": "fidelity.kl_score",
        "kl_div_with_ablation": "means.kl_zero",
        "kl_div_with_sae": "fidelity.kl",
    },
    "model_performance_preservation": {
        "ce_loss_score": "fidelity.ce_score",
        "ce_loss_with_ablation": "means.ce_zero",
        "ce_loss_with_sae": "means.ce_sae",
        "ce_loss_without_sae": "means.ce_clean",
    },
    "reconstruction_quality": {
        "explained_variance": "fidelity.explained_variance",
        "mse": "fidelity.mse",
        "cossim": "fidelity.cosine",
    },
    "shrinkage": {
        "l2_norm_in": "means.norm",
        "l2_ratio": "shrinkage.l2_ratio",
        "relative_reconstruction_bias": "shrinkage.reconstruction_bias",
    },
    "sparsity": {"l0": "sparsity.l0", "l1": "sparsity.l1"},
}
"""SAELens' groups and names, each with the equal metric or mean of ours."""


def to_sae_lens(run: Run) -> list[dict[str, Any]]:
    """Return one result for each SAE, as in SAELens' ``all_eval_results.json``.

    Source:
        SAELens 6.54, ``sae_lens.evals.multiple_evals`` and ``run_evals``.
    """
    with reading_series("SAELens' results"):
        return [_result(run, sae) for sae in run.judged]


def grouped_metrics(run: Run, sae: SubjectRecord) -> dict[str, dict[str, float]]:
    """Return what SAELens would give of an SAE under its names; empty groups are left out."""
    values, data = values_of(run, sae), data_of(run, sae)
    groups = {
        group: {theirs: values[ours] for theirs, ours in names.items() if ours in values}
        for group, names in METRICS.items()
        if shares_tokens(data) and (group == OF_FEATURES or not transcodes(sae))
    }
    if data is not None and data.policies.get("substituted") != ALL_COUNT:
        groups = {
            group: {name: v for name, v in named.items() if name not in OF_ABLATION}
            for group, named in groups.items()
        }
    return {group: named for group, named in groups.items() if named}


def left_out(run: Run, sae: SubjectRecord) -> list[str]:
    """Return why numbers of an SAE are left out, in words."""
    data, notes = data_of(run, sae), [POOLED]
    if not shares_tokens(data):
        first = "not known" if data is None else data.policies.get(FIRST, "not recorded")
        return [*notes, OTHER_TOKENS.format(first=first)]
    if transcodes(sae):
        return [*notes, TRANSCODES]
    if data is not None and data.policies.get("substituted") != ALL_COUNT:
        notes.append(ABLATED.format(names=", ".join(OF_ABLATION)))
    return notes


def shares_tokens(data: DatasetRecord | None) -> bool:
    """True where the scored tokens are SAELens': all, or all but special ones."""
    if data is None:
        return False
    return data.policies.get("scored") == ALL_COUNT or data.policies.get(FIRST) == SPECIAL


def transcodes(sae: SubjectRecord) -> bool:
    """True for a transcoder, whose output belongs to another place than its input."""
    noted = any(note.startswith("a transcoder: ") for note in sae.notes)
    return noted or sae.architecture.endswith("transcoder")


def values_of(run: Run, sae: SubjectRecord) -> dict[str, float]:
    """Return every defined metric of an SAE, and fidelity's means as ``means.NAME``."""
    values: dict[str, float] = {}
    for case in run.cases_of(sae.id):
        means = case.series.get("means", {}) if case.property == "fidelity" else {}
        values |= {f"means.{name}": value for name, value in means.items()}
        values |= {m.name: m.value for m in case.metrics if m.value is not None}
    return values


def token_stats(run: Run, sae: SubjectRecord) -> dict[str, int]:
    """Return how many tokens the groups' numbers took, unscored ones included."""
    data = data_of(run, sae)
    context = data.context if data else 0
    of = {m.name: m.n.sequences * context for case in run.cases_of(sae.id) for m in case.metrics}
    return {
        "total_tokens_eval_reconstruction": of.get("fidelity.kl", 0),
        "total_tokens_eval_sparsity_variance": of.get("sparsity.l0", of.get("fidelity.mse", 0)),
    }


def names_of(sae: SubjectRecord) -> tuple[str, str]:
    """Return an SAE's release and id there; a directory belongs to no release.

    Example:
        >>> sae = SubjectRecord("mine", "saes/mine", "", "", "topk", "", "", 4, 8, None)
        >>> names_of(sae)
        ('local', 'mine')
    """
    release, separator, id = sae.source.partition(":")
    return (release, id) if separator and id else (LOCAL, sae.id)


def data_of(run: Run, sae: SubjectRecord) -> DatasetRecord | None:
    """Return the sequences that fidelity, or else another case, was measured on."""
    cases = sorted(run.cases_of(sae.id), key=lambda case: case.property != "fidelity")
    prints = [case.basis.dataset for case in cases if case.basis]
    known = {data.fingerprint: data for data in run.datasets}
    return next((known[each] for each in prints if each in known), None)


def config_of(run: Run, sae: SubjectRecord) -> dict[str, Any]:
    """Return the SAE's configuration, as far as the result file has it, under SAELens' names."""
    return {
        "architecture": sae.architecture,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "metadata": {
            "hook_name": sae.hook,
            "model_name": model_name(run, sae),
            "context_size": sae.training_context,
        },
    }


def model_name(run: Run, sae: SubjectRecord) -> str:
    """Return the name of the model that an SAE was put into."""
    used = {case.basis.model for case in run.cases_of(sae.id) if case.basis}
    names = [model.name for model in run.models if not used or model.weights_sha256 in used]
    return names[0] if names else "unknown"


def _result(run: Run, sae: SubjectRecord) -> dict[str, Any]:
    release, id = names_of(sae)
    return {
        "unique_id": f"{release}-{id}",
        "sae_set": release,
        "sae_id": id,
        "eval_cfg": _eval_config(run, sae),
        "metrics": grouped_metrics(run, sae) | {"token_stats": token_stats(run, sae)},
        "feature_metrics": {},
        "sae_cfg": config_of(run, sae),
    }


def _eval_config(run: Run, sae: SubjectRecord) -> dict[str, Any]:
    data = data_of(run, sae)
    return {
        "context_size": data.context if data else None,
        "dataset": data.name if data else None,
        "library_version": f"saebench {run.harness.get('version', 'unknown')}",
        "git_hash": run.harness.get("git", "unknown"),
        "batch_size_prompts": data.sequences if data else None,
        "n_eval_reconstruction_batches": 1,
        "n_eval_sparsity_variance_batches": 1,
        "notes": left_out(run, sae),
    }
