"""docs/redteam.md: what each adversary is, what catches it, and what still gets through."""

from collections.abc import Iterable, Sequence

from redteam.catalogue import ADVERSARIES
from redteam.verdicts import Judged
from redteam.world import World
from saebench.records.case_result import GateResult
from saebench.records.verdict import Verdict

TITLES = {
    "advantage.kl_ratio": "KL by PCA's", "advantage.fvu_ratio": "error by PCA's",
    "advantage.random_dictionary_ratio": "error by random's",
    "fidelity.context_recovered": "context recovered",
    "kl_gap.ratio[eps_random]": "eps", "kl_gap.ratio[cov_random]": "cov",
    "kl_gap.ratio[real_difference]": "diff",
    "shrinkage.l2_ratio": "l2 ratio", "sparsity.l0": "l0", "sparsity.dense_share": "dense",
    "sparsity.one_sequence_mass": "one text", "sparsity.strongest_direction": "one direction",
    "strata.worst_decile_ratio": "decile", "strata.worst_type_ratio": "type",
    "strata.worst_position_ratio": "position", "strata.worst_token_ratio": "token",
    "promise.l0_ratio": "promised l0",
}  # fmt: skip
FALLBACKS = {f"kl_gap.difference[{name}]": f"kl_gap.ratio[{name}]" for name in
             ("eps_random", "cov_random", "real_difference")}  # fmt: skip
NAMES = {"demo": "the demo model", "stories": "stories260K"}

INTRODUCTION = """\
# The red team

SAEs that nobody should release, built in code, and what the gates say about them. `make redteam`
writes this page; the tests hold it true.

A gate is worth what it keeps out. Each adversary below imitates a way in which an SAE can look
faithful and not be: weights of another layer, PCA in the form of an SAE, the identity in disguise,
texts learnt by heart, errors where averages do not see them, false claims.

{totals}

## What still gets through

Some of what we built passes on at least one of the two models. None of it is hidden here, and the
list is not complete: these are the ways that we know.

{through}

Beyond these: every gate reads the texts that it is given. An SAE that is faithful on them and not
elsewhere passes, so judge on texts that its makers do not choose. No gate asks whether a feature
means anything to a person.

{honest}

## The adversaries

| adversary | what it is | what fails it on {worlds} |
|---|---|{dashes}|
"""

TABLE = """\

## Every gate, on {world}

{sequences} texts of {context} tokens. An entry is what was measured; **bold** fails its gate, *?*
is undecided, – is undefined. *eps*, *cov* and *diff* are the KL against that of random errors
(`eps_random`, `cov_random`, `real_difference`); a KL that is negligible passes them whatever the
ratio. *dense*, *one text* and *one direction* are shares that `sparsity`
reports; *decile*, *type*, *position* and *token* are ratios of `strata`. The SAEs of the model come
first.
"""


def page(results: Sequence[Judged], worlds: Sequence[World]) -> str:
    """Return the page of all SAEs' verdicts."""
    names = " and on ".join(NAMES[world.name] for world in worlds)
    found = {(each.world, each.name): each for each in results}
    lines = [
        INTRODUCTION.format(
            totals=_totals(results), through=_through(results),
            honest=_honest(results, worlds), worlds=names.replace(
                " and on ", " | what fails it on "), dashes="---|" * (len(worlds) - 1) + "---"
        ).rstrip("\n")
    ]  # fmt: skip
    for adversary in ADVERSARIES.values():
        caught = [_caught(found.get((world.name, adversary.name))) for world in worlds]
        lines.append(_row([f"`{adversary.name}`", adversary.imitates, *caught]))
    for world in worlds:
        lines += _table(world, [each for each in results if each.world == world.name])
    return "\n".join(lines) + "\n"


def _totals(results: Sequence[Judged]) -> str:
    attacks = [each for each in results if each.name in ADVERSARIES]
    passed = sorted({each.name for each in attacks if each.verdict is Verdict.PASS})
    return (
        f"There are {len(ADVERSARIES)} of them. Of {len(attacks)} judgements on "
        f"{len({each.world for each in attacks})} models "
        f"{_count(attacks, Verdict.FAIL)} are FAIL, {_count(attacks, Verdict.ERROR)} ERROR "
        f"(refused, or nothing to measure), {_count(attacks, Verdict.INCONCLUSIVE)} undecided, "
        f"which does not pass either, and {_count(attacks, Verdict.PASS)} PASS: "
        f"{len(passed)} adversaries get through."
    )


def _honest(results: Sequence[Judged], worlds: Sequence[World]) -> str:
    """Say which honest SAEs do not pass: gates that keep those out cost something too."""
    lines = []
    for world in worlds:
        own = [r for r in results if r.world == world.name and r.name in world.honest]
        others = [f"`{r.name}` is {r.verdict.value}" for r in own if not r.passes]
        said = f"; {', '.join(others)}" if others else ""
        lines.append(
            f"Of the {len(own)} honest SAEs of {NAMES[world.name]}, on {len(world.texts)} texts, "
            f"{sum(r.passes for r in own)} pass{said}."
        )
    return "\n".join(lines)


def _count(results: Iterable[Judged], verdict: Verdict) -> int:
    return sum(each.verdict is verdict for each in results)


def _through(results: Sequence[Judged]) -> str:
    lines = []
    for adversary in ADVERSARIES.values():
        passed = [r for r in results if r.name == adversary.name and r.verdict is Verdict.PASS]
        if passed:
            where = " and ".join(NAMES[each.world] for each in passed)
            why = adversary.passes_because or "We have no explanation yet."
            lines.append(f"- **{adversary.name}** (on {where}): {adversary.imitates} {why}")
    return "\n".join(lines) or "Nothing of it."


def _caught(judged: Judged | None) -> str:
    if judged is None:
        return "not built"
    if judged.verdict is Verdict.ERROR:
        return "refused" if judged.reason.startswith("refused") else "ERROR: no feature fires"
    if judged.verdict is Verdict.PASS:
        return "**passes**"
    return ", ".join(f"`{name}`" for name in judged.failed) or "undecided"


def _table(world: World, results: Sequence[Judged]) -> list[str]:
    said = TABLE.format(
        world=NAMES[world.name], sequences=len(world.texts), context=world.context
    ).rstrip("\n")
    heads = ["SAE", "verdict", *TITLES.values()]
    rows = [_row(heads), _row(["---"] * len(heads))]
    return [said, "", *rows, *(_row(_cells(each, world)) for each in results)]


def _cells(judged: Judged, world: World) -> list[str]:
    name = f"`{judged.name}`" + (" (honest)" if judged.name in world.honest else "")
    gates = {FALLBACKS.get(metric, metric): gate for metric, gate in judged.gates.items()}
    return [name, judged.verdict.value, *(_cell(gates.get(metric)) for metric in TITLES)]


def _cell(gate: GateResult | None) -> str:
    if gate is None:
        return ""
    value = "–" if gate.observed is None else f"{gate.observed:.3g}"
    if gate.verdict is Verdict.FAIL:
        return f"**{value}**"
    return value if gate.verdict is Verdict.PASS else f"{value} *?*"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
