"""The training loop: steps, checks, checkpoints; it ends at a loss that is not finite."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from saebench.errors import NonFiniteValue
from saebench.fit import Plan, Rate, has_converged, rate_at
from saebench.fit.saving import Checkpoint
from saebench.fit.stream import Place

BETAS = (0.9, 0.999)
FUSED = {"cpu", "cuda"}  # where torch's AdamW has a kernel for it


class Task(Protocol):
    """A module with a loss to minimise."""

    @property
    def module(self) -> nn.Module:
        """What a checkpoint stores; its parameters that require a gradient are fitted."""
        ...

    def loss(self, batch: Tensor) -> Tensor:
        """Return the loss of a batch, which a step minimises."""
        ...

    def check(self) -> float:
        """Return the loss on the validation data, by which convergence is decided."""
        ...


class Stream(Protocol):
    """The data that a fit takes its batches from."""

    def batches(self, start: Place = ...) -> Iterator[tuple[Tensor, Place]]:
        """Give batches from a position on, each with the position after it."""
        ...


@dataclass(frozen=True)
class Check:
    """The losses at one check.

    Attributes:
        tokens: done by then.
        loss: mean of the steps since the last check; None before the first step.
        check: the task's loss on its validation data.
    """

    tokens: int
    loss: float | None
    check: float


@dataclass
class State:
    """The progress of a fit; the field names are those of the checkpoint file.

    Attributes:
        tokens: done so far.
        end: the number of tokens at which the fit ends.
        converged: the validation loss no longer improves.
        place: the next batch.
        checks: every check, the first before any step.
        since: the steps' losses since the last check.
        rates: the learning rates that were set, in order.
    """

    tokens: int = 0
    end: int = 0
    converged: bool = False
    place: Place = field(default_factory=Place)
    checks: list[Check] = field(default_factory=list)
    since: list[float] = field(default_factory=list)
    rates: list[Rate] = field(default_factory=list)


def fit(
    task: Task,
    stream: Stream,
    plan: Plan,
    *,
    checkpoint: Checkpoint | None = None,
    resume: bool = False,
    progress: Callable[[int], object] = lambda _: None,
    size: Callable[[Tensor], int] = len,
    after_step: Callable[[], object] = lambda: None,
    on_check: Callable[[Check], object] = lambda _: None,
) -> State:
    """Fit a task's parameters by Adam, until they converge or the tokens are used up.

    A resumed fit ends with the same bits as one that was not interrupted. It may go on with another
    learning rate, which the state's ``rates`` then lists.

    Args:
        task: the module and its loss; fitted in place.
        stream: the data.
        plan: how long, and how fast.
        checkpoint: where the state is written at each check; nowhere where None.
        resume: go on from the checkpoint.
        progress: called with the number of tokens just finished.
        size: how many tokens a batch has.
        after_step: called after each step of the optimiser.
        on_check: called with each check.

    Raises:
        NonFiniteValue: where the check is far above where it began, or a loss or a parameter is
            NaN or infinite; the checkpoint is the last state in which all were finite.
    """
    optimiser = optimiser_of(task.module, plan)
    state = State(end=plan.tokens)
    if resume and checkpoint is not None:
        state = _restored(checkpoint.read(), task, optimiser)
        progress(state.tokens)
    else:
        _check(task, state, plan)
    if not state.rates or state.rates[-1].rate != plan.learning_rate:
        state.rates.append(Rate(state.tokens, plan.learning_rate))
    due = state.tokens + plan.check_tokens
    batches = stream.batches(state.place)
    while state.tokens < state.end:
        batch, place = next(batches)
        _step(task, optimiser, batch, state, plan)
        after_step()
        state.tokens += size(batch)
        state.place = place
        progress(size(batch))
        if state.tokens >= due or state.tokens >= state.end:
            _check(task, state, plan)
            on_check(state.checks[-1])
            due = state.tokens + plan.check_tokens
            if checkpoint is not None:
                checkpoint.write(_state_dict(state, task, optimiser))
    return state


def optimiser_of(module: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    """Return AdamW for the parameters that require a gradient; one fused kernel does a step."""
    fitted = [p for p in module.parameters() if p.requires_grad]
    fused = all(p.device.type in FUSED for p in fitted)
    return torch.optim.AdamW(
        fitted, lr=plan.learning_rate, betas=BETAS, weight_decay=plan.weight_decay, fused=fused
    )


def take_step(loss: Tensor, optimiser: torch.optim.Optimizer, *, clip: float | None) -> None:
    """Backpropagate and step the optimiser.

    Args:
        loss: of one batch.
        optimiser: of the parameters.
        clip: the largest norm of all gradients together; None does not clip.
    """
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    if clip is not None:
        nn.utils.clip_grad_norm_([p for g in optimiser.param_groups for p in g["params"]], clip)
    optimiser.step()


def _step(
    task: Task, optimiser: torch.optim.Optimizer, batch: Tensor, state: State, plan: Plan
) -> None:
    decay = int(plan.decay_share * plan.tokens)
    for group in optimiser.param_groups:
        group["lr"] = rate_at(
            state.tokens, rate=plan.learning_rate, end=state.end, decay_tokens=decay,
            warm_up_tokens=plan.warm_up_tokens,
        )  # fmt: skip
    loss = task.loss(batch)
    value = loss.item()
    _refuse_non_finite(value, "the loss", state)
    take_step(loss, optimiser, clip=plan.clip)
    state.since.append(value)


def _check(task: Task, state: State, plan: Plan) -> None:
    """Take the validation loss; where the fit has converged, begin the learning rate's decay."""
    for name, parameter in task.module.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            _refuse_non_finite(math.nan, f"parameter {name}", state)
    loss = task.check()
    _refuse_non_finite(loss, "the loss on the validation data", state)
    _refuse_divergence(loss, state, plan)
    mean = sum(state.since) / len(state.since) if state.since else None
    state.checks.append(Check(state.tokens, mean, loss))
    state.since.clear()
    losses = [check.check for check in state.checks]
    if not state.converged and plan.tolerance > 0:
        state.converged = has_converged(losses, patience=plan.patience, tolerance=plan.tolerance)
        if state.converged:
            state.end = min(state.end, state.tokens + int(plan.decay_share * plan.tokens))


def _refuse_divergence(loss: float, state: State, plan: Plan) -> None:
    """Refuse a validation loss that is finite, but far above where the fit began."""
    if not state.checks or math.isinf(plan.diverges_from):
        return
    most = 10 * max(state.checks[0].check, plan.diverges_from)
    if loss > most:
        raise NonFiniteValue(
            f"the loss diverges: {loss:.3g} after {state.tokens:,} tokens, "
            f"{state.checks[0].check:.3g} at first; the fit was stopped there: try a smaller "
            "--learning-rate"
        )


def _refuse_non_finite(value: float, what: str, state: State) -> None:
    if not math.isfinite(value):
        raise NonFiniteValue(
            f"{what} is NaN or infinite after {state.tokens:,} tokens; the fit was stopped there: "
            "give a smaller --learning-rate, with --resume where there is a checkpoint"
        )


def _state_dict(state: State, task: Task, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    return {
        "module": task.module.state_dict(),
        "optimiser": optimiser.state_dict(),
        "state": asdict(state),
    }


def _restored(stored: dict[str, Any], task: Task, optimiser: torch.optim.Optimizer) -> State:
    task.module.load_state_dict(stored["module"])
    optimiser.load_state_dict(stored["optimiser"])
    values = dict(stored["state"])
    values["place"] = Place(**values["place"])
    values["checks"] = [Check(**check) for check in values["checks"]]
    values["rates"] = [Rate(**rate) for rate in values["rates"]]
    return State(**values)
