"""A run as a Hugging Face model card: a ``model-index`` with verdicts, and the same for people."""

from collections.abc import Iterator
from typing import Any

from saebench.records.run import (
    CaseResult,
    DatasetRecord,
    GateResult,
    Metric,
    Run,
    SubjectRecord,
    overall,
)
from saebench.report.markdown import to_markdown
from saebench.report.terminal import HEADLINES

TASK = "sae-faithfulness"
TASK_NAME = "Faithfulness of a sparse autoencoder's output"
TAGS = ["sparse-autoencoder", "saebench"]
UNKNOWN = "unknown"


def to_model_card(run: Run) -> str:
    """Return a model card: metadata between rules, then the verdicts in Markdown.

    Source:
        https://github.com/huggingface/hub-docs/blob/main/modelcard.md, ``model-index``.
    """
    from huggingface_hub.utils import yaml_dump

    metadata = yaml_dump({"tags": TAGS, "model-index": model_index(run)}, sort_keys=False)
    return f"---\n{metadata}---\n\n{to_markdown(run)}"


def model_index(run: Run) -> list[dict[str, Any]]:
    """Return the ``model-index``: one model for each SAE, one result for each metric that counts.

    Those are the gated metrics and the headlines, each with its interval and, where a gate reads
    it, the verdict; and one more for the verdict on the whole SAE.
    """
    from huggingface_hub.repocard_data import eval_results_to_model_index

    return [
        entry
        for sae in run.saes
        if any(case.sae == sae.id for case in run.cases)
        for entry in eval_results_to_model_index(sae.id, list(_results(run, sae)))
    ]


def _results(run: Run, sae: SubjectRecord) -> Iterator[Any]:
    cases = [case for case in run.cases if case.sae == sae.id]
    about = {"sae": sae.id, "weights_sha256": sae.weights_sha256}
    verdict = overall(case.verdict for case in cases)
    yield _result(_data(run, cases[0]), "saebench.verdict", verdict.value, "Verdict", about)
    for case in cases:
        gates = {gate.metric: gate for gate in case.deciding}
        for metric in case.metrics:
            if metric.value is not None and (metric.name in gates or metric.name in HEADLINES):
                told = about | _told(metric, gates.get(metric.name))
                name = f"{metric.name} ({metric.unit})" if metric.unit else metric.name
                yield _result(_data(run, case), metric.name, metric.value, name, told)


def _told(metric: Metric, gate: GateResult | None) -> dict[str, Any]:
    told: dict[str, Any] = {"version": metric.version, "sequences": metric.n.sequences}
    if metric.ci is not None:
        told |= {"ci_low": metric.ci.low, "ci_high": metric.ci.high, "ci_level": metric.ci.level}
    if gate is not None:
        told |= {"rule": gate.rule, "verdict": gate.verdict.value}
    return told


def _result(
    data: DatasetRecord | None, metric: str, value: Any, name: str, told: dict[str, Any]
) -> Any:
    from huggingface_hub import EvalResult

    return EvalResult(
        task_type=TASK,
        task_name=TASK_NAME,
        dataset_type=data.name if data else UNKNOWN,
        dataset_name=data.name if data else UNKNOWN,
        dataset_split=data.split if data else None,
        dataset_config=_config(data) if data else None,
        dataset_revision=data.revision if data else None,
        dataset_args=_data_args(data) if data else None,
        metric_type=metric,
        metric_name=name,
        metric_value=value,
        metric_args=told,
    )


def _config(data: DatasetRecord) -> str:
    """Tell several sets of sequences of one data set apart: results are grouped by it."""
    return f"{data.sequences} sequences of {data.context} tokens, {data.fingerprint[:8]}"


def _data_args(data: DatasetRecord) -> dict[str, Any]:
    return {
        "fingerprint": data.fingerprint,
        "sequences": data.sequences,
        "context": data.context,
        "packing": data.packing,
    }


def _data(run: Run, case: CaseResult) -> DatasetRecord | None:
    print_ = case.basis.dataset if case.basis else None
    return next((data for data in run.datasets if data.fingerprint == print_), None)
