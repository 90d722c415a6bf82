"""Names of channels and interventions, and probes: declared without torch."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from saebench.errors import OptionError, nearest


def in_bin(channel: str, index: int) -> str:
    """Name a channel's sums over one bin of positions.

    Example:
        >>> in_bin("sae.kl", 2)
        'sae.kl@2'
    """
    return f"{channel}@{index}"


def in_stratum(channel: str, group: str, index: int) -> str:
    """Name a channel's sums over one stratum of a group of strata.

    Example:
        >>> in_stratum("sae.kl", "decile", 9)
        'sae.kl#decile=9'
    """
    return f"{channel}#{group}={index}"


DICTIONARY = "dictionary"
"""Stored if a property's ``keeps`` names it: how much each feature is used, and where."""
STRATA = "strata"
"""Stored if a property's ``keeps`` names it: the SAE's KL by kinds of tokens."""

READ_OUT = ("kl", "ce", "tv", "agrees", "exceeded")
"""What is read out of every intervention: channels such as ``sae.kl``."""


@dataclass(frozen=True)
class Probe:
    """A channel that a property asks for: one value for each counted token of a pass.

    Attributes:
        name: the channel is ``INTERVENTION.NAME``, ``sae.cosine_of_final`` for example.
        function: a function of a module, or its name as ``module:function``, by which worker
            processes find it too. It is a pure function of ``x`` and ``x_hat``,
            ``Float[Tensor, "tokens d"]``, and of the model's final hidden states without and with
            the intervention, ``Float[Tensor, "tokens d_model"]``; it returns
            ``Float[Tensor, "tokens"]``.
        intervention: whose final hidden states it is given.

    Raises:
        ValueError: where the channel is one that is read out anyway.

    Example:
        >>> Probe("final_shift", "my_package.probes:final_shift").channel
        'sae.final_shift'
    """

    name: str
    function: str | Callable[..., Any]
    intervention: str = "sae"

    def __post_init__(self) -> None:
        """Refuse names of channels that there are, and name the function."""
        if callable(self.function):
            named = f"{self.function.__module__}:{self.function.__qualname__}"
            object.__setattr__(self, "function", named)
        if self.name in READ_OUT:
            raise ValueError(
                f"probe {self.name!r}: {self.channel} is read out of every pass; use it"
            )

    @property
    def channel(self) -> str:
        """The name of its sums."""
        return f"{self.intervention}.{self.name}"

    def load(self) -> Callable[..., Any]:
        """Return the function.

        Raises:
            OptionError: where there is no such function.
        """
        module, _, name = str(self.function).partition(":")
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise OptionError(f"probe {self.name!r}: {self.function}: {error}") from error


INTERVENTIONS = (
    "sae",
    "norm_corrected",
    "sae_norm",
    "eps_random",
    "theta_random_x",
    "theta_random_sae",
    "cov_random",
    "real_difference",
    "error_shuffled",
    "zero",
    "mean",
)
INDEPENDENT_OF_SAE = ("zero", "mean")
OF_THE_CORPUS = ("cov_random", "real_difference", "error_shuffled", "mean")


def check_names(names: Iterable[str]) -> None:
    """Refuse names that are no intervention.

    Raises:
        OptionError: naming the nearest known one.
    """
    for name in names:
        if name not in INTERVENTIONS:
            raise OptionError(f"unknown intervention {name!r}{nearest(name, INTERVENTIONS)}")
