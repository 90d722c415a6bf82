"""What a case needs: its parameters, what it is measured on, and which interventions."""

from typing import Any

from saebench.judging.cases import CaseRequest
from saebench.properties import find_property
from saebench.properties.base import Source
from saebench.settings import Settings


class Needs:
    """Says what cases need in a run.

    Args:
        settings: the run's.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def params(self, request: CaseRequest) -> dict[str, Any]:
        """Return a case's parameters, the run's chosen interventions among them."""
        chosen = self.settings.interventions
        return dict(request.params) | ({"interventions": chosen} if chosen else {})

    def source(self, request: CaseRequest) -> Source:
        """Return what a case is measured on."""
        declared = find_property(request.property_name)
        return declared.measured_on(self.params(request), self.settings)

    def interventions(self, request: CaseRequest) -> tuple[str, ...]:
        """Return the interventions that a case's own metrics need.

        Raises:
            OptionError: for parameters that the property does not take.
        """
        declared = find_property(request.property_name)
        return tuple(declared.interventions(self.params(request)))
