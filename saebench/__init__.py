"""Decide whether a sparse autoencoder of a language model is faithful enough to release."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saebench.judging.api import JudgedRun, judge

__version__ = "0.1.0"
__all__ = ["JudgedRun", "__version__", "judge"]


def __getattr__(name: str) -> Any:
    """Import the judge on first use: the pytest plugin loads in runs that never need it."""
    if name in ("judge", "JudgedRun"):
        from saebench.telemetry import switch_telemetry_off

        switch_telemetry_off()
        from saebench.judging import api

        return getattr(api, name)
    raise AttributeError(f"module 'saebench' has no attribute {name!r}")
