"""Does the SAE work on the whole context that it claims, and beyond it?"""

import pytest


@pytest.mark.property(name="context_length")
@pytest.mark.parametrize("reach", ["claimed", "beyond"])
def test_context_length(measure, gate, reach) -> None:
    """No part of the claimed context is broken, and beyond it the cross-entropy does not grow."""
    gate(measure("context_length", reach=reach))
