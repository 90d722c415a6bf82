"""Do the SAE's reconstructions explain the activations?"""

import pytest


@pytest.mark.property(name="unexplained")
def test_unexplained(measure, gate) -> None:
    """Little variance is left."""
    gate(measure("unexplained"))
