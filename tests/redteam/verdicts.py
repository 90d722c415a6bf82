"""Judging adversaries and honest SAEs together: which gates each fails."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import saebench
from redteam import degraded, hidden, hollow, misplaced, misread  # noqa: F401  they fill the list
from redteam.catalogue import ADVERSARIES, Absent, Adversary
from redteam.world import JUDGED_CASES, World
from saebench.errors import SubjectError
from saebench.records.case_result import GateResult
from saebench.records.run import Run
from saebench.records.verdict import Verdict, overall

TOGETHER = 16
DECIDING = ("eps_random", "cov_random", "real_difference", "error_shuffled")


@dataclass(frozen=True)
class Judged:
    """An SAE and what its gates say.

    Attributes:
        name: of an honest SAE or an adversary.
        world: the model's name.
        verdict: of all its cases; an SAE that is refused or cannot be measured is an ERROR.
        gates: the deciding gates by metric; several rules of one metric keep the worst.
        reason: of an ERROR.
    """

    name: str
    world: str
    verdict: Verdict
    gates: Mapping[str, GateResult]
    reason: str = ""

    @property
    def passes(self) -> bool:
        return self.verdict is Verdict.PASS

    @property
    def failed(self) -> tuple[str, ...]:
        """The metrics whose gates it fails."""
        return tuple(m for m, gate in self.gates.items() if gate.verdict is Verdict.FAIL)


def judge_honest(world: World) -> list[Judged]:
    """Judge the model's own SAEs, those that should fail among them."""
    return _judged(world, {name: world.sae(name) for name in world.saes})


def judge_adversaries(world: World, names: Sequence[str] | None = None) -> list[Judged]:
    """Judge adversaries, all by default; the absent ones are left out."""
    built, refused = {}, []
    for adversary in (ADVERSARIES[name] for name in names or ADVERSARIES):
        sae = _built(world, adversary)
        if sae is None:
            continue
        if adversary.refused:
            refused += _alone(world, adversary.name, sae)
        else:
            built[adversary.name] = sae
    return _judged(world, built) + refused


def _built(world: World, adversary: Adversary) -> Any:
    try:
        sae = adversary.build(world)
    except Absent:
        return None
    if isinstance(getattr(sae, "cfg", None), dict):
        mine = {"hook_name": world.hook, "context_size": world.context, "prepend_bos": True}
        sae.cfg = mine | sae.cfg
    return sae


def _judged(world: World, saes: Mapping[str, Any]) -> list[Judged]:
    items = list(saes.items())
    parts = [dict(items[i : i + TOGETHER]) for i in range(0, len(items), TOGETHER)]
    return [each for part in parts for each in _of_run(world, _run(world, part))]


def _alone(world: World, name: str, sae: Any) -> list[Judged]:
    try:
        return _of_run(world, _run(world, {name: sae}))
    except SubjectError as error:
        return [Judged(name, world.name, Verdict.ERROR, {}, f"refused: {error}")]


def _run(world: World, saes: Mapping[str, Any]) -> Run:
    return saebench.judge(
        dict(saes), world.model, world.texts, tokenizer=world.tokenizer,
        properties=list(JUDGED_CASES), sequences=len(world.texts), interventions=DECIDING,
    )  # fmt: skip


def _of_run(world: World, run: Run) -> list[Judged]:
    return [_of_sae(world, run, sae.id) for sae in run.saes]


def _of_sae(world: World, run: Run, id: str) -> Judged:
    cases = run.cases_of(id)
    gates: dict[str, GateResult] = {}
    for case in cases:
        if case.params.get("scope") == "single" or case.params.get("k") == "curve":
            continue
        gates |= {gate.metric: gate for gate in case.deciding}
    errors = [case.reason for case in cases if case.error]
    deciding = [case.verdict for case in cases if case.deciding or case.error]
    return Judged(id, world.name, overall(deciding), gates, errors[0] if errors else "")
