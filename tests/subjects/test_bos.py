"""The first token of sequences, for SAEs that were trained with BOS first."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import make_tokenizer

import saebench
from saebench.errors import OptionError
from saebench.formats.metadata import parse_metadata
from saebench.options import Overrides
from saebench.subjects.bos import first_token

EOS = 2
TOLD = {"hook_name": "blocks.1.hook_resid_pre", "model_name": "m", "context_size": 12}
METADATA = parse_metadata(TOLD | {"prepend_bos": True}, Overrides(), where="here")


def _host(**tokens):
    tokenizer = make_tokenizer()
    for name, token in tokens.items():
        setattr(tokenizer, name, token)
    return SimpleNamespace(tokenizer=tokenizer, name="tiny", embeddings=43)


def test_the_tokenizers_bos_is_first_and_nothing_is_said():
    assert first_token(_host(), METADATA, None) == first_token(_host(), METADATA, None)
    assert first_token(_host(), METADATA, None).id == 1
    assert first_token(_host(), METADATA, None).note is None


def test_without_bos_it_is_eos_as_transformer_lens_itself_puts_there():
    from transformer_lens.model_bridge.sources.transformers import setup_tokenizer

    host = _host(bos_token=None)
    theirs = setup_tokenizer(_host(bos_token=None).tokenizer)
    found = first_token(host, METADATA, None)
    assert found.id == theirs.bos_token_id == EOS
    assert "begin with EOS (</s>), as TransformerLens' do; --sae-bos-token" in found.note


def test_saelens_on_a_plain_model_puts_nothing_there():
    found = first_token(_host(bos_token=None), replace(METADATA, module_path=True), None)
    assert found.id is None
    assert "sequences begin without" in found.note


def test_with_neither_nothing_is_first_and_the_note_says_so():
    found = first_token(_host(bos_token=None, eos_token=None), METADATA, None)
    assert found.id is None
    assert "nor EOS" in found.note


@pytest.mark.parametrize(("chosen", "id"), [("w3", 6), ("6", 6), ("0", 0), ("</s>", 2)])
def test_a_token_or_its_id_may_be_chosen(chosen: str, id: int):
    found = first_token(_host(), METADATA, chosen)
    assert found.id == id
    assert f"begin with token {id}" in found.note


@pytest.mark.parametrize(
    ("chosen", "said"),
    [("</t>", "did you mean '</s>'"), ("43", "below 43, .*found 43"), ("-1", "no token of tiny")],
)
def test_a_token_that_does_not_exist_is_refused(chosen: str, said: str):
    with pytest.raises(OptionError, match=f"--sae-bos-token '{chosen}': .*{said}"):
        first_token(_host(), METADATA, chosen)


def test_an_sae_trained_without_is_left_so_and_the_option_is_said_to_do_nothing():
    found = first_token(_host(), replace(METADATA, prepend_bos=False), "w3")
    assert found.id is None
    assert "--sae-bos-token puts nothing first" in found.note


@pytest.fixture
def without_bos(tiny, tmp_path):
    """The tiny model, whose tokenizer has no BOS."""
    import shutil

    shutil.copytree(tiny.model, tmp_path / "model")
    tokenizer = make_tokenizer()
    tokenizer.bos_token = None
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def _judged(tiny, model: str, **options):
    return saebench.judge(tiny.good, model, tiny.texts, sequences=6, properties=["fidelity"],
                          **options)  # fmt: skip


def _kl(run):
    return next(m.value for m in run.cases[0].metrics if m.name == "fidelity.kl")


def test_a_run_begins_with_eos_or_with_what_is_chosen_and_notes_it(tiny, without_bos):
    by_default, eos, bos = (_judged(tiny, without_bos, bos_token=t) for t in (None, 2, "<s>"))
    assert "as TransformerLens' do" in str(by_default)
    assert by_default.datasets[0].fingerprint == eos.datasets[0].fingerprint
    assert _kl(by_default) == _kl(eos)
    assert _kl(bos) == pytest.approx(_kl(_judged(tiny, tiny.model)), rel=1e-6)
    assert _kl(bos) != _kl(eos)


def test_the_option_has_its_twin_and_its_key_and_is_in_the_command_that_measures_again(
    gate_run, tiny, monkeypatch
):
    gate_run.judge("--sae", tiny.bad, "-k", "fidelity", "--sae-bos-token", "w3")
    by_option = gate_run.result()
    monkeypatch.setenv("SAEBENCH_BOS_TOKEN", "6")
    done = gate_run.judge("--sae", tiny.bad, "-k", "fidelity", "--sae-fail-on", "fidelity.kl<=0")
    by_twin = gate_run.result()
    monkeypatch.delenv("SAEBENCH_BOS_TOKEN")
    gate_run.pytester.makepyprojecttoml("[tool.saebench]\nbos-token = 'w3'\n")
    gate_run.judge("--sae", tiny.bad, "-k", "fidelity")
    prints = {r["datasets"][0]["fingerprint"] for r in (by_option, by_twin, gate_run.result())}
    assert len(prints) == 1
    assert "SAEBENCH_BOS_TOKEN=6 pytest" in done.stdout.str()


def test_a_wrong_token_ends_the_run_before_anything_is_measured(gate_run, tiny):
    assert "--sae-bos-token 'nope'" in gate_run.refused("--sae", tiny.good, "--sae-bos-token=nope")


def test_prompts_begin_with_it_too(tiny, tmp_path: Path):
    from saebench.data.prompts import open_prompts
    from saebench.experiments.texts import Readings, Texts
    from saebench.options import Settings
    from saebench.subjects.host_loading import load_host

    (tmp_path / "p.jsonl").write_text('{"prompt": "w1 w2", "answer": "w3"}\n')
    host = load_host(tiny.model, device="cpu", dtype="float32", asked_by="test")
    texts = Texts(None, open_prompts(str(tmp_path / "p.jsonl")))  # pyright: ignore
    found = Readings(host, texts, Settings(), bos=9, tokens=None).prompts()  # pyright: ignore
    assert found.ids.tolist() == [[9, 4, 5, 6]]
    assert found.counted.tolist() == [[False, True, True, False]]
