"""What if the SAE's output replaced position 0 and special tokens too?"""

import pytest


@pytest.mark.property(name="special_tokens")
def test_special_tokens(measure, gate) -> None:
    """The KL of substituting everywhere, and activations of extreme size, are reported."""
    gate(measure("special_tokens"))
