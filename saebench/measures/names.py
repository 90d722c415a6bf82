"""Names of channels, for those who must not import torch."""

from collections.abc import Iterable

from saebench.errors import OptionError, nearest


def in_bin(channel: str, index: int) -> str:
    """Name a channel's sums over one bin of positions.

    Example:
        >>> in_bin("sae.kl", 2)
        'sae.kl@2'
    """
    return f"{channel}@{index}"


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
