"""A step of frozen training, against the plain forward and backward pass that it needs."""

from perf.figures import Figures, Runner
from perf.flops import Product, block_products
from perf.outcome import Outcome, Target
from perf.peers.plain_training import plain_step_runner
from perf.side_by_side import SideBySide, here
from perf.workload import Workload
from saebench.fit import Plan
from saebench.fit.loop import optimiser_of, take_step
from saebench.fit.training import CLIP, Loss, Objective, Sparsity
from saebench.fit.training.sublayers import ResumedPasses
from saebench.fit.training.tasks import Weights, WholeModelTask
from saebench.fit.training.training_sae import begin_from, make_sae
from saebench.subjects.hooks import find_site

ALONE, WITH_SAE = "plain pass, model alone", "plain pass, SAE too"
# Theirs over ours: a step costs 1.3 times the plain pass at most.
TARGETS = {ALONE: Target(at_least=0.77)}


def run(workload: Workload) -> Outcome:
    """Measure one step, its optimiser included."""
    size, ids = workload.size, workload.ids_there[: workload.size.batch]
    peers = {
        name: here(
            plain_step_runner(workload.host.model, workload.sae, ids, size.hook_layer, with_sae=sae)
        )
        for name, sae in ((ALONE, False), (WITH_SAE, True))
    }
    case = SideBySide(
        case="train",
        title=f"a step on the whole model's KL, {len(ids)} × {size.context} tokens",
        ours=_our_step(workload),
        peers=peers,
        counted=_products(workload),
        targets=TARGETS,
    )
    return case.run(workload.settings)


def _our_step(workload: Workload) -> Runner:
    size, host = workload.size, workload.host
    ids = workload.ids_there[: size.batch]
    sae = make_sae(
        d_in=size.d_model, d_sae=size.d_sae, sparsity=Sparsity("l1", 0.0), metadata={}, seed=0
    )
    begin_from(sae, workload.sae, where="the SAE")
    sae = sae.to(host.device)
    passes = ResumedPasses(host, find_site(host, size.hook))
    task = WholeModelTask(
        sae, passes, objective=Objective.FROZEN, loss=Loss.KL, validation=ids[:1],
        weights=Weights(),
    )  # fmt: skip
    # A rate of zero: each step does the same, and its loss can be compared with the peers'.
    plan = Plan(tokens=ids.numel(), learning_rate=0.0, clip=CLIP)
    optimiser = optimiser_of(task.module, plan)

    def run() -> Figures:
        loss = task.loss(ids)
        take_step(loss, optimiser, clip=plan.clip)
        task.stepped()
        return Figures({"kl.sae": loss.item()})

    return run


def _products(workload: Workload) -> tuple[Product, ...]:
    """Count the clean pass, the resumed one and its way back, the SAE's, and three unembeddings.

    The way back through a frozen product is one more of its size; through the SAE's it is two.
    """
    size, shape = workload.size, workload.shape
    sequences, context = workload.ids[: size.batch].shape
    tokens, later = sequences * context, size.layers - size.hook_layer
    return (
        *block_products(shape, sequences=sequences, context=context, times=size.layers + 2 * later),
        Product("sae", tokens, size.d_model, size.d_sae, 6),
        Product("unembedding", tokens, size.d_model, size.vocab, 3),
    )
