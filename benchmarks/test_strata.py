"""Is the SAE as faithful at every kind of token as on average?"""

import pytest


@pytest.mark.property(name="strata")
def test_strata(measure, gate) -> None:
    """No frequency, type, position or single token bears most of the damage."""
    gate(measure("strata"))
