"""Is the SAE more faithful than PCA with as many active components?"""

import pytest


@pytest.mark.property(name="advantage")
@pytest.mark.parametrize("k", ["matched", "curve"])
def test_advantage(measure, gate, k) -> None:
    """Its KL and its error are well below those of untrained components of the same sparsity."""
    gate(measure("advantage", k=k))
