"""If the model was changed for its SAE: what does that cost?"""

import pytest


@pytest.mark.property(name="tax")
def test_tax(measure, gate) -> None:
    """Without the SAE, the patched model predicts what the original does."""
    gate(measure("tax"))
