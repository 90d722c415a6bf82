"""``python -m tools.zoo.check``: judge the embedded zoo and check its known verdicts.

pytest itself exits 1, since some of the zoo's SAEs must fail; this exits 0 if exactly those did,
with the expected verdicts.
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from saebench.records.run import Run
from saebench.records.verdict import Verdict
from saebench.store.environment import benchmarks_dir
from saebench.store.json_files import read_run
from saebench.text import every_text
from saebench.zoo import shelf as zoo
from tools.zoo.card import read_card, write_card

SEQUENCES = 192  # enough to decide most of the zoo in a minute or two
FAIL, INCONCLUSIVE = Verdict.FAIL, Verdict.INCONCLUSIVE
EXPECTED = {
    ("l2-dense", "advantage[k=matched]"): FAIL,
    ("l2-dense", "sparsity"): FAIL,
    ("l2-shrunken", "shrinkage"): FAIL,
    ("l2-shrunken", "kl_gap[scope=all]"): FAIL,
    ("l0-standard", "context_length[reach=beyond]"): FAIL,
    ("l2-shrunken", "context_length[reach=claimed]"): INCONCLUSIVE,
    ("l1-standard", "kl_gap[scope=all]"): FAIL,
    ("l2-standard", "kl_gap[scope=all]"): FAIL,
    ("l1-attn-z", "advantage[k=matched]"): INCONCLUSIVE,
}
"""Cases that do not pass; all others do."""
REPORTED = (
    "advantage[k=curve]",
    "hard_tokens",
    "helpfulness",
    "kl_gap[scope=single]",
    "single_token[experiment=offsets]",
    "single_token[experiment=draws]",
    "special_tokens",
)
"""Cases that decide nothing: they have no limit, or need more stories."""
SKIPPED = ("promise[of=explained_variance]", "tax")
"""Cases that are skipped: no explained variance is promised, and no SAE changes its model."""

ON_CARD = (
    "advantage.kl_ratio",
    "fidelity.context_recovered",
    "kl_gap.ratio[eps_random]",
    "shrinkage.l2_ratio",
    "context_length.degradation",
    "context_length.ce_increase[C-2C]",
    "context_length.ce_increase[2C-4C]",
    "cloze.accuracy_drop[whole]",
)
CLOSING = """
As expected: l2-dense fails, since PCA with as many components is more faithful than it; the
shrunken one fails too, and so do two whose errors cost more than twice what random errors of their
size do, and, beyond its training context, the first layer's. One stays undecided on so few stories,
and six pass. So pytest's own exit code is 1, and this command's is 0. The zoo is a toy: a verdict
on it says nothing about GPT-2.

Now judge your own:  pytest benchmarks --sae PATH --sae-dataset FILE.jsonl
List the zoo:        saebench list
Negative controls:   pytest benchmarks --sae demo:controls
Pairs of SAEs:       pytest benchmarks --sae demo -k propagation --sae-allow-partial
All options:         pytest benchmarks --help   (group saebench)"""


def main(argv: list[str] | None = None) -> int:
    """Run the gate on the zoo, compare its verdicts with the known ones, return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.zoo.check",
        description="Judge the embedded zoo and check that the verdicts are the known ones.",
    )
    parser.add_argument(
        "--write-card", action="store_true", help="write what was measured into the zoo's card"
    )
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as directory:
        result = Path(directory) / "run.json"
        command = _command(result)
        _say("$ pytest benchmarks " + shlex.join(command[4:-2]))
        code = subprocess.run(command, check=False).returncode
        if code not in (0, 1):
            return _failed(f"the gate ended with exit code {code}, expected 1")
        run = read_run(result)
    if options.write_card:
        write_card(replace(read_card(zoo.WEIGHTS), gate=gate_scores(run)), zoo.WEIGHTS)
    wrong = surprises(run)
    if wrong:
        return _failed("not as expected: " + "; ".join(wrong))
    _say(CLOSING)
    return 0


def surprises(run: Run) -> list[str]:
    """Return the differences from the known verdicts; empty if there are none."""
    judged = {(case.sae, case.id.removesuffix(f"@{case.sae}")): case for case in run.cases}
    wrong = [
        f"{sae} was not judged on {name}" for sae, name in EXPECTED if (sae, name) not in judged
    ]
    for key, case in judged.items():
        usual = Verdict.NEW if key[1] in REPORTED else Verdict.PASS
        usual = Verdict.SKIPPED if key[1] in SKIPPED else usual
        expected = EXPECTED.get(key, usual)
        if case.verdict is not expected:
            wrong.append(f"{case.id}: expected {expected}, found {case.verdict} ({case.reason})")
    return wrong


def gate_scores(run: Run) -> dict[str, dict[str, list[float]]]:
    """Return value and interval of the card's metrics, by SAE."""
    return {
        sae.id: {
            metric.name: [metric.value, metric.ci.low, metric.ci.high]
            for case in run.cases
            if case.sae == sae.id and case.gates
            for metric in case.metrics
            if metric.name in ON_CARD and metric.value is not None and metric.ci is not None
        }
        for sae in run.saes
    }


def _command(result: Path) -> list[str]:
    return [
        sys.executable, "-m", "pytest", str(benchmarks_dir()), "--sae", "demo",
        "--sae-profile", "smoke", "--sae-sequences", str(SEQUENCES), "-q", "--tb=no",
        # 45 pairs would take as long as everything else, and decide nothing.
        "-k", "not propagation",
        "--sae-json", str(result),
    ]  # fmt: skip


def _failed(reason: str) -> int:
    _say(f"demo: {reason}")
    return 1


def _say(text: str) -> None:
    with every_text(sys.stdout):
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
