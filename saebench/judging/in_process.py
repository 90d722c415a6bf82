"""Judging in this process: announce the cases, measure and decide each, return the run."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from saebench.judging.cases import Given, Requests
from saebench.judging.judge import Judge
from saebench.progress import ProgressBar
from saebench.records.case import CaseRequest
from saebench.records.run import Run

if TYPE_CHECKING:
    from saebench.experiments.bench import Bench
    from saebench.scale.sharded import Sharing


def requests_of(benches: "Iterable[Bench]") -> Requests:
    """Return what makes the requests for cases of the benches' SAEs.

    Its ``every(property_names)`` gives all cases of the properties; its ``request(sae, property,
    params)`` one of them.
    """
    return Requests(
        [
            Given(subject.id, str(id(bench.host)), subject.metadata.hook)
            for bench in benches
            for subject in bench.subjects
        ]
    )


def judge_in_process(
    judge: Judge,
    benches: "Sequence[Bench]",
    requests: Iterable[CaseRequest],
    *,
    progress: ProgressBar,
    sharing: "Sharing | None" = None,
    possible: Iterable[CaseRequest] = (),
) -> Run:
    """Judge the requested cases of the benches' SAEs.

    Args:
        judge: a new one; afterwards its ``measured()`` gives the per-sequence sums.
        benches: the SAEs with their models and tokens.
        requests: the cases.
        progress: makes a progress bar.
        possible: every case that there could be, where what is left out makes the run INCOMPLETE.
        sharing: measures in shards; where None, everything is measured at once.

    Raises:
        OptionError: for a case that does not exist, or a rule that no case can decide.
    """
    judge.adopt(benches, runner=sharing)
    judge.consider(possible)
    judge.announce(requests)
    judge.check_rules_are_asked()
    for request in judge.requests:
        case = judge.case(request, progress=progress)
        if sharing is not None:
            sharing.note(case, judge.reads(request), failed=judge.fails(case))
    return judge.run(complete=True)
