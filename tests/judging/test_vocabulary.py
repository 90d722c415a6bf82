"""Ids that the model has no embedding for are an error of ours, wherever they come from."""

import json
from pathlib import Path

import pytest
from tiny import make_tokenizer
from transformers import AutoModelForCausalLM

import saebench
from saebench.errors import HostError


@pytest.fixture
def model(tiny):
    """A model of fewer embeddings than its tokenizer has words, whose config does not say so."""
    found = AutoModelForCausalLM.from_pretrained(tiny.model)
    found.resize_token_embeddings(40)
    found.config.vocab_size = 43
    return found


def _judged(tiny, model, texts, cloze=None, **options):
    return saebench.judge(tiny.good, model, texts, tokenizer=make_tokenizer(), sequences=1,
                          cloze=cloze, **options)  # fmt: skip


def _story(*last: str) -> str:
    return " ".join(["w1", "w2", "w3"] * 7 + list(last))


def test_in_texts(tiny, model):
    with pytest.raises(HostError, match="gives id 42 in in memory, the model has 40 embeddings"):
        _judged(tiny, model, ["w39 " + _story()], properties=["fidelity"])


def test_beyond_the_first_sequences_in_the_longer_ones(tiny, model):
    """Those are read later: what is wrong with them is no reason to leave the property out."""
    with pytest.raises(HostError, match="gives id 42"):
        _judged(tiny, model, [_story("w39", "w1")], properties=["context_length"], context=12,
                training_context=3)  # fmt: skip


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "w1 w39 w2", "answer": "w3"},
        {"prompt": "w1 w2", "answer": "w39"},
        {"prompt": "w1 w2", "answer": "w3", "options": ["w3", "w39"]},
        {"sentences": ["w1"], "question": "w2 XXXXX w39", "answer": "w3", "options": ["w3", "w4"]},
    ],
)
def test_in_prompts_their_answers_and_what_they_offer(tiny, model, tmp_path: Path, row):
    (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(HostError, match="gives id 42 in the cloze prompts"):
        _judged(tiny, model, [_story()], str(tmp_path / "p.jsonl"), properties=["cloze"])


def test_what_the_config_says_is_no_reason_to_refuse(tiny):
    """Models padded to a round number of embeddings may say the smaller one, or the tokenizer's."""
    model = AutoModelForCausalLM.from_pretrained(tiny.model)
    model.config.vocab_size = 10
    run = _judged(tiny, model, ["w39 " + _story()], properties=["fidelity"])
    assert run.cases[0].metrics
