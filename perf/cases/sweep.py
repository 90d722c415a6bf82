"""A sweep over the layers: one SAE at every block's input, against one evaluation for each."""

from perf.ours import our_runner
from perf.outcome import Outcome, Target
from perf.peers.lens import hooked_transformer
from perf.peers.saelens import saelens_runner
from perf.side_by_side import SideBySide, here
from perf.workload import MODEL, Workload, as_subject, as_token_set

ONE_BY_ONE = "SAELens run_evals, one by one"


def run(workload: Workload) -> Outcome:
    """Measure the SAEs of all layers."""
    size, ids = workload.size, workload.ids
    layers = range(size.layers)
    saes = {f"l{i}": workload.random_sae(i, seed=1 + i) for i in layers}
    subjects = [as_subject(sae, id=name) for name, sae in saes.items()]
    peer = saelens_runner(
        hooked_transformer(workload.directory / MODEL, device=workload.device), ids, saes,
        batch=size.batch, bos=workload.bos,
    )  # fmt: skip
    case = SideBySide(
        case="sweep",
        title=f"SAEs of {size.layers} layers; {size.sequences} × {size.context} tokens",
        ours=our_runner(
            workload.host, as_token_set(ids), subjects, batch=workload.settings.our_batch
        ),
        peers={ONE_BY_ONE: here(peer)},
        counted=workload.products(
            resumed_from=tuple(layers), resumed_once=tuple(layers), saes=len(layers)
        ),
        targets={ONE_BY_ONE: Target(at_least=4)},
    )
    return case.run(workload.settings)
