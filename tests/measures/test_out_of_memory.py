"""Whether an error says that memory ran out."""

import pytest
import torch

from saebench.measures.resources import is_out_of_memory


def test_the_cpu_allocators_refusal_is_out_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.int8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
