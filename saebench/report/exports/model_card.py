"""A run as a Hugging Face model card: a ``model-index`` with verdicts, and a Markdown summary."""

from collections.abc import Iterator
from typing import Any

from saebench.errors import OptionError
from saebench.records.case_result import CaseResult, GateResult
from saebench.records.inputs import DatasetRecord, SubjectRecord
from saebench.records.metric import Metric
from saebench.records.run import Run
from saebench.records.verdict import Verdict
from saebench.report.markdown import to_markdown
from saebench.report.tables import why_of
from saebench.report.tables.run_tables import HEADLINES
from saebench.report.terminal import unjudged_line

TASK = "sae-faithfulness"
TASK_NAME = "Faithfulness of a sparse autoencoder's output"
TAGS = ["sparse-autoencoder", "saebench"]
UNKNOWN = "unknown"


def to_model_card(run: Run) -> str:
    """Return a model card: metadata between rules, then the verdicts in Markdown.

    Raises:
        OptionError: for a run in which deciding cases were left out.

    Source:
        https://github.com/huggingface/hub-docs/blob/main/modelcard.md, ``model-index``.
    """
    from huggingface_hub.utils import yaml_dump

    if left_out := unjudged_line(run):
        raise OptionError(
            f"a model card states a verdict on the SAE, and this run is {Verdict.INCOMPLETE}: "
            f"{left_out}; judge every property and export that result"
        )
    metadata = yaml_dump({"tags": TAGS, "model-index": model_index(run)}, sort_keys=False)
    return f"---\n{metadata}---\n\n{to_markdown(run)}"


def model_index(run: Run) -> list[dict[str, Any]]:
    """Return the ``model-index``: one model for each SAE, its results.

    The results are the SAE's verdict, then the gated metrics and the headlines, each with its
    interval and, where a gate reads it, the gate's verdict and why its limit exists.
    """
    from huggingface_hub.repocard_data import eval_results_to_model_index

    return [
        entry
        for sae in run.judged
        for entry in eval_results_to_model_index(sae.id, list(_results(run, sae)))
    ]


def _results(run: Run, sae: SubjectRecord) -> Iterator[Any]:
    cases = run.cases_of(sae.id)
    about = {"sae": sae.id, "weights_sha256": sae.weights_sha256}
    verdict = run.verdict_of(sae.id)
    yield _result(_data(run, cases[0]), "saebench.verdict", verdict.value, "Verdict", about)
    for case in cases:
        gates = {gate.metric: gate for gate in case.deciding}
        for metric in case.metrics:
            if metric.value is not None and (metric.name in gates or metric.name in HEADLINES):
                arguments = about | _arguments(metric, gates.get(metric.name))
                name = f"{metric.name} ({metric.unit})" if metric.unit else metric.name
                yield _result(_data(run, case), metric.name, metric.value, name, arguments)


def _arguments(metric: Metric, gate: GateResult | None) -> dict[str, Any]:
    """Return what a result says of itself: version, sample size, interval, gate."""
    said: dict[str, Any] = {"version": metric.version, "sequences": metric.n.sequences}
    if metric.ci is not None:
        said |= {"ci_low": metric.ci.low, "ci_high": metric.ci.high, "ci_level": metric.ci.level}
    if gate is not None:
        said |= {"rule": gate.rule, "verdict": gate.verdict.value}
        said |= {"why": why} if (why := why_of(gate)) else {}
    return said


def _result(
    data: DatasetRecord | None, metric: str, value: Any, name: str, arguments: dict[str, Any]
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
        metric_args=arguments,
    )


def _config(data: DatasetRecord) -> str:
    """Return a name for these sequences: results are grouped by it, so it must be unique."""
    return f"{data.sequences} sequences of {data.context} tokens, {data.fingerprint[:8]}"


def _data_args(data: DatasetRecord) -> dict[str, Any]:
    return {
        "fingerprint": data.fingerprint,
        "sequences": data.sequences,
        "context": data.context,
        "packing": data.packing,
    }


def _data(run: Run, case: CaseResult) -> DatasetRecord | None:
    fingerprint = case.basis.dataset if case.basis else None
    return next((data for data in run.datasets if data.fingerprint == fingerprint), None)
