"""On real models and the demo, clean accuracies are those of plain greedy decoding."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from saebench.data.cloze_tokens import tokenise
from saebench.data.prompts import open_prompts
from saebench.experiments.cloze_prompts import Answers, ClozeEngine
from saebench.options import Overrides
from saebench.subjects.host import Host
from saebench.subjects.host_loading import load_host
from saebench.subjects.loading import wrap_sae

PROMPTS = 10
LAMBADA, STORIES = "lambada_openai_test.jsonl", "tinystories-heldout.jsonl"


class _Nothing(nn.Module):
    """An SAE that gives back what it is given."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def decode(self, features: torch.Tensor) -> torch.Tensor:
        return features


@dataclass(frozen=True)
class _Answered:
    clean: Answers
    cut: int


def _measured(host: Host, file: str, *, prompts: int = PROMPTS) -> _Answered:
    some = [prompt for prompt, _ in zip(open_prompts(file), range(prompts), strict=False)]
    tokens = tokenise(some, host.tokenizer, context=host.context or 10**6, prepend_bos=True,
                      special_ids=host.special_ids)  # fmt: skip
    sae = wrap_sae(_Nothing(), id="sae", overrides=Overrides(hook="blocks.1.hook_resid_pre"))
    found = ClozeEngine(host, tokens).measure([sae], progress=lambda _: None)["sae"]
    assert found.changed.whole.tolist() == found.clean.whole.tolist()
    return _Answered(found.clean, found.cut)


def _passages(file: str) -> Iterator[str]:
    for line in Path(file).read_text(encoding="utf-8").splitlines()[:PROMPTS]:
        yield json.loads(line)["text"]


def _decoded(model: Any, ids: list[int], tokens: int) -> list[int]:
    """Decode greedily with transformers' own generate."""
    given = torch.tensor([ids])
    made = model.generate(
        given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=tokens,
        pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    return made[0, len(ids) :].tolist()


def _greedy(host: Host, text: str) -> tuple[bool, bool]:
    """Return whether greedy decoding gives the last word's first token, and all of them."""
    prompt, word = text.rsplit(" ", 1)
    head, whole = (host.tokenizer(t, add_special_tokens=False)["input_ids"] for t in (prompt, text))
    assert whole[: len(head)] == head
    assert word
    tail = whole[len(head) :]
    room = (host.context or 10**6) - 1 - len(tail)
    made = _decoded(host.model, [host.tokenizer.bos_token_id, *head[-room:]], len(tail))
    return made[0] == tail[0], made == tail


@pytest.mark.parametrize("file", [LAMBADA, STORIES])
@pytest.mark.parametrize("name", ["stories260K", "babyllama-105"])
def test_answers_on_real_texts_are_greedy_decodings(name: str, file: str, real_data):
    source = str(real_data.root / "models" / name)
    host = load_host(source, device="cpu", dtype="float32", asked_by="the test")
    path = str(real_data.root / "text" / file)
    found = _measured(host, path)
    expected = [_greedy(host, text.rstrip()) for text in _passages(path)]
    assert found.clean.first.tolist() == [first for first, _ in expected]
    assert found.clean.whole.tolist() == [whole for _, whole in expected]
    assert found.clean.first.sum() > 0


def test_prompts_longer_than_the_models_context_are_cut_and_counted(real_data):
    source = str(real_data.root / "models" / "babyllama-105")
    host = load_host(source, device="cpu", dtype="float32", asked_by="the test")
    path = str(real_data.root / "text" / LAMBADA)
    longer = sum(len(text) + 1 > 256 for text in _passages(path))  # a token a character, and BOS
    assert 0 < longer == _measured(host, path).cut


@pytest.mark.parametrize("kind", ["lambada", "cbt"])
def test_answers_on_the_demos_prompts_are_greedy_decodings(kind: str, tmp_path: Path):
    from saebench.zoo import corpus as cloze
    from saebench.zoo import shelf as zoo

    host = load_host(str(zoo.model_path()), device="cpu", dtype="float32", asked_by="the test")
    made = cloze.prompts(0, PROMPTS, kind=kind)
    rows = [json.dumps({"text": f"{p.prompt} {p.answer}"}) for p in made]
    (tmp_path / "demo.jsonl").write_text("\n".join(rows))
    found = _measured(host, str(tmp_path / "demo.jsonl"))
    expected = [_greedy(host, f"{p.prompt} {p.answer}") for p in made]
    assert found.clean.whole.tolist() == [whole for _, whole in expected]
    assert found.clean.whole.mean() > 0.5
