"""A module's hidden states are read and replaced in every form of arguments and results."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from saebench.errors import HookError
from saebench.subjects.calls import argument, by_token, result, with_argument, with_result

X = torch.arange(24.0).view(2, 3, 4)


class _Named(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return x


class _NotFirst(nn.Module):
    def forward(self, layer: int, hidden_states: Tensor) -> Tensor:  # noqa: ARG002
        return hidden_states


@pytest.mark.parametrize(
    ("module", "args", "kwargs"),
    [(_Named(), (X,), {}), (_Named(), (), {"x": X}), (_NotFirst(), (), {"hidden_states": X})],
)
def test_the_argument_is_found_by_position_and_by_name(module, args, kwargs):
    assert argument(module, args, kwargs) is X
    changed = with_argument(module, args, kwargs, -X)
    assert torch.equal(argument(module, *changed), -X)


def test_other_arguments_stay():
    args, kwargs = with_argument(_Named(), (X, "mask"), {"more": 1}, -X)
    assert args[1:] == ("mask",)
    assert kwargs == {"more": 1}


@pytest.mark.parametrize("output", [X, (X, None), [X, "weights"], (X,)])
def test_a_result_keeps_its_form(output: Any):
    changed = with_result(_Named(), output, -X)
    assert type(changed) is type(output)
    assert torch.equal(result(_Named(), changed), -X)
    if not isinstance(output, Tensor):
        assert changed[1:] == output[1:]


@pytest.mark.parametrize("output", [None, {"hidden": X}, (None, X), ()])
def test_a_result_without_hidden_states_is_an_error(output: Any):
    with pytest.raises(HookError, match="_Named returns"):
        result(_Named(), output)


def test_a_call_without_a_tensor_is_an_error():
    with pytest.raises(HookError, match="called without hidden states"):
        argument(_Named(), (None,), {})


def test_tokens_as_rows_of_a_matrix_are_written_as_rows():
    written = with_result(_Named(), X.flatten(0, 1), -X)
    assert torch.equal(written, -X.flatten(0, 1))


def test_another_number_of_components_is_an_error():
    with pytest.raises(HookError, match=r"cannot put \(2, 3, 4\) where \(2, 3, 5\) is"):
        with_result(_Named(), torch.zeros(2, 3, 5), X)


@pytest.mark.parametrize(
    "value", [X, X.flatten(0, 1), X.flatten(0, 1)[None], X.unflatten(-1, (2, 2))]
)
def test_every_layout_by_token_is_read_as_batch_position_width(value: Tensor):
    assert torch.equal(by_token(value, torch.zeros(2, 3, dtype=torch.int64), where="mlp"), X)


@pytest.mark.parametrize("value", [X.transpose(0, 1), X[:, :2], X.flatten(), X[None]])
def test_a_layout_without_one_vector_for_each_token_is_an_error(value: Tensor):
    with pytest.raises(HookError, match="mlp has no activation for each token"):
        by_token(value, torch.zeros(2, 3, dtype=torch.int64), where="mlp")
