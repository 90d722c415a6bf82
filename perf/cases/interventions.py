"""All thirteen interventions of docs/metrics.md, against one full pass for each."""

from contextlib import AbstractContextManager

from perf.figures import Runner
from perf.ours import our_runner
from perf.outcome import Outcome, Target
from perf.peers.full_passes import FullPasses, HookedPasses, HuggingFacePasses
from perf.peers.lens import hooked_transformer
from perf.peers.plain import NOISY, RULES, plain_runner
from perf.side_by_side import SideBySide, here
from perf.workload import MODEL, Workload, as_subject, as_token_set
from saebench.measures.names import INDEPENDENT_OF_SAE

ON_LENS = "full passes of HookedTransformer"
ON_HUGGING_FACE = "full passes of Hugging Face's model"


def run(workload: Workload) -> Outcome:
    """Measure every intervention, by us and the plain way."""
    size, names = workload.size, tuple(RULES)
    tokens, subject = as_token_set(workload.ids), as_subject(workload.sae, id="sae")
    case = SideBySide(
        case="interventions",
        title=f"{len(names)} interventions; {size.sequences} × {size.context} tokens",
        ours=our_runner(workload.host, tokens, [subject], names, batch=workload.settings.our_batch),
        peers=_peers(workload),
        counted=workload.products(
            resumed_from=(size.hook_layer,) * (len(names) - len(INDEPENDENT_OF_SAE)),
            resumed_once=(size.hook_layer,) * len(INDEPENDENT_OF_SAE),
        ),
        targets={ON_LENS: Target(at_least=4), ON_HUGGING_FACE: Target(at_least=4)},
        noisy=NOISY,
    )
    return case.run(workload.settings)


def _peers(workload: Workload) -> dict[str, AbstractContextManager[Runner]]:
    size = workload.size
    hooked = hooked_transformer(workload.directory / MODEL, device=workload.device)
    models: dict[str, FullPasses] = {
        ON_LENS: HookedPasses(hooked, size.hook_layer),
        ON_HUGGING_FACE: HuggingFacePasses(workload.host.model, size.hook_layer),
    }
    return {
        name: here(plain_runner(model, workload.ids, workload.sae, tuple(RULES), batch=size.batch))
        for name, model in models.items()
    }
