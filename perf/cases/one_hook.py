"""Several SAEs at one place, against one evaluation for each."""

from perf.ours import our_runner
from perf.outcome import Outcome, Target
from perf.peers.lens import hooked_transformer
from perf.peers.saelens import saelens_runner
from perf.side_by_side import SideBySide, here
from perf.workload import MODEL, Workload, as_subject, as_token_set

ONE_BY_ONE = "SAELens run_evals, one by one"


def run(workload: Workload) -> Outcome:
    """Measure the SAEs; the ratio of the whole is the ratio for each SAE."""
    size, ids = workload.size, workload.ids
    count = size.saes_at_one_hook
    saes = {f"s{i}": workload.random_sae(size.hook_layer, seed=1 + i) for i in range(count)}
    subjects = [as_subject(sae, id=name) for name, sae in saes.items()]
    peer = saelens_runner(
        hooked_transformer(workload.directory / MODEL, device=workload.device), ids, saes,
        batch=size.batch, bos=workload.bos,
    )  # fmt: skip
    case = SideBySide(
        case="one_hook",
        title=f"{count} SAEs at {size.hook}; {size.sequences} × {size.context} tokens",
        ours=our_runner(
            workload.host, as_token_set(ids), subjects, batch=workload.settings.our_batch
        ),
        peers={ONE_BY_ONE: here(peer)},
        # Zero ablation depends neither on the SAE nor on the sequence: one for all of them.
        counted=workload.products(
            resumed_from=(size.hook_layer,) * count, resumed_once=(size.hook_layer,), saes=count
        ),
        targets={ONE_BY_ONE: Target(at_least=7)},
    )
    return case.run(workload.settings)
