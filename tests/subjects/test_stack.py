"""A model's blocks are the modules that it runs as blocks."""

import pytest
import torch
from families import make_host, make_model
from torch import nn

from saebench.errors import HostError
from saebench.subjects.host import Host
from saebench.subjects.stack import Block, find_stack


def _without_adapter(model: nn.Module) -> Host:
    host = Host(model, None, name="plain")
    host.__dict__["adapter"] = None
    return host


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "gemma2"])
def test_without_an_adapter_the_same_blocks_are_found(family: str):
    adapted, found = make_host(family).stack, _without_adapter(make_model(family)).stack
    assert (found.path, found.width) == (adapted.path, adapted.width)


def test_blocks_that_return_tuples_are_handed_on_as_tuples():
    block = Block("h.0", extras=(None, "state"), form=tuple, feeds_next=True)
    hidden = torch.ones(1, 2, 3)
    assert block.handing_on(hidden) == (hidden, None, "state")


def test_tensors_after_the_hidden_states_are_not_handed_on():
    block = Block("h.0", extras=(torch.ones(2),), form=tuple, feeds_next=True)
    assert block.handing_on(torch.ones(1, 2, 3))[1] is None


def test_a_block_whose_output_is_changed_on_the_way_does_not_feed_the_next():
    model = make_model("llama")
    model.model.layers[1].register_forward_pre_hook(
        lambda _, args, kwargs: ((args[0] + 1, *args[1:]), kwargs), with_kwargs=True
    )
    host = Host(model, None, name="llama")
    assert [block.feeds_next for block in host.stack.blocks] == [False, True, True]


def test_a_model_whose_blocks_run_twice_is_refused():
    model = make_model("llama")
    layers = model.model.layers
    model.model.layers = nn.ModuleList([layers[0], layers[0], layers[1]])
    host = _without_adapter(model)
    with pytest.raises(HostError, match="transformer blocks cannot be identified"):
        find_stack(host)
