"""How much wider two separate intervals are than the paired one, on real SAEs of one hook.

``python -m perf.pairing`` judges the stories model's SAEs, a repaired one and ones with a little
noise on their weights, on the same documents, and compares each pair with and without pairing.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from saebench.cli import main as saebench
from saebench.compare.comparison import Side
from saebench.compare.differences import Difference, SideCase, difference
from saebench.compare.sides import sides_of_run
from saebench.experiments.prepare import prepare
from saebench.judging.cases import case_request
from saebench.judging.judge import Judge
from saebench.judging.rules_of_run import spec_of
from saebench.options import Settings
from saebench.progress import progress_bar
from saebench.statistics.levels import LEVEL
from saebench.store.sums_file import run_sums
from saebench.subjects.references import find_subjects

REAL = Path(__file__).resolve().parents[1].parent / "shared" / "data"
METRICS = {
    "fidelity.kl": "fidelity",
    "fidelity.mse": "fidelity",
    "kl_gap.ratio[eps_random]": "kl_gap[scope=all]",
    "shrinkage.l2_ratio": "shrinkage",
    "sparsity.l0": "sparsity",
}
OTHERS = ("l2-topk16", "l2-shrunken")
NOISE = (0.003, 0.03)
SEED = 3


@dataclass(frozen=True)
class Gain:
    """What pairing gains in one metric of one pair.

    Attributes:
        pair: the two SAEs' ids.
        metric: its name.
        paired: width of the difference's interval, the same sequences of both resampled.
        unpaired: the same from each side's own interval.
    """

    pair: tuple[str, str]
    metric: str
    paired: float
    unpaired: float

    @property
    def factor(self) -> float:
        """How many times wider it is without pairing.

        Example:
            >>> Gain(("a", "b"), "fidelity.kl", 0.1, 0.3).factor
            3.0
        """
        return round(self.unpaired / self.paired, 12) if self.paired else float("inf")


def gains(settings: Settings, saes: Sequence[str], pairs: Sequence[tuple[str, str]]) -> list[Gain]:
    """Judge SAEs on the same documents and return what pairing gains, by pair and metric.

    Args:
        settings: the model, the texts, how many sequences.
        saes: SPECs of SAEs.
        pairs: of their ids.
    """
    judge = Judge(settings)
    found = find_subjects(list(saes))
    names = dict.fromkeys(case.partition("[")[0] for case in METRICS.values())
    judge.announce(case_request(sae.id, name) for sae in found for name in names)
    judge.adopt(prepare(settings, found))
    for request in judge.requests:
        judge.case(request, progress=progress_bar)
    sides = sides_of_run(judge.run(complete=True), run_sums(judge.measured()))
    return [gain(sides[a], sides[b], (a, b), metric) for a, b in pairs for metric in METRICS]


def gain(one: Side, two: Side, pair: tuple[str, str], metric: str) -> Gain:
    """Return what pairing gains in one metric.

    Args:
        one: an SAE.
        two: another, on the same sequences.
        pair: their ids.
        metric: its name.
    """
    case = METRICS[metric]
    sides = (one.cases[case], two.cases[case])
    apart = (replace(sides[0], table=None), replace(sides[1], table=None))
    return Gain(pair, metric, _width(metric, sides), _width(metric, apart))


def _width(metric: str, sides: tuple[SideCase, SideCase]) -> float:
    found = difference(spec_of(metric), sides, case="", level=LEVEL)
    if not isinstance(found, Difference) or found.ci is None:
        raise RuntimeError(f"{metric}: no interval of the difference: {found}")
    return found.ci.high - found.ci.low


def with_noise(sae: str, to: Path, *, share: float) -> str:
    """Save an SAE with noise on its weights, each of a share of its tensor's own spread.

    Args:
        sae: a SAELens directory.
        to: where to save it.
        share: of the spread.
    """
    import torch
    from sae_lens import SAE

    changed = SAE.load_from_disk(sae)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for weights in changed.parameters():
            noise = torch.randn(weights.shape, generator=generator)
            weights += share * weights.std() * noise
    changed.save_model(to)
    return str(to)


def main(argv: Sequence[str] | None = None) -> int:
    """Judge, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m perf.pairing", description=__doc__)
    parser.add_argument("--data", type=Path, default=REAL, help="models, SAEs and texts")
    parser.add_argument("--sequences", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=200_000, help="to repair on")
    options = parser.parse_args(argv)
    texts = options.data / "text" / "tinystories-train.jsonl"
    model = str(options.data / "models" / "stories260K")
    own = [str(options.data / "saes" / f"stories260K-{n}") for n in ("l2-standard", *OTHERS)]
    base, *others = (Path(sae).name for sae in own)
    with tempfile.TemporaryDirectory() as directory:
        room = Path(directory)
        made = [with_noise(own[0], room / f"noise-{s:g}", share=s) for s in NOISE]
        fit = [
            "repair", own[0], "--method", "scale", "-o", str(room / "repaired"),
            "--sae-model", model, "--sae-dataset", str(texts), "--tokens", str(options.tokens),
            "--sequences", "16",
        ]  # fmt: skip
        if saebench(fit) != 0:
            return 1
        made.append(str(room / "repaired"))
        settings = Settings(
            model=model, dataset=str(texts), sequences=options.sequences,
            interventions=("eps_random",),
        )  # fmt: skip
        pairs = [(base, name) for name in (*others, *(Path(sae).name for sae in made))]
        found = gains(settings, [*own, *made], pairs)
    Console(width=140).print(_table(found, sequences=options.sequences))
    return 0


def _table(found: Sequence[Gain], *, sequences: int) -> Table:
    base = found[0].pair[0]
    table = Table(
        f"{base} and",
        *map(escape, METRICS),
        title=f"times wider without pairing, {sequences} sequences",
    )
    for pair in dict.fromkeys(each.pair for each in found):
        factors = {each.metric: each.factor for each in found if each.pair == pair}
        table.add_row(pair[1], *(_shown(factors[metric]) for metric in METRICS))
    return table


def _shown(factor: float) -> str:
    return "equal" if factor == float("inf") else f"{factor:.1f}"


if __name__ == "__main__":
    sys.exit(main())
