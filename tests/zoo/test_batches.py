from itertools import islice

import pytest
import torch

from saebench.zoo import corpus
from tools.zoo import batches
from tools.zoo.tokenizer import BOS_ID


def pooled(tokenizer, *, n_documents):
    return batches.training_batches(
        tokenizer,
        corpus.documents(0),
        context=256,
        batch_tokens=2048,
        pool_documents=n_documents,
        generator=torch.Generator().manual_seed(0),
    )


def test_every_sequence_is_bos_and_the_beginning_of_its_story(tokenizer):
    (ids,) = batches.story_ids(tokenizer, 0, start=3, n=1, context=32)
    assert ids[0] == BOS_ID
    assert len(ids) <= 32
    assert corpus.document(0, 3).startswith(tokenizer.decode(ids[1:]))


def test_padding_is_on_the_right_and_ignored_in_the_labels():
    ids, labels = batches.pad([[0, 5, 6], [0, 7]])
    assert ids.tolist() == [[0, 5, 6], [0, 7, BOS_ID]]
    assert labels.tolist() == [[0, 5, 6], [0, 7, batches.IGNORED]]


def test_no_batch_has_more_than_its_tokens(tokenizer):
    for ids, _ in islice(pooled(tokenizer, n_documents=40), 8):
        assert ids.numel() <= 2048


def test_each_story_of_a_pool_comes_once(tokenizer):
    expected = sorted(batches.story_ids(tokenizer, 0, start=0, n=40, context=256))
    found: list[list[int]] = []
    for ids, labels in pooled(tokenizer, n_documents=40):
        pairs = zip(ids, labels, strict=True)
        found += [row[row_labels != batches.IGNORED].tolist() for row, row_labels in pairs]
        if len(found) >= 40:
            break
    assert sorted(found) == expected


@pytest.mark.parametrize("text", ["", "Tom felt happy."])
def test_with_bos_puts_bos_before_every_text(tokenizer, text):
    (ids,) = batches.with_bos(tokenizer, [text])
    assert ids[0] == BOS_ID
    assert tokenizer.decode(ids[1:]) == text
