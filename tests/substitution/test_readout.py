"""The readout by chunks and blocks, held against all the logits at once."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saebench.measures.divergence import clean_rows, compare, cross_entropy
from saebench.substitution import readout
from saebench.substitution.readout import Readout, Repeated, read_out

ROWS, WIDTH, VOCAB = 23, 16, 61


def _states(seed: int, rows: int = ROWS) -> Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed))


class _Host(SimpleNamespace):
    """A host that can do nothing but unembed, and counts the rows that it was given."""

    def __init__(self) -> None:
        device = torch.device("cpu")
        weight = torch.randn(VOCAB, WIDTH, generator=torch.Generator().manual_seed(99))
        super().__init__(device=device, vocab_size=VOCAB, weight=weight, rows=0)

    def logits_memory(self, rows: int) -> Tensor:
        return torch.empty(rows, VOCAB)

    def logits(self, hidden: Tensor, *, out: Tensor | None = None) -> Tensor:
        self.rows += len(hidden)
        made = hidden @ self.weight.T
        return made if out is None else out.copy_(made)


TARGETS = torch.randint(VOCAB, (ROWS,), generator=torch.Generator().manual_seed(5))


def _assert_all_at_once(clean: Tensor, changed: dict[str, Tensor], found: tuple) -> None:
    host = _Host()
    side = clean_rows(host.logits(clean))
    torch.testing.assert_close(found[0], cross_entropy(side, TARGETS))
    for name, states in changed.items():
        expected = compare(side, host.logits(states), targets=TARGETS)
        for field, values in vars(expected).items():
            torch.testing.assert_close(getattr(found[1][name], field), values)


@given(product=st.integers(1, 60), block=st.integers(1, 30))
@settings(deadline=None, max_examples=25)
def test_how_many_rows_are_taken_at_once_changes_nothing(product: int, block: int):
    changed = {"a": _states(1), "b": _states(2)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readout, "PRODUCT", dict.fromkeys(("cpu", "cuda"), product * VOCAB))
        patch.setattr(readout, "BLOCK", dict.fromkeys(("cpu", "cuda"), block * VOCAB))
        found = read_out(_Host(), _states(0), changed, targets=TARGETS)
    _assert_all_at_once(_states(0), changed, found)


@given(times=st.integers(1, ROWS), product=st.integers(1, 60), block=st.integers(1, 30))
@settings(deadline=None, max_examples=25)
def test_states_that_rows_share_give_what_each_row_for_itself_gives(times, product, block):
    different = _states(3, -(-ROWS // times))
    changed = {"each": _states(1), "shared": different.repeat_interleave(times, dim=0)[:ROWS]}
    options = {"each": changed["each"], "shared": Repeated(different, times)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readout, "PRODUCT", dict.fromkeys(("cpu", "cuda"), product * VOCAB))
        patch.setattr(readout, "BLOCK", dict.fromkeys(("cpu", "cuda"), block * VOCAB))
        found = read_out(_Host(), _states(0), options, targets=TARGETS)
    _assert_all_at_once(_states(0), changed, found)


@pytest.mark.parametrize("times", [1, 5])
def test_rows_beyond_what_exp_holds_are_computed_again_alone(times: int, monkeypatch):
    monkeypatch.setattr(readout, "BLOCK", dict.fromkeys(("cpu", "cuda"), 2 * VOCAB))
    states = _states(1, -(-ROWS // times))
    states[[0, 2, 3]] *= 500  # logits that move by thousands
    every = states.repeat_interleave(times, dim=0)[:ROWS]
    options = {"far": Repeated(states, times) if times > 1 else states}
    _, found = read_out(_Host(), _states(0), options, targets=TARGETS)
    log_p, log_q = (
        _Host().logits(side).double().log_softmax(dim=-1) for side in (_states(0), every)
    )
    kl = (log_p.exp() * (log_p - log_q)).sum(dim=-1)
    assert kl.max() > 100
    torch.testing.assert_close(found["far"].kl.double(), kl, rtol=1e-5, atol=1e-6)
    assert torch.isfinite(found["far"].tv).all()


def test_states_that_rows_share_are_unembedded_once():
    host = _Host()
    read_out(host, _states(0, 20), {"shared": Repeated(_states(1, 4), 5)}, targets=TARGETS[:20])
    assert host.rows == 20 + 4


def test_one_batch_after_another_leaves_the_earlier_results_as_they_were():
    read = Readout(_Host())
    first = read(_states(0), {"a": _states(1)}, targets=TARGETS)
    read(_states(4), {"a": _states(5)}, targets=TARGETS)
    _assert_all_at_once(_states(0), {"a": _states(1)}, first)


def test_with_no_intervention_the_clean_side_is_read_out_all_the_same():
    found = read_out(_Host(), _states(0), {}, targets=TARGETS)
    _assert_all_at_once(_states(0), {}, found)
