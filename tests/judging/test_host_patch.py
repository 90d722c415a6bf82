"""An SAE that brings a patch of its model: applied on request, and then gated by what it costs."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import saebench
from saebench.records.verdict import Verdict
from saebench.subjects.host_loading import load_host, write_patch


@pytest.fixture
def ruined(tiny, tmp_path):
    """An SAE with a patch that zeroes what both of the model's blocks write."""
    path = shutil.copytree(tiny.good, tmp_path / "ruined")
    host = load_host(tiny.model, device="cpu", dtype="float32", asked_by="a test")
    weights = dict(host.model.named_parameters())
    names = [n for n in weights if n.endswith(("o_proj.weight", "down_proj.weight"))]
    write_patch(path, {n: torch.zeros_like(weights[n]) for n in names}, host=host)
    return str(path)


def test_a_patch_is_not_applied_unless_asked_for_and_the_record_says_so(tiny, ruined):
    run, honest = (
        saebench.judge(sae, tiny.model, tiny.texts, sequences=8, properties=["fidelity", "tax"])
        for sae in (ruined, tiny.good)
    )
    assert run.models[0].name == "tiny-llama"
    assert [m.value for m in run.cases[0].metrics] == [m.value for m in honest.cases[0].metrics]
    assert any("host_patch.safetensors, which was not applied" in n for n in run.saes[0].notes)
    assert "--sae-host-patch" in run.cases[1].reason
    assert "was not applied" in str(run)


def test_a_patch_that_ruins_the_model_fails_by_its_tax(tiny, ruined):
    run = saebench.judge(
        ruined, tiny.model, tiny.texts, sequences=24, properties=["tax"], host_patch=True
    )
    assert run.cases[0].verdict is Verdict.FAIL
    assert run.cases[0].by_name["tax.ce_increase"].value > 0.05


def test_a_model_object_is_patched_on_request_too(tiny, ruined):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny.model)
    names = [
        saebench.judge(
            ruined, model, tiny.texts, sequences=4, properties=["tax"], host_patch=patch,
            tokenizer=AutoTokenizer.from_pretrained(tiny.model),
        ).models[0].name
        for patch in (False, True)
    ]  # fmt: skip
    assert ["+patch-" in name for name in names] == [False, True]


def test_prompts_are_judged_by_the_original_model_not_by_the_one_that_the_sae_brings(
    tiny, ruined, tmp_path
):
    """A model that a patch has ruined answers nothing, so that no drop would be seen."""
    prompts = _answered(tiny, tmp_path / "prompts.jsonl")
    options = {"properties": ["cloze"], "sequences": 4, "cloze": prompts}
    plain = saebench.judge(ruined, tiny.model, tiny.texts, **options).cases[0]
    patched = saebench.judge(ruined, tiny.model, tiny.texts, host_patch=True, **options).cases[0]
    clean = "cloze.accuracy_clean[whole]"
    assert plain.by_name[clean].value == patched.by_name[clean].value == 1
    assert patched.by_name["cloze.accuracy[whole]"].value < 0.5
    assert patched.verdict is Verdict.FAIL


def _answered(tiny, path):
    """Write prompts that the model answers, with options of which it takes the right one."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny.model)
    tokenizer = AutoTokenizer.from_pretrained(tiny.model)
    lines = []
    for line in Path(tiny.texts).read_text().splitlines():
        text = json.loads(line)["text"].split()[:8]
        ids = torch.tensor([[1, *tokenizer(" ".join(text))["input_ids"]]])
        with torch.no_grad():
            answer = tokenizer.decode(model(input_ids=ids).logits[0, -1].argmax())
        lines.append(json.dumps({"prompt": " ".join(text), "answer": answer}))
    path.write_text("\n".join(lines))
    return str(path)
