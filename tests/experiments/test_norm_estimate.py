"""The normalisation factor that is estimated on a run's own texts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import saebench
from saebench.errors import SubjectError
from saebench.records.run import Run

SEQUENCES, CONTEXT, TRUE = 8, 12, 0.5
ROUNDING = 5e-6  # six digits are noted


def _unfolded(tiny, to: Path, **metadata: Any) -> str:
    """Save the good SAE as a checkpoint that was trained on activations times TRUE."""
    changes = {f"metadata__{key}": value for key, value in metadata.items()}
    path = tiny.copy_of(tiny.good, to, normalize_activations="expected_average_only_in", **changes)
    weights = path / "sae_weights.safetensors"
    tensors = load_file(weights)
    tensors["W_enc"], tensors["W_dec"] = tensors["W_enc"] / TRUE, tensors["W_dec"] * TRUE
    save_file(tensors, weights)
    return str(path)


def _judged(tiny, sae: str, **given: Any) -> Run:
    return saebench.judge(
        sae, tiny.model, tiny.texts, properties=["fidelity"], sequences=SEQUENCES,
        context=CONTEXT, order="file", **given,
    )  # fmt: skip


def _ids(tiny) -> torch.Tensor:
    """Tokenise the texts as a run does: BOS, then the first tokens of each."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny.model)
    texts = [json.loads(line)["text"] for line in Path(tiny.texts).read_text().splitlines()]
    rows = [[1, *tokenizer(t, add_special_tokens=False).input_ids] for t in texts[:SEQUENCES]]
    return torch.tensor([row[:CONTEXT] for row in rows])


def _factor(tiny, keep) -> float:
    """Return √d over the mean norm of the stream before block 1, from transformers alone."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(tiny.model).eval()
    with torch.no_grad():
        hidden = model(_ids(tiny), output_hidden_states=True).hidden_states[1].double()
    norms = hidden.norm(dim=-1)[keep(_ids(tiny))]
    return hidden.shape[-1] ** 0.5 / float(norms.mean())


def _noted(run: Run) -> float:
    [note] = [n for n in run.saes[0].notes if "estimated as" in n]
    return float(note.split()[2].rstrip(","))


def _positions(ids: torch.Tensor, rows: slice) -> torch.Tensor:
    return torch.zeros_like(ids, dtype=torch.bool).index_fill_(
        1, torch.arange(ids.shape[1])[rows], True
    )


@pytest.mark.parametrize(
    ("metadata", "keep"),
    [
        ({}, lambda ids: ids >= 0),
        ({"exclude_special_tokens": True}, lambda ids: ids > 2),
        ({"exclude_special_tokens": [5, 6]}, lambda ids: (ids != 5) & (ids != 6)),
        ({"seqpos_slice": [3, 9]}, lambda ids: _positions(ids, slice(3, 9))),
    ],
)
def test_the_factor_is_the_one_of_the_tokens_that_training_counts(tiny, metadata, keep, tmp_path):
    run = _judged(tiny, _unfolded(tiny, tmp_path / "sae", **metadata), norm_factor="estimate")
    assert _noted(run) == pytest.approx(_factor(tiny, keep), rel=ROUNDING)


def test_an_estimated_factor_gives_what_the_same_number_gives(tiny, tmp_path):
    path = _unfolded(tiny, tmp_path / "sae")
    estimated = _judged(tiny, path, norm_factor="estimate")
    by_number = _judged(tiny, path, norm_factor=_noted(estimated))
    assert estimated.cases[0].metrics == by_number.cases[0].metrics
    assert estimated.saes[0].weights_sha256 == by_number.saes[0].weights_sha256


def test_the_true_factor_gives_the_sae_that_was_trained(tiny, tmp_path):
    found = _judged(tiny, _unfolded(tiny, tmp_path / "sae"), norm_factor=TRUE).cases[0].metrics
    good = _judged(tiny, tiny.good).cases[0].metrics
    assert [m.value for m in found] == pytest.approx([m.value for m in good], rel=1e-4, abs=1e-9)


def test_an_object_is_estimated_too_and_left_as_it_was(tiny, tmp_path):
    from sae_lens import SAE

    sae: Any = SAE.load_from_disk(_unfolded(tiny, tmp_path / "sae"))
    before = sae.W_enc.detach().clone()
    assert _noted(_judged(tiny, sae, norm_factor="estimate")) == pytest.approx(
        _factor(tiny, lambda ids: ids >= 0), rel=ROUNDING
    )
    torch.testing.assert_close(sae.W_enc.detach(), before)


def test_a_worker_finds_the_same_factor(tiny, tmp_path):
    path = _unfolded(tiny, tmp_path / "sae")
    alone = _judged(tiny, path, norm_factor="estimate")
    shared = _judged(tiny, path, norm_factor="estimate", workers=1)
    assert _noted(alone) == _noted(shared)
    one, other = (
        {m.name: (m.value, m.ci.low, m.ci.high) for m in run.cases[0].metrics if m.ci}
        for run in (alone, shared)
    )
    assert one.keys() == other.keys()
    for name, numbers in one.items():
        assert numbers == pytest.approx(other[name], rel=1e-12), name


def test_texts_without_a_token_that_was_trained_on_are_refused(tiny, tmp_path):
    path = _unfolded(tiny, tmp_path / "sae", seqpos_slice=[40, 50])
    with pytest.raises(SubjectError, match="none of the texts' tokens is one that it was trained"):
        _judged(tiny, path, norm_factor="estimate")


@pytest.mark.parametrize("how", ["option", "environment", "toml"])
def test_the_factor_is_given_as_every_option_is(gate_run, tiny, how, tmp_path, monkeypatch):
    args = ["--sae", _unfolded(tiny, tmp_path / "sae"), "-k", "fidelity"]
    assert "--sae-norm-factor" in gate_run.refused(*args)
    if how == "option":
        args += ["--sae-norm-factor", str(TRUE)]
    elif how == "environment":
        monkeypatch.setenv("SAEBENCH_NORM_FACTOR", str(TRUE))
    else:
        gate_run.pytester.makepyprojecttoml(f"[tool.saebench]\nnorm-factor = {TRUE}\n")
    gate_run.judge(*args)
    notes = gate_run.result()["saes"][0]["notes"]
    assert "normalisation factor 0.5 folded into the weights" in notes
