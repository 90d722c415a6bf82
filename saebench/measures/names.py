"""Names of channels and interventions, and probes: declared without torch."""

import re
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


def promised(figure: str) -> str:
    """Name the channel of a figure that an SAE is said to have, the same at each counted token.

    Example:
        >>> promised("l0")
        'promised.l0'
    """
    return f"promised.{figure}"


def in_stratum(channel: str, group: str, index: int) -> str:
    """Name a channel's sums over one stratum of a group of strata.

    Example:
        >>> in_stratum("sae.kl", "decile", 9)
        'sae.kl#decile=9'
    """
    return f"{channel}#{group}={index}"


DENSE = "dense"
"""Channel: 1 at tokens with at least half as many active features as the activation is wide."""
EXACT = "exact"
"""Channel: 1 at tokens that the SAE reconstructs exactly, bit by bit."""
DICTIONARY = "dictionary"
"""Stored if a property's ``keeps`` names it: how much each feature is used, and where."""
RANDOM_DICTIONARY = "random_dictionary"
"""Stored likewise: the SAE's error and that of sparse coding over random directions."""
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
    "eps_random_uncentred",
    "theta_random_x",
    "theta_random_sae",
    "cov_random",
    "real_difference",
    "error_shuffled",
    "pca_matched",
    "zero",
    "mean",
)
INDEPENDENT_OF_SAE = ("zero", "mean")
AT_ERROR_RADIUS = ("eps_random", "cov_random", "real_difference", "error_shuffled")
"""Random errors as large as the SAE's error after its mean over the corpus is taken off."""

OF_THE_CORPUS = (*AT_ERROR_RADIUS, "pca_matched", "mean")
SKIP_ONLY = "skip_only"
"""A skip transcoder's linear map of its input alone, its features replaced by their mean effect.

It is measured for transcoders with a skip path, whatever names are given.
"""

CURRENT_TOKEN = "current_token"
"""The model's own prediction from the current token alone, of which ``current_token.ce`` is read.

A property asks for it among its interventions. It does not depend on the SAE.
"""

_COMPONENTS = re.compile(r"pca\[([1-9]\d*)\]")


def components(k: int) -> str:
    """Name the intervention that keeps the k largest principal components of each token.

    Example:
        >>> components(16)
        'pca[16]'
    """
    return f"pca[{k}]"


def components_of(name: str) -> int | None:
    """Return k for the name of an intervention that keeps k principal components, else None."""
    match = _COMPONENTS.fullmatch(name)
    return int(match[1]) if match else None


def is_pca(name: str) -> bool:
    """True for interventions that keep principal components of the activation."""
    return name == "pca_matched" or components_of(name) is not None


def needs_corpus(names: Iterable[str]) -> bool:
    """True if any of the interventions needs corpus statistics."""
    corpus = (*OF_THE_CORPUS, SKIP_ONLY)
    return any(name in corpus or components_of(name) is not None for name in names)


def check_names(names: Iterable[str]) -> None:
    """Refuse names that are no intervention.

    Raises:
        OptionError: naming the nearest known one.
    """
    for name in names:
        if name not in (*INTERVENTIONS, SKIP_ONLY) and components_of(name) is None:
            raise OptionError(f"unknown intervention {name!r}{nearest(name, INTERVENTIONS)}")
