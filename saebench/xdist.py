"""Scheduling for pytest-xdist: all cases of one SAE go to one process."""

from collections.abc import Mapping
from typing import Any

from xdist.scheduler import LoadScopeScheduling


def share_of(nodeid: str, shares: Mapping[str, int]) -> int | None:
    """Return the share of the SAE that a test's id names; None for a test of no SAE.

    The id ends with the parameters, joined by hyphens. An SAE's name may have hyphens too, so the
    longest name that fits is the SAE's.

    Example:
        >>> share_of("test_kl_gap.py::test_kl_gap[l2-topk-all]", {"l2": 0, "l2-topk": 1})
        1
    """
    parameters = nodeid.partition("[")[2].rpartition("]")[0]
    fitting = [id for id in shares if f"-{id}-" in f"-{parameters}-"]
    return shares[max(fitting, key=len)] if fitting else None


class BySae(LoadScopeScheduling):
    """Sends each process the cases of its share of the SAEs, and other tests one by one.

    ``--dist loadgroup`` would do the same, but xdist 3.8 appends its groups to ``item._nodeid``,
    which pytest 9.2 no longer reads: there they have no effect.

    Args:
        shares: the share of each SAE, by id.
    """

    def __init__(self, config: Any, log: Any, shares: Mapping[str, int]) -> None:
        super().__init__(config, log)
        self._shares = dict(shares)

    def _split_scope(self, nodeid: str) -> str:
        share = share_of(nodeid, self._shares)
        return nodeid if share is None else f"share {share}"
