"""The core batch: clean, SAE and zero ablation; KL and cross-entropy."""

from contextlib import AbstractContextManager

from perf.figures import Figures, Runner
from perf.ours import our_runner
from perf.outcome import FLOOR, Outcome, Target
from perf.peers.full_passes import HuggingFacePasses
from perf.peers.lens import bridge, hooked_transformer
from perf.peers.plain import plain_runner
from perf.peers.sae_bench import sae_bench_runner
from perf.peers.saelens import saelens_runner
from perf.side_by_side import SideBySide, here
from perf.workload import MODEL, Workload, as_subject, as_token_set

SAELENS = "SAELens run_evals"
ON_BRIDGE = "SAELens run_evals on TransformerBridge"
SAE_BENCH = "sae_bench core"


def run(workload: Workload) -> Outcome:
    """Measure our core against SAELens', on both of its models, and sae_bench's."""
    size, ids = workload.size, workload.ids
    subject = as_subject(workload.sae, id="sae")
    left_out = {} if workload.settings.sae_bench else {SAE_BENCH: "left out: --no-sae-bench"}
    case = SideBySide(
        case="core",
        title=f"core batch: clean, SAE, zero; {size.sequences} × {size.context} tokens",
        ours=our_runner(
            workload.host, as_token_set(ids), [subject], batch=workload.settings.our_batch
        ),
        peers=_peers(workload),
        counted=workload.products(resumed_from=(size.hook_layer,), resumed_once=(size.hook_layer,)),
        targets={
            FLOOR: Target(at_most=1.25),
            SAELENS: Target(at_least=2.2),
            ON_BRIDGE: Target(at_least=2.2),
            SAE_BENCH: Target(at_least=2.2),
        },
        aligned=_zero_everywhere(workload),
        left_out=left_out,
    )
    return case.run(workload.settings)


def _peers(workload: Workload) -> dict[str, AbstractContextManager[Runner]]:
    size, ids, saes = workload.size, workload.ids, {"sae": workload.sae}
    model = workload.directory / MODEL
    threads = workload.settings.threads
    peers = {
        SAELENS: here(
            saelens_runner(
                hooked_transformer(model, device=workload.device),
                ids,
                saes,
                batch=size.batch,
                bos=workload.bos,
            )
        ),
        ON_BRIDGE: here(
            saelens_runner(
                bridge(model, device=workload.device), ids, saes, batch=size.batch, bos=workload.bos
            )
        ),
    }
    if workload.settings.sae_bench:
        peers[SAE_BENCH] = sae_bench_runner(workload.directory, threads=threads, batch=size.batch)
    return peers


def _zero_everywhere(workload: Workload) -> Figures:
    """Return the peers' zero ablation, position 0 included, by plain passes."""
    size = workload.size
    model = HuggingFacePasses(workload.host.model, size.hook_layer)
    plain = plain_runner(
        model, workload.ids, workload.sae, ["zero"], batch=size.batch, everywhere=True
    )
    pooled = plain().pooled
    return Figures({f"{kind}.zero_everywhere": pooled[f"{kind}.zero"] for kind in ("kl", "ce")})
