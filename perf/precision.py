"""`python -m perf.precision --device cuda`: what fewer bits in the model's passes cost and save.

The core batch on the random GPT-2 of `make perf`, whose SAE is blended with the identity until KL
is near 0.01: time, and the KL that is found, against fp32's. The readout is fp32 in all of them.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from perf.ours import our_runner
from perf.settings import SIZES, Settings
from perf.timing import by_turns
from perf.workload import MODEL, Workload, as_token_set, workload
from saebench.options import DTYPES, Overrides
from saebench.subjects.host_loading import TF32, has_tf32, load_host
from saebench.subjects.loading import wrap_sae
from saebench.subjects.sae import Subject


class Blended(nn.Module):
    """An SAE's output and its input, mixed."""

    def __init__(self, sae: Any, share: float) -> None:
        super().__init__()
        self.sae = sae
        self.share = share

    def encode(self, x: Tensor) -> Tensor:
        """Return the input: the SAE is applied by decode."""
        return x

    def decode(self, x: Tensor) -> Tensor:
        """Return the mixture."""
        return x + self.share * (self.sae.decode(self.sae.encode(x)) - x)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m perf.precision", description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", choices=SIZES, default="gpt2")
    parser.add_argument("--share", type=float, default=0.1, help="of the SAE's error")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(argv)
    settings = Settings(options.size, 2, 1, "min", (), sae_bench=False, device=options.device)
    with workload(settings) as made:
        Console().print(_table(made, share=options.share, repeats=options.repeats))
    return 0


def _table(made: Workload, *, share: float, repeats: int) -> Table:
    kinds = [d for d in DTYPES if d != TF32 or has_tf32(made.device)]
    tokens, batch = as_token_set(made.ids), made.settings.our_batch
    runners = {}
    for kind in kinds:
        model = str(made.directory / MODEL)
        host = load_host(model, device=made.device, dtype=kind, asked_by="perf")
        runners[kind] = our_runner(host, tokens, [_subject(made, share)], ["sae"], batch=batch)
    timed = by_turns(runners, repeats=repeats)
    exact = timed["float32"]
    table = Table("passes", "seconds", "faster", "KL", "off by")
    for kind, found in timed.items():
        kl, base = (f.figures.pooled["kl.sae"] for f in (found, exact))
        seconds = min(found.seconds)
        table.add_row(
            kind, f"{seconds:.3f}", f"{min(exact.seconds) / seconds:.2f}×", f"{kl:.5f}",
            f"{100 * (kl / base - 1):+.2f}%",
        )  # fmt: skip
    return table


def _subject(made: Workload, share: float) -> Subject:
    size = made.size
    told = Overrides(hook=size.hook, training_context=size.context, prepend_bos=True)
    return wrap_sae(Blended(made.sae, share), id="sae", overrides=told)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.exit(main())
