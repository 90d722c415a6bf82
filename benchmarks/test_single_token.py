"""Is one token's substitution worse than random errors of the same size at that token?"""

import pytest


@pytest.mark.property(name="single_token")
@pytest.mark.parametrize("experiment", ["offsets", "draws"])
def test_single_token(measure, gate, experiment) -> None:
    """The KL of one token's substitution stays near that of ε-random ones."""
    gate(measure("single_token", experiment=experiment))
