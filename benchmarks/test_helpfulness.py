"""Are there features that help, or harm, the model's answers?"""

import pytest


@pytest.mark.property(name="helpfulness")
def test_helpfulness(measure, gate) -> None:
    """Each feature is tested over its prompts; what is significant after correction is reported."""
    gate(measure("helpfulness"))
