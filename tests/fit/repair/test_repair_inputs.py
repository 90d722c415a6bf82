"""What a repair works with: rows to fit on, validation rows, texts to judge on."""

from pathlib import Path

import pytest
import torch

from saebench.errors import DataError, HostError
from saebench.fit.repair import Method, RepairJob
from saebench.fit.repair.repair_inputs import prepare, sae_to_repair


def _prepared(tiny, fitted, judged=None, **more):
    job = RepairJob(
        tiny.bad, Path("out"), Method.SCALE, model=tiny.model, dataset=str(fitted),
        judged=judged and str(judged), sequences=8, batch_tokens=16, **more,
    )  # fmt: skip
    return prepare(job, sae_to_repair(tiny.bad))


def _nearest(some, others):
    """Return each activation's distance from the nearest of the others."""
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(some, others, compute_mode=exact).min(dim=1).values


@pytest.fixture
def texts(tiny, tmp_path):
    """Write some of the tiny world's documents to a file."""
    lines = Path(tiny.texts).read_text().splitlines(keepends=True)

    def write(name, *numbers):
        (tmp_path / name).write_text("".join(lines[i] for i in numbers))
        return tmp_path / name

    return write


def test_validation_activations_are_not_fitted_on(tiny, texts):
    ready = _prepared(
        tiny, texts("train.jsonl", *range(30)), texts("test.jsonl", 38, 39), tokens=400
    )
    fitted = torch.cat(list(ready.stream.once(10**6)))
    assert len(fitted) == ready.supply.tokens
    assert len(ready.validation) >= 30
    new = _nearest(ready.validation, fitted) > 1e-3
    assert new.float().mean() > 0.9  # a text may repeat itself


def test_batches_are_of_the_rows_that_were_counted_alone(tiny, texts):
    """A pool is larger than short fits: it must not reach into texts that were not looked at."""
    ready = _prepared(
        tiny, texts("train.jsonl", *range(30)), texts("test.jsonl", 38, 39), tokens=400
    )
    fitted = torch.cat(list(ready.stream.once(10**6)))
    seen = []
    for batch, place in ready.stream.batches():
        seen.append(batch)
        if place.pool:
            break
    assert _nearest(torch.cat(seen), fitted).max() < 1e-3


def test_a_judged_text_behind_the_tokens_that_were_asked_for_is_found(tiny, texts):
    with pytest.raises(DataError, match="train.jsonl and test.jsonl overlap"):
        _prepared(
            tiny, texts("train.jsonl", *range(20), 38), texts("test.jsonl", 38, 39), tokens=100
        )


def test_without_judged_texts_every_tenth_document_is_kept_apart(tiny, texts):
    ready = _prepared(tiny, texts("train.jsonl", *range(30)), tokens=200)
    assert "every 10th document" in ready.bench.texts.documents.name
    assert len(ready.bench.tokens.ids) == 3


def test_a_text_to_fit_on_with_ids_beyond_the_embeddings_is_refused(tiny, texts, tmp_path):
    from tiny import make_tokenizer
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny.model)
    model.resize_token_embeddings(40)
    for part in (model, make_tokenizer()):
        part.save_pretrained(tmp_path / "small")
    (tmp_path / "judged.txt").write_text("\n".join(f"w{i} " + "w1 w2 w3 " * 8 for i in range(9)))
    (tmp_path / "fitted.txt").write_text("w4 w39 " * 200 + "\n")
    job = RepairJob(
        tiny.bad, Path("out"), Method.SCALE, model=str(tmp_path / "small"), tokens=40, sequences=8,
        dataset=str(tmp_path / "fitted.txt"), judged=str(tmp_path / "judged.txt"), batch_tokens=16,
    )  # fmt: skip
    with pytest.raises(HostError, match="gives id 42 in fitted.txt, the model has 40 embeddings"):
        prepare(job, sae_to_repair(tiny.bad))
