"""What does an earlier SAE's error do to a later SAE?"""

import pytest


@pytest.mark.property(name="propagation")
def test_propagation(measure, gate) -> None:
    """How a later SAE's error changes, and how the errors of both compound, is reported."""
    gate(measure("propagation"))
