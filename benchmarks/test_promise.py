"""Does the SAE have the sparsity and explained variance that it is said to have?"""

import pytest


@pytest.mark.property(name="promise")
@pytest.mark.parametrize("of", ["l0", "explained_variance"])
def test_promise(measure, gate, of) -> None:
    """What is measured stays near what the SAE's files or its release state."""
    gate(measure("promise", of=of))
