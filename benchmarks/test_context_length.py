"""Does the SAE still work beyond its training context?"""

import pytest


@pytest.mark.property(name="context_length")
def test_context_length(measure, gate) -> None:
    """The cross-entropy that the SAE costs does not grow beyond its training context."""
    gate(measure("context_length"))
