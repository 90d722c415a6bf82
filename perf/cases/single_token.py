"""Many random errors at one token, against one full pass for each."""

from perf.figures import Figures, Runner
from perf.flops import Product, block_products
from perf.outcome import Outcome, Target
from perf.peers.full_passes import HuggingFacePasses
from perf.peers.plain_draws import plain_draws_runner
from perf.side_by_side import SideBySide, here
from perf.workload import Workload, as_subject, as_token_set
from saebench.errors import MeasurementError
from saebench.experiments.draws import DrawsEngine
from saebench.experiments.windows import Places
from saebench.substitution.engine import Engine

PLAIN = "plain full passes"


def run(workload: Workload) -> Outcome:
    """Measure the draws at one token of one sequence."""
    size = workload.size
    model = HuggingFacePasses(workload.host.model, size.hook_layer)
    plain = plain_draws_runner(
        model, workload.ids_there[0], workload.sae,
        position=size.drawn_position, draws=size.draws, batch=size.batch,
    )  # fmt: skip
    case = SideBySide(
        case="single_token",
        title=f"{size.draws} draws at token {size.drawn_position} of 1 × {size.context} tokens",
        ours=_our_draws(workload),
        peers={PLAIN: here(plain)},
        counted=_products(workload),
        targets={PLAIN: Target(at_least=15)},
        noisy=frozenset({"eps_random"}),
    )
    return case.run(workload.settings)


def _our_draws(workload: Workload) -> Runner:
    size, tokens = workload.size, as_token_set(workload.ids[:1])
    subject = as_subject(workload.sae, id="sae")

    def run() -> Figures:
        places = Places(Engine(workload.host, tokens, seed=0))
        found = DrawsEngine(places).measure(
            [subject], position=size.drawn_position, draws=size.draws, sequences=1,
            progress=lambda _: None,
        )["sae"]  # fmt: skip
        if isinstance(found, MeasurementError):
            raise found
        found.need()
        [sae], [draws] = found.sae, found.draws
        return Figures(
            {"kl.sae": float(sae), "kl.eps_random": float(draws.mean())},
            {"kl.eps_random": tuple(draws.tolist())},
        )

    return run


def _products(workload: Workload) -> tuple[Product, ...]:
    """Count the clean prefix, and one token for the SAE and every draw.

    The draws' scores with the prefix's keys are left out: they are few.
    """
    size, shape = workload.size, workload.shape
    jobs, prefix = size.draws + 1, size.drawn_position + 1
    later = size.layers - size.hook_layer
    return (
        *block_products(shape, sequences=1, context=prefix, times=size.layers),
        *block_products(shape, sequences=jobs, context=1, times=later),
        Product("sae encode", 1, size.d_model, size.d_sae, 1),
        Product("unembedding", jobs + 1, size.d_model, size.vocab, 1),
    )
