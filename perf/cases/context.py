"""The core batch on long sequences, against SAELens on TransformerBridge."""

from perf.ours import our_runner
from perf.outcome import Outcome, Target
from perf.peers.lens import bridge
from perf.peers.saelens import saelens_runner
from perf.side_by_side import SideBySide, here
from perf.workload import MODEL, Workload, as_subject, as_token_set, random_ids

ON_BRIDGE = "SAELens run_evals on TransformerBridge"


def run(workload: Workload) -> Outcome:
    """Measure the core at the long context."""
    size = workload.size
    sequences, context = size.long_sequences, size.long_context
    ids = random_ids(size, sequences, context, seed=workload.settings.seed)
    peer = saelens_runner(
        bridge(workload.directory / MODEL, device=workload.device), ids, {"sae": workload.sae},
        batch=sequences, bos=workload.bos,
    )  # fmt: skip
    subject = as_subject(workload.sae, id="sae")
    case = SideBySide(
        case="context",
        title=f"core batch at context {context}; {sequences} × {context} tokens",
        ours=our_runner(workload.host, as_token_set(ids), [subject], batch=_our_batch(workload)),
        peers={ON_BRIDGE: here(peer)},
        counted=workload.products(
            resumed_from=(size.hook_layer,), resumed_once=(size.hook_layer,), ids=ids
        ),
        targets={ON_BRIDGE: Target(at_least=2)},
    )
    return case.run(workload.settings)


def _our_batch(workload: Workload) -> int | None:
    """Take all sequences at once on a CPU, and what fits on a GPU."""
    return workload.size.long_sequences if workload.device == "cpu" else None
