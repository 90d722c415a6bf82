"""The matrix of architectures: CI's selection of it, and proofs that the matrix can fail."""

from functools import cache
from typing import Any

import pytest
import torch
from families import make_model

from hosts import cells
from hosts.__main__ import PAGE, main
from hosts.cells import HOOKS, FamilyResult, FullPasses, Outcome, Trial, run_family
from hosts.expectations import Wrong
from hosts.page import families_on, page
from hosts.tiny_models import families
from saebench.errors import HookError
from saebench.subjects.hooks import find_site
from saebench.substitution.passes import Passes
from saebench.substitution.prefix import PrefixPasses

# Every form of block, of what blocks return, of last step and of cache.
SELECTION = (
    "gpt2", "llama", "gpt_neo", "gptj", "gpt_neox", "bloom", "mpt", "falcon", "opt", "olmo2",
    "granite", "cohere", "gemma2", "gemma3", "gemma4_text", "qwen3_next", "jamba", "mamba",
    "mixtral", "openai-gpt", "bert",
)  # fmt: skip
WITH_ANOTHER_HEAD = {"bert"}  # a head of its own between the last block and the unembedding
WHOLE_BLOCKS = ("gpt2", "llama", "gpt_neo", "gemma2", "opt")  # every hook of HOOKS is there


@cache
def _result(family: str) -> FamilyResult:
    with torch.random.fork_rng():
        return run_family(family)


@pytest.mark.parametrize("family", SELECTION)
def test_every_cell_is_proved_or_refused(family):
    result = _result(family)
    assert not result.not_built
    assert [str(c) for c in result.cells if c.outcome.is_fault] == []


@pytest.mark.parametrize("family", sorted(set(SELECTION) - WITH_ANOTHER_HEAD))
def test_the_residual_stream_is_never_refused(family):
    stream = [c for c in _result(family).cells if c.hook in ("hook_resid_pre", "hook_resid_post")]
    assert len(stream) >= 3
    assert {c.outcome for c in stream} == {Outcome.SUPPORTED}


@pytest.mark.parametrize("family", WHOLE_BLOCKS)
def test_no_hook_of_a_plain_block_is_refused(family):
    found = {c.hook: c.outcome for c in _result(family).cells if c.layer == 1}
    assert {hook: found[hook] for hook in HOOKS} == dict.fromkeys(HOOKS, Outcome.SUPPORTED)


@pytest.mark.slow
@pytest.mark.parametrize("family", [f.name for f in families()])
def test_every_architecture_of_transformers_is_proved_or_refused(family):
    result = run_family(family)
    assert result.not_built or result.cells
    assert [str(c) for c in result.cells if c.outcome.is_fault] == []


def test_every_name_of_the_automatic_mapping_is_a_family_or_shares_ones_class():
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    named = [name for f in families() for name in (f.name, *f.also)]
    assert sorted(named) == sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def test_the_page_has_a_row_for_every_family():
    named = {name for f in families() for name in (f.name, *f.also)}
    assert families_on(PAGE.read_text(encoding="utf-8")) == named


def _cell(hook: str, *, family: str = "gpt2", model: Any = None) -> cells.Cell:
    trial = Trial.of(family, make_model(family) if model is None else model)
    return cells.tried(trial, hook, 1)


def test_a_part_taken_before_the_norm_that_follows_it_is_found(monkeypatch):
    def before_its_norm(host: Any, hook: str, **options: Any) -> Any:
        if hook.endswith("hook_mlp_out"):
            return find_site(host, "model.layers.1.mlp", module_path=True)
        return find_site(host, hook, **options)

    monkeypatch.setattr(cells, "find_site", before_its_norm)
    cell = _cell("hook_mlp_out", family="gemma2")
    assert (cell.outcome, cell.text[:9]) == (Outcome.SILENT, "identity:")


def test_a_neighbouring_block_is_found(monkeypatch):
    monkeypatch.setattr(
        cells, "find_site", lambda host, hook, **o: find_site(host, hook.replace("1", "0"), **o)
    )
    cell = _cell("hook_resid_pre")
    assert (cell.outcome, cell.text[:6]) == (Outcome.SILENT, "value:")


def test_a_resumed_pass_that_is_not_the_full_one_is_found(monkeypatch):
    resume = Passes.resume

    def wrong(passes: Passes, *given: Any) -> Any:
        return resume(passes, *given) * (1 if isinstance(passes, FullPasses) else 1.01)

    monkeypatch.setattr(Passes, "resume", wrong)
    assert _cell("hook_resid_pre").outcome is Outcome.SILENT


def test_draws_in_the_wrong_order_are_found(monkeypatch):
    resume = PrefixPasses.resume
    monkeypatch.setattr(PrefixPasses, "resume", lambda *given: resume(*given).flip(0))
    cell = _cell("hook_resid_pre")
    assert (cell.outcome, cell.text[:7]) == (Outcome.SILENT, "single:")


def test_full_passes_run_the_blocks_that_resumed_ones_leave_out():
    trial = Trial.of("gpt2", make_model("gpt2"))
    site = trial.site("hook_resid_pre", 2)
    runs: list[int] = []
    trial.host.blocks[0].mlp.register_forward_hook(lambda *_: runs.append(1))
    for passes, expected in ((Passes(trial.host), 0), (FullPasses(trial.host), 1)):
        clean = passes.clean(trial.ids, [site])
        passes.is_exact(site)
        runs.clear()
        passes.resume(clean, site, clean.activations[site][None])
        assert len(runs) == expected


def test_a_place_that_hardly_moves_the_logits_proves_nothing():
    model = make_model("gpt2")
    with torch.no_grad():
        for parameter in model.transformer.h[1].mlp.c_proj.parameters():
            parameter.mul_(1e-3)
    assert _cell("mlp.hook_post", model=model).outcome is Outcome.QUIET


def _see_later_tokens(model: Any) -> Any:
    for block in model.model.layers:
        block.self_attn.is_causal = False
    return model


def test_a_model_whose_tokens_see_later_ones_is_refused():
    (cell,) = run_family("llama", model=_see_later_tokens(make_model("llama"))).cells
    assert (cell.hook, cell.outcome) == ("model", Outcome.REFUSED)
    assert "causal" in cell.text


def test_a_model_whose_tokens_see_later_ones_is_found_where_it_is_not_refused():
    trial = Trial.of("llama", make_model("llama"))
    _see_later_tokens(trial.plain.model)
    with pytest.raises(Wrong, match="causal: logits move"):
        cells.check_model(trial)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (HookError("hook 'blocks.1.hook_resid_pre' is not in gpt2"), Outcome.REFUSED),
        (HookError("hook 'blocks.1.hook_resid_pre' is not there"), Outcome.UNCLEAR),
        (HookError("gpt2 has no such hook"), Outcome.UNCLEAR),
        (HookError("blocks.1.hook_resid_pre of gpt2: " + "x" * 400), Outcome.UNCLEAR),
        (KeyError("hook_resid_pre"), Outcome.RAW),
        (TimeoutError("too slow"), Outcome.RAW),
    ],
)
def test_a_refusal_says_of_what(monkeypatch, error, outcome):
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(cells, "find_site", refuse)
    assert _cell("hook_resid_pre").outcome is outcome


def test_a_cell_that_never_ends_is_stopped(monkeypatch):
    import time

    monkeypatch.setattr(cells, "TIME_LIMIT_S", 1)
    monkeypatch.setattr(Passes, "clean", lambda *_, **__: time.sleep(30))
    cell = _cell("hook_resid_pre")
    assert (cell.outcome, cell.text[:12]) == (Outcome.RAW, "TimeoutError")


def test_a_page_marks_faults_and_numbers_refusals():
    made = [
        cells.Cell("gpt2", "hook_resid_pre", 1, Outcome.SUPPORTED, path="resumed", single="prefix"),
        cells.Cell("gpt2", "hook_resid_mid", 1, Outcome.REFUSED, "blocks.1.hook_resid_mid: no"),
        cells.Cell("gpt2", "hook_mlp_out", 1, Outcome.SILENT, "identity: far"),
    ]
    results = [FamilyResult("gpt2", tuple(made)), FamilyResult("xlnet", (), "why not")]
    text = page(results, {"transformers": "5", "transformer_lens": "3"})
    row = next(line for line in text.splitlines() if line.startswith("| `gpt2`"))
    assert row.split(" | ")[2:7] == ["r p", "", "1", "", "**silent**"]
    assert "1. HOOK: no" in text
    assert "| `xlnet` | why not |" in text


@pytest.mark.parametrize(
    ("outcome", "code"), [(o, int(o not in (Outcome.SUPPORTED, Outcome.REFUSED))) for o in Outcome]
)
def test_a_fault_is_the_exit_code(monkeypatch, capsys, outcome, code):
    result = FamilyResult("gpt2", (cells.Cell("gpt2", "hook_z", 1, outcome, "why"),))
    monkeypatch.setattr(cells, "run_family", lambda _: result)
    assert main(["gpt2"]) == code
    assert f"1 {outcome.value}" in capsys.readouterr().out
