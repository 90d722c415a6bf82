"""The cases, one module each; the first is the core batch."""

from collections.abc import Callable

from perf.cases import context, core, interventions, memory, one_hook, single_token, sweep, train
from perf.outcome import Outcome
from perf.workload import Workload

CASES: dict[str, Callable[[Workload], Outcome]] = {
    "core": core.run,
    "interventions": interventions.run,
    "context": context.run,
    "sweep": sweep.run,
    "one_hook": one_hook.run,
    "single_token": single_token.run,
    "train": train.run,
    "memory": memory.run,
}
