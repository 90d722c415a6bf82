"""Strata and dictionary health through judge: honest SAEs, and SAEs that averages flatter."""

import pytest
import torch
from torch import nn

import saebench
from saebench.records.verdict import Verdict
from saebench.zoo.shelf import sae_path

PROPERTIES = ["strata", "sparsity"]


def _metrics(run, property):
    (case,) = [case for case in run.cases if case.property == property]
    return case, {metric.name.partition(".")[2]: metric for metric in case.metrics}


@pytest.fixture(scope="module")
def honest():
    return saebench.judge("demo:l2-batchtopk", properties=PROPERTIES, sequences=64)


def test_a_trained_sae_passes_the_strata_and_its_dictionary_is_healthy(honest):
    case, strata = _metrics(honest, "strata")
    assert case.verdict is Verdict.PASS
    assert {m.ci is not None for m in strata.values()} == {True}
    assert all(m.value < 2 for m in strata.values())
    case, sparsity = _metrics(honest, "sparsity")
    assert sparsity["one_sequence_mass"].value < 0.01
    assert sparsity["strongest_direction"].value < 0.2
    assert 0 <= sparsity["duplicate_mass"].value < 0.5


def test_the_worst_stratum_is_named_in_a_sentence(honest):
    case, _ = _metrics(honest, "strata")
    sentences = {group: found["sentence"] for group, found in case.series.items()
                 if group != "sentences"}  # fmt: skip
    assert set(sentences) == {"decile", "type", "position", "token"}
    assert sentences["token"].startswith("KL is ")
    assert "at tokens '" in sentences["token"]
    assert "strata at once" in sentences["decile"]


class _Changed(nn.Module):
    """A demo SAE whose encode or decode is replaced."""

    def __init__(self, encode, decode, decoder=None):
        super().__init__()
        self._encode, self._decode = encode, decode
        self.W_dec = nn.Parameter(decoder) if decoder is not None else None

    def encode(self, x):
        return self._encode(x)

    def decode(self, features):
        return self._decode(features)


def _judged(module, *, sequences=32):
    """Judge a module at layer 2 of the demo model, on the demo's texts."""
    from itertools import islice

    from transformers import AutoModelForCausalLM, AutoTokenizer

    from saebench.experiments.prepare import demo_documents
    from saebench.zoo.shelf import model_path

    model = AutoModelForCausalLM.from_pretrained(model_path())
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    texts = list(islice(demo_documents("heldout").read(), 20 * sequences))
    return saebench.judge(
        module, model, texts, tokenizer=tokenizer, hook="blocks.2.hook_resid_pre",
        properties=["sparsity"], sequences=sequences, context=64,
    )  # fmt: skip


def _base():
    from sae_lens import SAE

    return SAE.load_from_disk(sae_path("l2-topk"))


def test_a_dictionary_with_every_feature_four_times_is_all_duplicates():
    base = _base()
    rows = base.W_dec.detach().repeat(4, 1) / 4
    copies = _Changed(
        lambda x: base.encode(x).to_dense().repeat(1, 4),
        lambda f: f @ rows + base.b_dec.detach(), rows,
    )  # fmt: skip
    _, metrics = _metrics(_judged(copies), "sparsity")
    assert metrics["duplicate_mass"].value > 0.99


def test_an_output_along_one_direction_fails():
    base = _base()
    rows = base.W_dec.detach().clone()

    def encode(x):
        features = 0.01 * base.encode(x).to_dense()
        features[:, 0] = 30.0
        return features

    case, metrics = _metrics(_judged(_Changed(encode, lambda f: f @ rows, rows)), "sparsity")
    assert metrics["strongest_direction"].value > 0.9
    assert case.verdict is Verdict.FAIL


def test_an_sae_that_never_fires_is_an_error_that_says_so():
    silent = _Changed(lambda x: torch.zeros(len(x), 9), lambda f: f.new_zeros(len(f), 128) + 1)
    (case,) = _judged(silent).cases
    assert case.verdict is Verdict.ERROR
    assert "no feature fires" in case.reason


def test_features_of_single_tokens_fail_as_memorised():
    """The encoder looks up the activation's own coarse code: hardly any is seen twice."""
    generator = torch.Generator().manual_seed(0)
    planes = torch.randn(128, 14, generator=generator)

    def encode(x):
        code = ((x @ planes > 0) * 2 ** torch.arange(14)).sum(dim=1)
        return torch.zeros(len(x), 2**14).scatter(1, code[:, None], 5.0)

    rows = torch.randn(2**14, 128, generator=generator)
    case, metrics = _metrics(_judged(_Changed(encode, lambda f: f @ rows, rows)), "sparsity")
    assert metrics["one_sequence_mass"].ci.low > 0.1
    assert case.verdict is Verdict.FAIL


def test_an_sae_that_is_dense_at_most_tokens_fails_and_a_topk_sae_is_dense_at_none():
    run = saebench.judge(
        ["demo:l2-dense", "demo:l2-topk"], properties=["sparsity"], sequences=32, context=64
    )
    dense, sparse = (case for case in run.cases)
    assert (dense.by_name["sparsity.dense_share"].value or 0) > 0.5
    assert dense.verdict is Verdict.FAIL
    assert sparse.by_name["sparsity.dense_share"].value == 0
