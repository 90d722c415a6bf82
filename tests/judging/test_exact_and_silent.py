"""SAEs that make no error at some tokens, and SAEs of which no feature ever fires."""

import pytest
import torch
from tiny import HOOK, TRAINING_CONTEXT

import saebench
from saebench.properties import properties
from saebench.records.verdict import Verdict
from saebench.substitution.interventions import BankErrors, Tokens, substitute
from saebench.substitution.reference import ReferenceSums

RADIUS = ("eps_random", "cov_random", "real_difference", "error_shuffled")


class _ExactBelow(torch.nn.Module):
    """An SAE whose features are the activation, with an error at tokens that a rule chooses."""

    def __init__(self, sae, errs):
        super().__init__()
        self.sae, self.errs, self.cfg = sae, errs, sae.cfg

    def encode(self, x):
        both = torch.cat([x.relu(), (-x).relu()], dim=-1)
        return torch.cat([both, self.errs(x)[..., None].to(x.dtype)], dim=-1)

    def decode(self, features):
        d = (features.shape[-1] - 1) // 2
        bump = torch.linspace(0.2, 0.9, d)
        return features[..., :d] - features[..., d : 2 * d] + features[..., -1:] * bump


def _judged(tiny, errs, **options):
    from sae_lens import SAE

    sae = _ExactBelow(SAE.load_from_disk(tiny.good), errs)
    told = {"hook": HOOK, "training_context": TRAINING_CONTEXT, "prepend_bos": True}
    return saebench.judge(sae, tiny.model, tiny.texts, sequences=24, **told, **options)


@pytest.mark.parametrize("scope", ["all", "single"])
@pytest.mark.parametrize(
    "errs",
    [
        lambda x: x[..., 0] > 0,
        lambda x: x[..., 0] > 0.4,  # at a few tokens
        lambda x: torch.zeros_like(x[..., 0], dtype=torch.bool),
    ],
    ids=["half", "few", "none"],
)
def test_an_sae_that_is_exact_at_some_tokens_or_all_is_measured(tiny, errs, scope):
    run = _judged(tiny, errs, properties=["kl_gap"], position=5)
    case = next(c for c in run.cases if c.params["scope"] == scope)
    assert case.verdict is not Verdict.ERROR, case.reason
    assert case.by_name["kl_gap.kl[error_shuffled]"].value is not None


def test_the_share_of_exact_tokens_is_reported_and_said(tiny):
    run = _judged(tiny, lambda x: x[..., 0] > 0, properties=["kl_gap"])
    case = next(c for c in run.cases if c.params["scope"] == "all")
    share = case.by_name["kl_gap.exact_share"].value
    assert 0 < share < 1
    tokens = case.by_name["kl_gap.exact_share"].n.tokens
    said = f"exact at {round(share * tokens):,} of {tokens:,} tokens"
    assert said in case.series["sentences"][-1]


def test_every_property_takes_an_sae_that_is_exact_at_some_tokens(tiny):
    run = _judged(tiny, lambda x: x[..., 0] > 0)
    errors = {case.property for case in run.cases if case.verdict is Verdict.ERROR}
    assert errors == {"sparsity"}  # which wants a decoder matrix, and this SAE has none


def _tokens(errors, bank_errors):
    n, d = errors.shape
    generator = torch.Generator().manual_seed(0)
    reference = ReferenceSums(d, tokens=len(bank_errors))
    places = torch.arange(len(bank_errors))
    bank = torch.randn(len(bank_errors), d, generator=generator)
    reference.update(bank, places, places)
    x = torch.randn(n, d, generator=generator)
    made = BankErrors.of(bank, bank - bank_errors, unread_mean=False)
    own = torch.arange(n) + 1000
    return Tokens(x, x - errors, torch.ones(n), own, own, reference.compute("cpu"), made, 0)


@pytest.mark.parametrize("name", RADIUS)
def test_where_there_is_no_error_no_random_one_is_put(name):
    errors = torch.ones(6, 8)
    errors[::2] = 0
    bank = torch.ones(40, 8) * torch.arange(40)[:, None]
    tokens = _tokens(errors, bank)
    changed = substitute(name, tokens)
    assert (changed[::2] == tokens.x[::2]).all()
    size = tokens.on_bank.centred(tokens.x - tokens.x_hat)[1::2].norm(dim=-1)
    torch.testing.assert_close((changed - tokens.x)[1::2].norm(dim=-1), size)


def test_a_token_without_an_error_lends_none_to_others():
    bank = torch.zeros(40, 8)
    bank[7] = torch.eye(8)[3]
    tokens = _tokens(torch.ones(5, 8), bank)
    moved = substitute("error_shuffled", tokens) - tokens.x
    along = tokens.on_bank.centred(bank[7:8])
    cosine = torch.cosine_similarity(moved, along.expand_as(moved))
    torch.testing.assert_close(cosine, torch.ones(5))


def test_where_no_other_token_has_an_error_none_is_put():
    tokens = _tokens(torch.ones(5, 8), torch.zeros(40, 8))
    assert (substitute("error_shuffled", tokens) == tokens.x).all()


# special_tokens decides nothing; single_token looks at too few tokens to say that nothing fires.
ON_FEATURES = sorted(
    set(properties()) - {"cost", "tax", "cloze", "promise", "single_token", "special_tokens"}
)


@pytest.mark.parametrize("name", ON_FEATURES)
def test_an_sae_of_which_no_feature_fires_is_an_error_in_each_property_alone(tiny, tmp_path, name):
    silent = tiny.with_weights(tiny.good, tmp_path / "silent", b_enc=torch.full((43,), -1e4))
    run = saebench.judge(str(silent), tiny.model, tiny.texts, sequences=24, properties=[name])
    decided = [case for case in run.cases if case.verdict is not Verdict.SKIPPED]
    for case in decided:
        if case.params.get("scope") == "single":
            continue
        assert case.verdict is Verdict.ERROR, case
        assert "no feature fires at any of" in case.reason
