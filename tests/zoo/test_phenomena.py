"""The published phenomena appear in the zoo, by the gate's own measurement, with intervals."""

import numpy as np
import pytest

import saebench
from saebench.data.cloze_tokens import ClozePrompt, tokenise
from saebench.experiments.cloze_prompts import ClozeEngine
from saebench.options import Overrides
from saebench.properties.cloze import mcnemar_p
from saebench.subjects.host_loading import load_host
from saebench.subjects.loading import load_subject
from saebench.subjects.references import find_subjects
from saebench.zoo import corpus
from saebench.zoo import shelf as zoo

LAYERS = ("l0-standard", "l1-standard", "l2-standard", "l3-standard")
PROMPTS = 4000


@pytest.fixture(scope="module")
def measured():
    """Metrics by SAE and name, of all tokens substituted at once."""
    run = saebench.judge(
        "demo", properties=["kl_gap", "shrinkage", "context_length"], sequences=128,
        interventions=("eps_random",),
    )  # fmt: skip
    at_once = [case for case in run.cases if case.params.get("scope", "all") == "all"]
    return {(case.sae, m.name): m for case in at_once for m in case.metrics}


def test_l1_saes_errors_are_worse_than_random_ones_at_two_layers_or_more(measured):
    ratios = [measured[name, "kl_gap.ratio[eps_random]"] for name in LAYERS]
    assert sum(ratio.ci.low > 1 for ratio in ratios) >= 2


def test_the_strongest_l1_shrinks(measured):
    assert measured["l2-shrunken", "shrinkage.l2_ratio"].ci.high < 0.9


@pytest.mark.parametrize("name", LAYERS)
def test_what_the_sae_costs_grows_beyond_its_training_context(measured, name):
    assert measured[name, "context_length.degradation"].ci.low > 0
    near = measured[name, "context_length.ce_increase[C-2C]"]
    far = measured[name, "context_length.ce_increase[2C-4C]"]
    assert far.ci.low > near.ci.high


def test_early_layers_degrade_more_than_the_last(measured):
    first, second, _, last = (measured[n, "context_length.degradation"] for n in LAYERS)
    assert first.ci.low > last.ci.high
    assert second.ci.low > last.ci.high


@pytest.fixture(scope="module")
def answers():
    """The shrunken SAE's answers: its cost is small, so it takes thousands of prompts to see."""
    path = str(zoo.model_path())
    host = load_host(path, device="cpu", dtype="float32", asked_by="test")
    subject = load_subject(
        find_subjects(["demo:l2-shrunken"])[0], overrides=Overrides(), device="cpu"
    )
    prompts = tokenise(
        (ClozePrompt(p.prompt, p.answer) for p in corpus.prompts(1, PROMPTS)),
        host.tokenizer, context=256, prepend_bos=True, special_ids=host.special_ids,
    )  # fmt: skip
    return ClozeEngine(host, prompts).measure([subject], progress=lambda _: None)["l2-shrunken"]


def test_the_model_answers_most_cloze_prompts(answers):
    assert answers.clean.whole.mean() > 0.6


def test_the_shrunken_sae_costs_accuracy_on_cloze_prompts(answers):
    lost = answers.clean.whole.astype(float) - answers.changed.whole
    error = lost.std() / np.sqrt(len(lost))
    assert lost.mean() - 1.96 * error > 0
    assert mcnemar_p(answers.clean.whole, answers.changed.whole) < 0.05
