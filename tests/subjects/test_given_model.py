"""Model objects: judged unchanged, or refused with what to give instead."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import make_tokenizer
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM

import saebench
from saebench.errors import HostError, OptionError
from saebench.subjects.given_model import check_asked, check_given


@pytest.fixture
def model(tiny):
    return AutoModelForCausalLM.from_pretrained(tiny.model)


@pytest.fixture(scope="module")
def texts(tiny):
    return [json.loads(line)["text"] for line in Path(tiny.texts).read_text().splitlines()]


def _numbers(tiny, model, texts, **options):
    # The first six: of others the model gains nothing from context, and a ratio is undefined.
    run = saebench.judge(tiny.good, model, texts, sequences=6, order="file",
                         properties=["fidelity"], **options)  # fmt: skip
    return {m.name: m.value for m in run.cases[0].metrics}


@pytest.fixture(scope="module")
def expected(tiny, texts):
    return _numbers(tiny, tiny.model, texts)


REGISTER = ("register_forward_hook", "register_forward_pre_hook")


@pytest.mark.parametrize("register", REGISTER)
@pytest.mark.parametrize("place", ["", "model", "model.layers.0", "model.layers.1.mlp", "lm_head"])
def test_a_users_hook_is_refused_naming_its_module(tiny, model, texts, register, place):
    handle = getattr(model.get_submodule(place), register)(lambda *_: None)
    named = place or "the model itself"
    with pytest.raises(HostError, match=rf"on {named} .*remove them: handle\.remove"):
        _numbers(tiny, model, texts)
    handle.remove()
    check_given(model)


@pytest.mark.parametrize("register", ["register_module_forward_hook",
                                      "register_module_forward_pre_hook"])  # fmt: skip
def test_hooks_on_every_module_are_refused(model, register):
    handle = getattr(nn.modules.module, register)(lambda *_: None)
    try:
        with pytest.raises(HostError, match=f"{register}.*remove them"):
            check_given(model)
    finally:
        handle.remove()


def test_transformers_own_hooks_that_only_keep_are_left_alone(tiny, model, texts, expected):
    model(torch.ones(1, 4, dtype=torch.long), output_hidden_states=True)
    assert any(module._forward_hooks for module in model.modules())
    assert _numbers(tiny, model, texts) == pytest.approx(expected, rel=1e-6)


def test_a_users_own_forward_is_run_once_and_stays(tiny, model, texts, expected):
    """A method that was replaced is no hook: what is put into the block goes past it, or not."""
    before = model.model.layers[0].mlp.forward
    model.model.layers[0].mlp.forward = lambda x: 2 * before(x)
    doubled = model.model.layers[0].mlp.forward
    found = _numbers(tiny, model, texts)
    assert model.model.layers[0].mlp.forward is doubled
    del model.model.layers[0].mlp.forward
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight *= 2
    assert found == pytest.approx(_numbers(tiny, model, texts), rel=1e-5)
    assert found["fidelity.kl"] != pytest.approx(expected["fidelity.kl"], rel=1e-3)


def test_a_model_dispatched_to_one_device_is_judged_as_it_is(tiny, model, texts, expected):
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    for block in (model, *model.model.layers):
        add_hook_to_module(block, AlignDevicesHook(execution_device="cpu", io_same_device=True))
    assert _numbers(tiny, model, texts) == pytest.approx(expected, rel=1e-6)
    assert all(hasattr(block, "_hf_hook") for block in model.model.layers)


def test_offloaded_weights_are_refused(tiny, model, texts):
    from accelerate import cpu_offload

    cpu_offload(model, execution_device=torch.device("cpu"))
    with pytest.raises(HostError, match="weights are offloaded .*on device meta"):
        _numbers(tiny, model, texts)


def test_weights_that_are_moved_for_each_pass_are_refused(model):
    from accelerate import cpu_offload_with_hook

    cpu_offload_with_hook(model, execution_device=torch.device("cpu"))
    with pytest.raises(HostError, match="accelerate's CpuOffload on the model"):
        check_given(model)


def test_a_model_on_meta_is_refused(model):
    with pytest.raises(HostError, match="never loaded .*device meta"):
        check_given(model.to("meta"))


def _adapted(model, monkeypatch, how):
    if how == "config":
        model.peft_config = {"default": object()}
        return "found adapters of PEFT;"
    kind = type("Linear", (nn.Linear,), {"__module__": "peft.tuners.lora.layer"})
    model.model.layers[0].mlp.up_proj = kind(16, 32)
    return r"found adapters of PEFT at model\.layers\.0\.mlp\.up_proj"


@pytest.mark.parametrize("how", ["config", "submodule"])
def test_adapters_are_refused_with_how_to_merge_them(model, monkeypatch, how):
    said = _adapted(model, monkeypatch, how)
    with pytest.raises(HostError, match=rf"{said}.*model = model\.merge_and_unload\(\)"):
        check_given(model)


def test_transformer_lens_models_are_refused_with_what_to_give(tiny, texts):
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(tiny.model, device="cpu")
    with pytest.raises(
        HostError, match="TransformerLens' TransformerBridge; give the model's name"
    ):
        _numbers(tiny, bridge, texts)
    with pytest.raises(HostError, match="found TransformerLens' modules of it"):
        _numbers(tiny, bridge.original_model, texts)


class _Holder(nn.Module):
    """A module that holds a model, as SAELens' proxy or DistributedDataParallel do."""

    def __init__(self, model):
        super().__init__()
        self.module = model


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (_Holder, r"found _Holder; give what it wraps: model\.module"),
        (nn.DataParallel, r"found DataParallel; give what it wraps: model\.module"),
        (torch.compile, r"found OptimizedModule; give what it wraps: model\._orig_mod"),
        (lambda model: SimpleNamespace(_model=model), r"SimpleNamespace; .*: model\._model"),
        (lambda _: nn.Linear(2, 2), "found Linear$"),
        (lambda _: 3, "found int$"),
    ],
)
def test_what_wraps_a_model_is_refused_with_what_to_give(tiny, model, texts, wrap, said):
    with pytest.raises(HostError, match=said):
        _numbers(tiny, wrap(model), texts, tokenizer=object())


def test_a_model_compiled_in_place_is_refused(model):
    model.model.layers[0].compile()
    with pytest.raises(HostError, match=r"model\.layers\.0 was compiled"):
        check_given(model)


def _quantised(model, how):
    if how == "method":
        model.quantization_method = "bitsandbytes"
    elif how == "module":
        kind = type("Linear4bit", (nn.Linear,), {})
        model.model.layers[0].mlp.up_proj = kind(16, 32)
    elif how == "torch":
        torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, inplace=True)
    else:
        weight = model.model.layers[0].mlp.up_proj.weight.data
        model.model.layers[0].mlp.up_proj.weight = nn.Parameter(
            weight.to(torch.float8_e4m3fn), requires_grad=False
        )
    return model


def test_torchs_own_attention_beside_the_model_is_not_quantised(model):
    """Gemma 3's vision tower has one: its projection's class only speaks of quantisation."""
    model.tower = torch.nn.MultiheadAttention(16, 2)
    check_given(model)


@pytest.mark.filterwarnings("ignore")  # torch calls its own quantisation deprecated
@pytest.mark.parametrize("how", ["method", "module", "torch", "float8"])
def test_quantised_weights_are_refused(model, how):
    with pytest.raises(HostError, match="weights are quantised .*model = model.dequantize"):
        check_given(_quantised(model, how))


def test_a_model_without_a_head_is_refused(tiny, texts):
    with pytest.raises(HostError, match="found LlamaModel: it has no output embedding"):
        _numbers(tiny, AutoModel.from_pretrained(tiny.model), texts)


@pytest.mark.parametrize("kind", ["T5ForConditionalGeneration", "BertForMaskedLM"])
def test_models_that_look_both_ways_are_refused(kind):
    import transformers

    sizes = {"vocab_size": 9, "d_model": 8, "hidden_size": 8, "num_layers": 1, "num_heads": 2,
             "num_attention_heads": 2, "num_hidden_layers": 1}  # fmt: skip
    made = getattr(transformers, kind)
    with pytest.raises(HostError, match=f"expected a causal language model, found {kind}"):
        check_given(made(made.config_class(**sizes)))


class _Dropping(nn.Module):
    """A block whose MLP drops half of its output while it is trained."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.drop = inner, nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.inner(x))


def test_dropout_is_off_while_judging_and_on_again_afterwards(tiny, model, texts, expected):
    model.model.layers[0].mlp = _Dropping(model.model.layers[0].mlp)
    model.train()
    assert _numbers(tiny, model, texts) == pytest.approx(expected, rel=1e-6)
    assert all(module.training for module in model.modules())


def test_also_where_judging_ends_with_an_error(tiny, model):
    model.train()
    with pytest.raises(saebench.errors.DataError):
        saebench.judge(tiny.good, model, ["w1"], sequences=1)
    assert all(module.training for module in model.modules())


def test_tied_weights_are_judged_as_the_same_weights_apart(tiny, model, texts):
    model.lm_head.weight = model.model.embed_tokens.weight
    tied = _numbers(tiny, model, texts)
    model.lm_head.weight = nn.Parameter(model.model.embed_tokens.weight.detach().clone())
    assert tied == pytest.approx(_numbers(tiny, model, texts), rel=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_judged_as_the_model_loaded_by_name_so(tiny, texts, dtype):
    model = AutoModelForCausalLM.from_pretrained(tiny.model, dtype=dtype)
    found = _numbers(tiny, model, texts)
    assert found == pytest.approx(_numbers(tiny, tiny.model, texts, dtype=dtype), rel=1e-6)


@pytest.mark.parametrize(
    ("asked", "said"),
    [({"dtype": "bfloat16"}, "in float32; .*dtype=torch.bfloat16"),
     ({"device": "meta"}, "--sae-device meta: not usable here"),
     ({"dtype": "tf32"}, "tf32 needs an NVIDIA GPU")],
)  # fmt: skip
def test_a_dtype_or_a_device_that_the_model_is_not_in_is_refused(tiny, model, texts, asked, said):
    with pytest.raises(OptionError, match=said):
        _numbers(tiny, model, texts, **asked)


def test_a_model_on_another_device_than_the_one_asked_for_is_refused(model):
    with pytest.raises(OptionError, match=r"the model given is on cpu; .*model\.to\('cuda'\)"):
        check_asked(model, device="cuda", dtype="float32")


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        (object(), "found object"),
        (make_tokenizer().backend_tokenizer, r"found Tokenizer .*PreTrainedTokenizerFast"),
        (lambda *_, **__: {"input_ids": [[1, 2]]}, "gives list; of a processor give its tokenizer"),
        ("no/such/tokenizer", "no tokenizer at 'no/such/tokenizer'"),
    ],
)
def test_a_tokenizer_that_gives_no_ids_is_refused(tiny, model, texts, tokenizer, said, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HostError, match=said):
        _numbers(tiny, model, texts, tokenizer=tokenizer)


def test_a_tokenizer_may_be_named(tiny, model, texts, expected):
    assert _numbers(tiny, model, texts, tokenizer=Path(tiny.model)) == pytest.approx(expected)


def test_a_tokenizer_for_a_model_by_name_is_refused(tiny, texts):
    with pytest.raises(HostError, match="brings its own"):
        _numbers(tiny, tiny.model, texts, tokenizer=make_tokenizer())


def test_a_model_that_does_not_run_is_refused_with_its_own_error(tiny, model, texts):
    model.model.layers[0].to(torch.bfloat16)
    with pytest.raises(HostError, match="cannot be run on 2 sequences .*dtype"):
        _numbers(tiny, model, texts)


def test_what_gradient_checkpointing_sets_is_refused_with_what_unsets_it(tiny, model, texts):
    model.enable_input_require_grads()
    with pytest.raises(HostError, match=r"remove them: model\.disable_input_require_grads"):
        _numbers(tiny, model, texts)
    model.disable_input_require_grads()
    assert _numbers(tiny, model, texts)
