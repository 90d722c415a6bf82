"""The cross-entropy from the current token alone, against plain passes of one or two tokens."""

import numpy as np
import pytest
import torch
from families import FAMILIES, host_of, make_model, make_subject, make_tokens, random_ids
from scipy.special import log_softmax

from saebench.measures.names import CURRENT_TOKEN
from saebench.substitution.current_token import current_token_ce, prefix_of
from saebench.substitution.engine import Engine

N, T = 5, 11


def _by_hand(family: str, ids: torch.Tensor, prefix: int | None) -> np.ndarray:
    """Return -ln P(next | prefix, current), one plain float64 pass for each token."""
    model = make_model(family).double()
    out = np.zeros(ids.shape)
    for s in range(len(ids)):
        for t in range(1, ids.shape[1] - 1):
            context = [int(ids[s, t])] if prefix is None else [prefix, int(ids[s, t])]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([context]), use_cache=False).logits[0, -1]
            out[s, t] = -log_softmax(logits.numpy())[int(ids[s, t + 1])]
    return out


@pytest.mark.parametrize("prefix", [0, 1, None])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_that_of_plain_passes_in_float64(family, prefix):
    ids = random_ids(N, T)
    found = current_token_ce(host_of(family), make_tokens(ids), prefix=prefix)
    np.testing.assert_allclose(found, _by_hand(family, ids, prefix), rtol=1e-5, atol=1e-5)


def test_it_does_not_depend_on_the_other_sequences():
    tokens, host = make_tokens(random_ids(N, T)), host_of("llama")
    whole = current_token_ce(host, tokens, prefix=0)
    for rows in (slice(0, 1), slice(2, 5)):
        part = current_token_ce(host, tokens.part(rows), prefix=0)
        assert torch.equal(part, whole[rows])


def test_sequences_without_bos_are_prefixed_by_eos():
    assert prefix_of(host_of("llama"), 7) == 7
    assert prefix_of(host_of("llama"), None) == 1


def test_the_engine_adds_it_where_a_target_is_scored():
    tokens, host = make_tokens(random_ids(N, T)), host_of("gpt2")
    subject = make_subject(torch.nn.Identity(), "blocks.1.hook_resid_pre", context=T)
    subject.sae.encode = subject.sae.decode = lambda x: x
    engine = Engine(host, tokens, seed=0, batch_size=2, bos=0)
    found = engine.measure([(subject, ("sae", CURRENT_TOKEN))], progress=lambda _: None)["sae"]
    expected = current_token_ce(host, tokens, prefix=0).double().sum(dim=1)
    np.testing.assert_allclose(found.table()["current_token.ce"], expected, rtol=1e-6)
    assert CURRENT_TOKEN not in found.interventions
