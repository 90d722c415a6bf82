"""docs/hosts.md: the matrix as a page."""

import re
from collections.abc import Iterable, Sequence

from hosts.cells import BOTH, HOOKS, MORE_HOOKS, TOGETHER, Cell, FamilyResult, Outcome
from hosts.tiny_models import families

LAST = "last"
COLUMNS = (*HOOKS, *MORE_HOOKS, "block", BOTH, TOGETHER, LAST)
TITLES = {
    "hook_resid_pre": "resid pre", "hook_resid_post": "resid post", "hook_resid_mid": "resid mid",
    "hook_attn_out": "attn out", "hook_mlp_out": "MLP out", "hook_mlp_in": "MLP in",
    "attn.hook_z": "z", "mlp.hook_post": "post", "ln1.hook_normalized": "ln1",
    "ln2.hook_normalized": "ln2", "mlp.hook_pre": "pre", "attn.hook_q": "q", "block": "module",
    BOTH: "both", TOGETHER: "all", LAST: "last post",
}  # fmt: skip
LETTERS = {"one pass": "✓", "resumed": "r", "full": "f", "prefix": "p"}

INTRODUCTION = """\
# Architectures and hooks

Which hooks of which language models saebench can judge SAEs at. `make hosts` writes this page.

For each family of causal language models that transformers {transformers} knows, a tiny model
with random weights is built and each hook is compared with the same model in float64, run in
full with plain torch hooks: the activation is what the hook's name means (the block's input plus
the outputs of its attention and its MLP is its output); putting it back unchanged changes
nothing; zeros and random values give the logits that the plain model gives; a resumed pass gives
what a full pass gives; and so does a single token substituted in a window. What cannot be judged
is refused with one sentence and exit code 4. Architectures' module names are TransformerLens'
({transformer_lens}).

{totals}

## What a cell says

The first letter says how whole sequences are run after a substitution: `r`, resumed at the hooked
block, or `f`, in full, where resuming would not give the same. The second says how a single
token's are: `p`, from that token on, with the cached keys and values of the tokens before it; `r`
or `f` as above. A number is the reason of a refusal, listed below the table. A model with several
kinds of blocks has a row for each kind.

| column | hook |
|---|---|
{columns}
"""


def page(results: Sequence[FamilyResult], versions: dict[str, str]) -> str:
    """Return the page of all families' cells."""
    reasons = _Reasons()
    rows = [row for result in results for row in _rows(result, reasons)]
    columns = [f"| {TITLES[h]} | {_hook_name(h)} |" for h in COLUMNS]
    head = INTRODUCTION.format(
        **versions, totals=_totals(results), columns="\n".join(columns)
    )  # fmt: skip
    titles = ["family", "block", *(TITLES[h] for h in COLUMNS)]
    table = [_row(titles), _row(["---"] * len(titles)), *rows]
    not_built = [f"| {_name(r.family)} | {_plain(r.not_built)} |" for r in results if r.not_built]
    return "\n".join([
        head, "## Families", "", *table, "", "## Reasons", "", *reasons.lines(), "",
        "## Not built", "", "| family | why no tiny model of it could be built |", "|---|---|",
        *not_built, "",
    ])  # fmt: skip


def families_on(text: str) -> set[str]:
    """Return the families, and the names that share their class, that a page has a row for."""
    names = [re.match(r"\| (`[^|]*`) \|", line) for line in text.splitlines()]
    return {name for found in names if found for name in re.findall(r"`([^`]+)`", found[1])}


def _totals(results: Sequence[FamilyResult]) -> str:
    cells = [cell for result in results for cell in result.cells]
    counts = {outcome: sum(c.outcome is outcome for c in cells) for outcome in Outcome}
    whole = [r for r in results if any(c.hook == "model" for c in r.cells)]
    said = ", ".join(f"{n:,} {o.value}" for o, n in counts.items())
    built = sum(not r.not_built for r in results)
    return (
        f"{len(results)} families, of which {built} are tried: {len(cells):,} cells ({said}). "
        f"{len(whole)} families are refused as a whole."
    )


def _hook_name(hook: str) -> str:
    named = {
        "block": "the block's own module path (SAEs trained on the plain transformers model)",
        BOTH: "`hook_attn_out` and then `hook_mlp_out` of one block, both substituted",
        TOGETHER: "all of them read in one clean pass, then a token substituted at each",
        LAST: "`hook_resid_post` of the last block",
    }
    return named.get(hook, f"`blocks.N.{hook}`")


def _rows(result: FamilyResult, reasons: "_Reasons") -> Iterable[str]:
    if result.not_built:
        return
    name = _name(result.family)
    last = next((c for c in reversed(result.cells) if c.hook == "hook_resid_post"), None)
    for layer in dict.fromkeys(cell.layer for cell in result.cells):
        found = {cell.hook: cell for cell in result.cells if cell.layer == layer}
        if set(found) == {"hook_resid_post"}:
            continue
        if last is not None and TOGETHER in found:  # the block at which every hook is tried
            found[LAST] = last
        if "model" in found:
            found = dict.fromkeys(COLUMNS, found["model"])
        marks = [_mark(found[h], reasons) if h in found else "" for h in COLUMNS]
        yield _row([name, "all" if layer < 0 else str(layer), *marks])


def _name(family: str) -> str:
    also = {f.name: f.also for f in families()}.get(family, ())
    return ", ".join(f"`{name}`" for name in (family, *also))


def _mark(cell: Cell, reasons: "_Reasons") -> str:
    if cell.outcome is Outcome.SUPPORTED:
        single = LETTERS.get(cell.single, "") if cell.single in ("", *LETTERS) else str(
            reasons.number(cell, cell.single)
        )  # fmt: skip
        return f"{LETTERS[cell.path]} {single}".strip()
    if cell.outcome is Outcome.REFUSED:
        return str(reasons.number(cell, cell.text))
    return f"**{cell.outcome.value}**"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    return " ".join(text.replace("|", r"\|").split())


class _Reasons:
    """Refusals' sentences without names of families and hooks, numbered as they come."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, cell: Cell, sentence: str) -> int:
        """Return the number of a sentence's reason."""
        text = _plain(sentence).replace(f"blocks.{cell.layer}.", "blocks.N.")
        text = re.sub(r"; the block has .*$", "", text)
        text = re.sub(rf"(?<![\w.]){re.escape(cell.family)}(?![\w.])( \(\w+\))?", "MODEL", text)
        text = re.sub(r"hook 'blocks\.N\.[\w.]+' is not in block \d+ of MODEL: ", "", text)
        text = re.sub(r"'?blocks\.N\.[\w.]+'?", "HOOK", text)
        text = re.sub(r"\b\w+\.[\w.]*\.\d+(\.\w+)*( \(\w+\))?", "MODULE", text)
        return self._numbers.setdefault(text, len(self._numbers) + 1)

    def lines(self) -> list[str]:
        """Return the reasons as a list."""
        return [f"{number}. {text}" for text, number in self._numbers.items()]
