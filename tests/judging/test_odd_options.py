"""Values and sizes that a run can have only just, or not at all: right, or an error of ours."""

from pathlib import Path

import numpy as np
import pytest
import torch

import saebench
from saebench.errors import DataError, OptionError
from saebench.records.verdict import Verdict

PROPERTIES = ("fidelity", "kl_gap", "shrinkage", "sparsity")


def _texts(tiny, words: int = 24) -> list[str]:
    from saebench.data.documents import open_documents

    return [" ".join(text.split()[:words]) for text in open_documents(tiny.texts)]


def _judged(tiny, data=None, **options):
    given = {"sequences": 4, "properties": PROPERTIES} | options
    return saebench.judge(tiny.good, tiny.model, data or tiny.texts, **given)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"context": 0}, "--sae-context must be 3 or more, found 0"),
        ({"context": 1}, "--sae-context must be 3 or more, found 1"),
        ({"context": 2}, "--sae-context must be 3 or more, found 2"),
        ({"context": 49}, "--sae-context 49: tiny-llama takes 48 tokens at most"),
        ({"context": "12"}, "--sae-context: expected a whole number, found '12'"),
        ({"context": 12.0}, "--sae-context: expected a whole number, found 12.0"),
        ({"sequences": True}, "--sae-sequences: expected a whole number, found True"),
        ({"sequences": float("nan")}, "--sae-sequences: expected a whole number, found nan"),
        ({"seed": 1.5}, "--sae-seed: expected a whole number, found 1.5"),
        ({"training_context": "12"}, "--sae-training-context: expected a whole number"),
        ({"score_bos": "false"}, "--sae-score-bos: expected True or False, found 'false'"),
        ({"prepend_bos": "false"}, "--sae-prepend-bos: expected True or False, found 'false'"),
        ({"stop_early": 0}, "--sae-stop-early: expected True or False, found 0"),
        ({"cloze": 3}, "--sae-cloze: expected a path or a name, found 3"),
        ({"dtype": torch.int8}, "--sae-dtype: unknown value 'int8'"),
    ],
    ids=str,
)
def test_a_value_that_no_run_can_have_is_refused_by_its_option(tiny, option, said):
    with pytest.raises(OptionError, match=said):
        _judged(tiny, **option)


def test_numbers_of_numpy_and_objects_of_torch_and_pathlib_are_taken(tiny):
    run = _judged(tiny, Path(tiny.texts), sequences=np.int64(4), dtype=torch.float32,
                  device=torch.device("cpu"), thresholds=None)  # fmt: skip
    assert run.cases[0].fingerprint == _judged(tiny).cases[0].fingerprint


def _kl(run):
    return next(m.value for c in run.cases for m in c.metrics if m.name == "fidelity.kl")


def test_the_shortest_context_scores_what_the_longer_one_does_there(tiny):
    """Two tokens count of three, at positions 1 and 2: the curve of a longer run has both."""
    short, long = _judged(tiny, context=3), _judged(tiny, context=12)
    series = next(c.series for c in long.cases if c.id == "kl_gap[scope=all]@good")
    curve = series["kl_by_position"]["sae"]
    assert _kl(short) == pytest.approx((curve[1] + curve[2]) / 2, rel=1e-4)


@pytest.mark.parametrize("words", [11, 10])
def test_a_document_of_just_the_context_is_taken_and_one_token_less_is_not(tiny, words):
    if words == 11:  # and BOS
        assert _kl(_judged(tiny, _texts(tiny, 11))) == pytest.approx(_kl(_judged(tiny)), rel=1e-6)
        return
    with pytest.raises(DataError, match="no document has 12 tokens; 40 were read, the longest"):
        _judged(tiny, _texts(tiny, 10))


def test_one_sequence_has_numbers_and_decides_nothing(tiny):
    run = _judged(tiny, sequences=1)
    assert {case.verdict for case in run.cases} <= {Verdict.INCONCLUSIVE, Verdict.NEW,
                                                    Verdict.SKIPPED}  # fmt: skip
    assert np.isfinite(_kl(run))


def test_the_models_own_context_is_taken_whole_and_there_is_nothing_beyond(tiny):
    stories = [" ".join(_texts(tiny)[i : i + 2]) for i in range(6)]
    run = _judged(tiny, stories, context=48, training_context=48,
                  properties=["fidelity", "context_length"])  # fmt: skip
    assert run.datasets[0].context == 48
    beyond = next(case for case in run.cases if case.params == {"reach": "beyond"})
    assert (beyond.verdict, "nothing beyond" in beyond.reason) == (Verdict.SKIPPED, True)


def test_the_command_line_says_the_same_of_contexts(gate_run, tiny):
    for context, said in (("2", "must be 3 or more, found 2"), ("49", "takes 48 tokens at most")):
        assert said in gate_run.refused("--sae", tiny.good, "--sae-context", context)
