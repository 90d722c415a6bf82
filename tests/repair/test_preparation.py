"""What a repair works with: rows to fit on, rows that tell convergence, texts to judge on."""

from pathlib import Path

import pytest
import torch

from saebench.errors import DataError
from saebench.repair.job import RepairJob
from saebench.repair.methods import Method
from saebench.repair.preparation import one_sae, prepare


def _prepared(tiny, fitted, judged=None, **more):
    job = RepairJob(
        tiny.bad, Path("out"), Method.SCALE, model=tiny.model, dataset=str(fitted),
        judged=judged and str(judged), sequences=8, batch_tokens=16, **more,
    )  # fmt: skip
    return prepare(job, one_sae(tiny.bad))


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


def test_what_convergence_is_told_by_is_not_fitted_on(tiny, texts):
    ready = _prepared(
        tiny, texts("train.jsonl", *range(30)), texts("test.jsonl", 38, 39), tokens=400
    )
    fitted = torch.cat(list(ready.stream.once(10**6)))
    assert len(fitted) == ready.supply.tokens
    assert len(ready.held) >= 30
    assert (_nearest(ready.held, fitted) > 1e-3).float().mean() > 0.9  # a text may repeat itself


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
