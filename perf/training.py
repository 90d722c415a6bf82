"""`python -m perf.training`: a step of frozen training on a real model, at several places.

Against the plain passes that it needs: the clean one, the one resumed with a given output of the
SAE, whole logits, back by autograd to that output. By turns, each place on its own.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from perf.figures import Figures, Runner
from perf.timing import CLOCKS, by_turns
from saebench.fit.stream import counted_of
from saebench.fit.training import RANDOM, Objective, Sparsity, TrainJob
from saebench.fit.training.sublayers import ResumedPasses
from saebench.fit.training.training_inputs import host_of
from saebench.fit.training.training_run import stepping
from saebench.subjects.hooks import find_site

HERE = Path(__file__).resolve().parent
STEP, PLAIN = "a frozen step", "plain passes"
AT_MOST = 1.3


@dataclass(frozen=True)
class Measured:
    """One place: seconds of each call, the least of its repeats."""

    hook: str
    step: float
    plain: float
    tokens: int

    @property
    def ratio(self) -> float:
        """How many times the plain passes a step takes."""
        return self.step / self.plain


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write JSON."""
    options = _options(argv)
    torch.set_num_threads(options.threads)
    found = [_measured(options, hook) for hook in options.hook]
    Console().print(_table(found))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m perf.training")
    add = parser.add_argument
    add("--model", required=True, help="the host model's directory")
    add("--dataset", required=True, help="the texts")
    add("--hook", nargs="+", required=True, help="the places")
    add("--sparsity", default="topk:8", help="of the SAE, of 8 features a component")
    add("--context", type=int, default=128, help="tokens in a row")
    add("--rows", type=int, default=16, help="in a step")
    add("--repeats", type=int, default=20, help="timed calls of each, after a warm-up")
    add("--threads", type=int, default=1, help="of the matrix products")
    add("--clock", choices=CLOCKS, default="wall", help="cpu: processor time, on a busy machine")
    add("-o", "--output", type=Path, default=HERE / "results" / "training.json")
    return parser.parse_args(argv)


def _measured(options: argparse.Namespace, hook: str) -> Measured:
    job = TrainJob(
        Objective.FROZEN, hook, Path("unused"), Sparsity.parse(options.sparsity),
        model=options.model, dataset=options.dataset, context=options.context,
        batch_rows=options.rows, tokens=options.rows * options.context, init=RANDOM, device="cpu",
    )  # fmt: skip
    found = stepping(job)

    def ours() -> Figures:
        found.step()
        return Figures({})

    runners = {STEP: ours, PLAIN: _plain(job)}
    clock = CLOCKS[options.clock]
    timed = by_turns(runners, repeats=options.repeats, clock=clock)
    return Measured(hook, min(timed[STEP].seconds), min(timed[PLAIN].seconds), found.tokens)


def _plain(job: TrainJob) -> Runner:
    """Return the plain passes on as many tokens; which they are does not matter for the time."""
    host = host_of(job)
    site = find_site(host, job.hook)
    passes = ResumedPasses(host, site)
    generator = torch.Generator().manual_seed(0)
    shape = (job.batch_rows, job.context)
    ids = torch.randint(3, host.config.vocab_size, shape, generator=generator)
    counted = counted_of(ids, host.special_ids)
    unembed = host.model.get_output_embeddings()
    x_hat = torch.randn(*shape, site.width, generator=generator).requires_grad_(True)

    def run() -> Figures:
        x_hat.grad = None
        original = passes.original(ids)
        changed = passes.final(original, lambda _: x_hat)
        with torch.no_grad():
            log_p = unembed(original.final[counted]).log_softmax(dim=-1)
        log_q = unembed(changed[counted]).log_softmax(dim=-1)
        (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean().backward()
        return Figures({})

    return run


def _table(found: Sequence[Measured]) -> Table:
    table = Table(title=f"A step may take {AT_MOST} times the plain passes")
    for name in ("place", f"{STEP}, s", f"{PLAIN}, s", "times", "tokens a second"):
        table.add_column(name, justify="left" if name == "place" else "right")
    for each in found:
        table.add_row(
            each.hook, f"{each.step:.4f}", f"{each.plain:.4f}", f"{each.ratio:.2f}",
            f"{each.tokens / each.step:,.0f}",
        )  # fmt: skip
    return table


if __name__ == "__main__":
    raise SystemExit(main())
