"""saebench.judge: the same judging, from Python."""

import inspect
import json
from pathlib import Path

import pytest
import torch
from option_samples import needed, sample
from tiny import FEATURES
from torch import nn

import saebench
from saebench.errors import DataError, OptionError, SubjectError, UsageError
from saebench.records.verdict import Verdict

HOOK = "blocks.1.hook_resid_pre"
PROPERTIES = ("fidelity", "kl_gap", "shrinkage", "sparsity")


@pytest.fixture(scope="module")
def texts(tiny):
    return [json.loads(line)["text"] for line in Path(tiny.texts).read_text().splitlines()]


@pytest.fixture(scope="module")
def by_spec(tiny):
    return saebench.judge(tiny.good, tiny.model, tiny.texts, sequences=24, properties=PROPERTIES)


@pytest.fixture
def sae(tiny):
    from sae_lens import SAE

    return SAE.load_from_disk(tiny.good)


@pytest.fixture
def model(tiny):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny.model)


class Plain(nn.Module):
    """The good SAE's maths, without SAELens."""

    def __init__(self, sae):
        super().__init__()
        self.encoder, self.bias, self.decoder = (
            nn.Parameter(w.detach().clone()) for w in (sae.W_enc, sae.b_enc, sae.W_dec)
        )

    def encode(self, x):
        return torch.relu(x @ self.encoder + self.bias)

    def decode(self, features):
        return features @ self.decoder


def _values(run):
    return {m.name: m.value for case in run.cases for m in case.metrics}


def _close(run):
    return pytest.approx(
        {k: v for k, v in _values(run).items() if v is not None}, rel=1e-5, abs=1e-8
    )


def _known(run):
    return {k: v for k, v in _values(run).items() if v is not None}


def test_a_good_sae_passes_and_a_bad_one_does_not(tiny, by_spec):
    good, bad = (
        saebench.judge(
            sae, tiny.model, tiny.texts, sequences=24, properties=PROPERTIES, allow_partial=True
        )
        for sae in (tiny.good, tiny.bad)
    )
    assert good.passed
    assert not bad.passed


def test_a_part_of_the_properties_is_no_pass(by_spec):
    assert not by_spec.passed
    assert by_spec.verdict is Verdict.INCOMPLETE
    left_out = {each.property for each in by_spec.run.unjudged}
    assert left_out.isdisjoint(PROPERTIES)
    assert {"advantage", "controls"} <= left_out


def test_a_good_sae_passes_every_shipped_gate_and_a_bad_one_fails_against_pca_too(tiny):
    runs = {
        sae: saebench.judge(sae, tiny.model, tiny.texts, sequences=24)
        for sae in (tiny.good, tiny.bad)
    }
    decided = {
        sae: {gate.rule: gate.verdict for case in run.cases for gate in case.deciding}
        for sae, run in runs.items()
    }
    assert set(decided[tiny.good].values()) == {Verdict.PASS}
    rules = {"advantage.kl_ratio<=0.5", "advantage.fvu_ratio<=0.9", "strata.worst_decile_ratio<=5",
             "advantage.random_dictionary_ratio<=0.8"}  # fmt: skip
    assert rules <= set(decided[tiny.good])
    failed = {rule for rule, verdict in decided[tiny.bad].items() if verdict is Verdict.FAIL}
    assert failed >= {"advantage.kl_ratio<=0.5", "fidelity.context_recovered>=0.85"}


def test_a_saelens_object_is_judged_as_its_directory(tiny, sae, by_spec):
    run = saebench.judge(sae, tiny.model, tiny.texts, sequences=24, properties=PROPERTIES)
    assert _known(run) == _close(by_spec)


def test_a_plain_module_is_judged_as_the_sae_that_it_computes(tiny, sae, by_spec):
    run = saebench.judge(
        Plain(sae),
        tiny.model,
        tiny.texts,
        hook=HOOK,
        sequences=24,
        context=12,
        prepend_bos=True,
        properties=PROPERTIES,
    )
    known = _known(run)
    # Without a decoder matrix features' masses are f, not f·‖d‖.
    mass = known.pop("sparsity.one_sequence_mass")
    assert mass == pytest.approx(_values(by_spec)["sparsity.one_sequence_mass"], rel=0.02)
    same = {k: v for k, v in _known(by_spec).items() if k in known}
    assert {"fidelity.kl", "kl_gap.ratio[eps_random]", "sparsity.l0", "sparsity.dead"} <= set(same)
    assert known == pytest.approx(same, rel=1e-5, abs=1e-8)


def test_a_module_that_changes_its_input_is_judged_as_the_sae_that_it_computes(tiny, sae):
    class InPlace(Plain):
        def encode(self, x):
            x.neg_()
            return torch.relu(-x @ self.encoder + self.bias)

    options = {"hook": HOOK, "sequences": 6, "context": 12, "properties": PROPERTIES}
    saes = {"plain": Plain(sae), "in place": InPlace(sae)}
    run = saebench.judge(saes, tiny.model, tiny.texts, prepend_bos=True, **options)
    one, two = (
        {(c.property, m.name): m.value for c in run.cases if c.sae == name for m in c.metrics}
        for name in saes
    )
    assert one == two
    assert ("fidelity", "fidelity.explained_variance") in one


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encode": lambda self, x: (torch.relu(x @ self.encoder),)}, "encode gives a tuple"),
        ({"decode": lambda self, f: (f @ self.decoder, None)}, "decode gives a tuple"),
        ({"forward": lambda self, x: 0.9 * (x @ self.encoder).relu() @ self.decoder},
         r"decode\(encode\(x\)\) is not what forward"),
    ],
)  # fmt: skip
def test_an_object_that_is_not_what_it_seems_is_refused_before_the_run(tiny, sae, changes, said):
    odd = type("Odd", (Plain,), changes)(sae)
    with pytest.raises(SubjectError, match=said):
        saebench.judge(odd, tiny.model, tiny.texts, hook=HOOK, sequences=6, context=12)


def test_a_plain_module_without_hook_is_refused_naming_the_argument(tiny, sae):
    with pytest.raises(SubjectError, match="hook_name") as caught:
        saebench.judge(Plain(sae), tiny.model, tiny.texts, context=12)
    assert "hook=" in str(caught.value)


def test_a_model_object_is_judged_as_its_directory(tiny, sae, model, texts, by_spec):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.model)
    run = saebench.judge(
        sae, model, texts, tokenizer=tokenizer, sequences=24, properties=PROPERTIES
    )
    assert _known(run) == _close(by_spec)


def test_a_model_object_finds_its_own_tokenizer(sae, model, texts, by_spec):
    assert _known(saebench.judge(sae, model, texts, sequences=24, properties=PROPERTIES)) == _close(
        by_spec
    )


def test_a_spec_with_a_model_object_and_rows_of_a_data_set(tiny, model, texts, by_spec):
    rows = [{"text": text} for text in texts]
    run = saebench.judge(tiny.good, model, rows, sequences=24, properties=PROPERTIES)
    assert _known(run) == _close(by_spec)


def test_python_and_pytest_give_the_same_numbers(gate_run, tiny, by_spec):
    gate_run.judge("--sae", tiny.good)
    found = gate_run.result()["cases"]
    assert {m["name"]: m["value"] for c in found for m in c["metrics"]} == _values(by_spec)
    assert [c["fingerprint"] for c in found] == [
        case.fingerprint for c in found for case in by_spec.cases if case.id == c["id"]
    ]


@pytest.mark.parametrize("training", [True, False])
def test_training_modes_and_weights_are_left_as_they_were(sae, model, texts, training):
    sae.train(training)
    model.train(training)
    before = {k: v.clone() for k, v in sae.state_dict().items()}
    saebench.judge(sae, model, texts, sequences=4, properties=["shrinkage"])
    assert (sae.training, model.training) == (training, training)
    assert all(torch.equal(v, before[k]) for k, v in sae.state_dict().items())


def test_a_submodule_kept_in_evaluation_mode_stays_so(sae, model, texts):
    model.train()
    model.model.layers[0].eval()
    saebench.judge(sae, model, texts, sequences=4, properties=["shrinkage"])
    assert model.training
    assert not model.model.layers[0].training


def test_no_hook_is_left_on_a_model_and_gradients_still_flow(sae, model, texts):
    saebench.judge(sae, model, texts, sequences=4, properties=["fidelity"])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    model(torch.ones(1, 4, dtype=torch.long)).logits.sum().backward()
    assert model.lm_head.weight.grad is not None


def test_chosen_properties_alone_are_judged(tiny):
    run = saebench.judge(
        tiny.good, tiny.model, tiny.texts, properties=["sparsity", "shrinkage"], sequences=4
    )
    assert [c.property for c in run.cases] == ["sparsity", "shrinkage"]


def test_a_typo_in_an_options_name_suggests_the_right_one(tiny):
    with pytest.raises(TypeError, match="no option 'batchsize'; did you mean 'batch_size'"):
        saebench.judge(tiny.good, tiny.model, tiny.texts, batchsize=3)


@pytest.mark.parametrize(
    "option", [{"packing": "packed"}, {"profile": "smoke"}, {"inconclusive": "warn"}]
)
def test_choices_may_be_given_as_words(tiny, option):
    run = saebench.judge(
        tiny.good, tiny.model, tiny.texts, sequences=4, properties=["shrinkage"], **option
    )
    assert run.cases[0].metrics


def test_a_choice_that_does_not_exist_is_refused_with_the_nearest(tiny):
    with pytest.raises(OptionError, match="did you mean 'packed'"):
        saebench.judge(tiny.good, tiny.model, tiny.texts, packing="packd", properties=["shrinkage"])


@pytest.mark.parametrize("option", [{"interventions": "zero"}, {"fail_on": "fidelity.kl<=9"}])
def test_one_word_may_stand_for_a_list_of_one(tiny, option):
    run = saebench.judge(tiny.good, tiny.model, tiny.texts, sequences=4, **option)
    assert run.cases


def test_a_dead_sae_fails_without_a_warning(tiny, tmp_path):
    """Zero over zero is an ERROR of the case; numpy's warning would break strict test runs."""
    dead = tiny.with_weights(tiny.good, tmp_path / "dead", b_enc=torch.full((FEATURES,), -1e9))
    run = saebench.judge(str(dead), tiny.model, tiny.texts, sequences=4, properties=PROPERTIES)
    assert {c.property: c.verdict.value for c in run.cases}["shrinkage"] == "ERROR"


def test_an_impossible_value_is_refused(tiny):
    with pytest.raises(OptionError, match="sequences must be 1 or more"):
        saebench.judge(tiny.good, tiny.model, tiny.texts, sequences=0)


@pytest.mark.parametrize("odd", [3, None, nn.Linear(2, 2), object()])
def test_what_is_no_sae_is_refused(tiny, odd):
    with pytest.raises(SubjectError, match="expected a SAELens SAE, a torch module"):
        saebench.judge(odd, tiny.model, tiny.texts)


@pytest.mark.parametrize("odd", [3, [1, 2], [{"txt": "a"}], [], [""]])
def test_what_are_no_texts_is_refused(tiny, odd):
    with pytest.raises(DataError):
        saebench.judge(tiny.good, tiny.model, odd)


def test_a_path_object_is_taken_as_a_spec(tiny, by_spec):
    paths = Path(tiny.good), Path(tiny.model), Path(tiny.texts)
    run = saebench.judge(*paths, sequences=24, properties=PROPERTIES)
    assert _known(run) == _close(by_spec)


def test_a_model_object_that_is_no_language_model_is_refused(sae, texts):
    with pytest.raises(UsageError):
        saebench.judge(sae, nn.Linear(2, 2), texts, sequences=4, tokenizer=object())


def test_a_generator_of_texts_is_read_once(tiny, sae, texts, by_spec):
    run = saebench.judge(
        sae, tiny.model, (text for text in texts), sequences=24, properties=PROPERTIES
    )
    assert _known(run) == _close(by_spec)


def test_a_run_prints_as_its_table(by_spec):
    text = str(by_spec)
    assert "good  INCOMPLETE" in text
    assert "shrinkage.l2_ratio" in text


def test_a_run_shows_itself_in_a_notebook(by_spec):
    assert by_spec._repr_html_().startswith("<table>")
    assert set(by_spec.to_pandas()["property"]) == {c.property for c in by_spec.cases}


def test_a_run_as_dictionary_is_its_result_file(by_spec, tmp_path):
    from saebench.store.json_files import write_record

    write_record(by_spec, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == json.loads(
        json.dumps(by_spec.to_dict())
    )


def test_nan_from_an_sae_is_an_error_never_a_pass(tiny, sae, texts):
    class Diverged(Plain):
        def decode(self, features):
            return super().decode(features) * float("nan")

    run = saebench.judge(
        Diverged(sae), tiny.model, texts, hook=HOOK, sequences=4, context=12,
        properties=PROPERTIES,
    )  # fmt: skip
    measured = [c for c in run.cases if c.verdict is not Verdict.SKIPPED]  # too short for single
    assert {c.verdict for c in measured} - {Verdict.PASS} == {Verdict.ERROR}
    gated = [c for c in measured if c.property != "sparsity"]
    assert all(c.verdict is Verdict.ERROR for c in gated)


def _keywords():
    from saebench.judging.api import keywords

    return keywords()


def test_the_keywords_are_the_options_of_settings_and_scale_with_their_defaults():
    from saebench.options import RunOptions, options_of

    parameters = inspect.signature(saebench.judge).parameters
    own = {"sae", "model", "data", "properties", "tokenizer", "name"}
    assert set(parameters) == own | set(_keywords())
    assert {name: parameters[name].default for name in _keywords()} == {
        name: each.default for name, each in _keywords().items()
    }
    # What is written, and given by position, is not among them.
    left = {each.field for each in options_of(RunOptions)} - set(_keywords())
    assert left == {"sae", "model", "dataset", "cost", "json", "md", "html", "update_baselines",
                    "update_new"}  # fmt: skip


def test_the_documentation_has_every_keyword_with_its_help():
    lines = [line.strip() for line in inspect.getdoc(saebench.judge).splitlines()]
    for name, each in _keywords().items():
        assert any(line.startswith(f"{name}: {each.help}") for line in lines), name


@pytest.mark.parametrize("keyword", _keywords())
def test_a_keyword_means_what_the_option_means(keyword):
    from saebench.judging.api import _asked
    from saebench.options import run_options

    each = _keywords()[keyword]
    text = "zero" if keyword == "interventions" else sample(each)
    others = needed(each)
    value = each.check(each.kind.parse(text))
    asked = _asked({keyword: value} | {k.replace("-", "_"): v for k, v in others.items()},
                   model=None, data=None)  # fmt: skip
    assert asked == run_options({each.name: text} | others)


def test_an_unknown_intervention_is_refused_before_anything_is_loaded(tiny):
    with pytest.raises(OptionError, match="unknown intervention 'eps_randm'; did you mean"):
        saebench.judge("/no/such/sae", interventions=["zero", "eps_randm"], properties=["sparsity"])
