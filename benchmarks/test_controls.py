"""Can the gate tell the SAE from untrained, permuted and scaled ones?"""

import pytest


@pytest.mark.property(name="controls")
def test_controls(measure, gate) -> None:
    """The identity passes, and the SAE is compared with the controls made from it."""
    gate(measure("controls"))
