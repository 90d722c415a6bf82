"""Which bench a case is measured on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from saebench.errors import NotApplicable
from saebench.judging.cases import CaseRequest

if TYPE_CHECKING:
    from saebench.judging.bench import Bench


def bench_of(benches: "Sequence[Bench]", request: CaseRequest) -> "Bench":
    """Return the bench of the case's SAEs.

    Raises:
        NotApplicable: where a pair's SAEs are not measured on the same tokens.
    """
    for bench in benches:
        if bench.has(request.subjects):
            return bench
    where = [next(b for b in benches if b.has([sae])) for sae in request.subjects]
    told = " and ".join(
        f"{sae} on {bench.about}" for sae, bench in zip(request.subjects, where, strict=True)
    )
    raise NotApplicable(
        f"{request.property_name}: the two are not measured on the same tokens: {told}; "
        "--sae-context N, --sae-prepend-bos and --sae-model make them so"
    )
