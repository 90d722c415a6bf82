"""The matrix of architectures and hooks: each cell is proved, refused with a reason, or wrong."""

import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

import torch
from families import StubTokenizer
from torch import Tensor

from hosts.expectations import Block, Write, Wrong, expected
from hosts.reference import Plain, close, distance
from hosts.tiny_models import VOCAB, NotBuilt, tiny_model
from saebench.errors import SaebenchError
from saebench.subjects.hooks import Site, find_site
from saebench.subjects.host import Host
from saebench.substitution.passes import CleanPass, Passes
from saebench.substitution.prefix import PrefixPasses

BATCH, LENGTH, POSITION = 2, 24, 9
STATED, LAYER = 400, 1  # the longest sentence of a refusal; the layer that every hook is tried at
QUIET = 0.05  # of the logits' spread: a change that moves less proves nothing
TIME_LIMIT_S = 90

HOOKS = (
    "hook_resid_pre", "hook_resid_post", "hook_resid_mid", "hook_attn_out", "hook_mlp_out",
    "hook_mlp_in", "attn.hook_z", "mlp.hook_post",
)  # fmt: skip
BOTH = "attn and MLP out"  # both parts of a block substituted, one after the other
TOGETHER = "all at once"  # every hook of a block read in one clean pass
MORE_HOOKS = ("ln1.hook_normalized", "ln2.hook_normalized", "mlp.hook_pre", "attn.hook_q")


class Outcome(Enum):
    """What became of a cell: proved, refused in a sentence, or one of four faults.

    SILENT: a number is wrong with no word. RAW: an error that is not saebench's own. UNCLEAR: a
    refusal that does not say of what. QUIET: no change moves the logits, so nothing is proved.
    """

    SUPPORTED = "supported"
    REFUSED = "refused"
    SILENT = "silent"
    RAW = "raw"
    UNCLEAR = "unclear"
    QUIET = "quiet"

    @property
    def is_fault(self) -> bool:
        """True where a user would get a wrong number, or a traceback, or nothing is proved."""
        return self not in (Outcome.SUPPORTED, Outcome.REFUSED)


@dataclass(frozen=True)
class Cell:
    """One hook of one family.

    Attributes:
        family: its ``model_type``.
        hook: the name, or ``block`` for the module path of a block.
        layer: the block's index.
        outcome: what became of it.
        text: the refusal's sentence, or what is wrong.
        path: how whole sequences are run: ``resumed`` or ``full``.
        single: how a single token is: ``prefix``, ``resumed``, ``full``, or a refusal's sentence.
    """

    family: str
    hook: str
    layer: int
    outcome: Outcome
    text: str = ""
    path: str = ""
    single: str = ""

    def __str__(self) -> str:
        how = f"{self.path}, single token {self.single}" if self.path else self.text
        return f"{self.family:24} {self.layer} {self.hook:20} {self.outcome.value:10} {how}"


@dataclass(frozen=True)
class FamilyResult:
    """All cells of a family; none where it was not built, for a reason."""

    family: str
    cells: tuple[Cell, ...]
    not_built: str = ""


class Quiet(Exception):
    """A change that does not move the logits: the cell would prove nothing."""


@dataclass
class Trial:
    """A host of a tiny model beside the plain model that it is held against."""

    name: str
    host: Host
    plain: Plain
    ids: Tensor
    _blocks: dict[int, Block] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, model: Any) -> "Trial":
        ids = token_ids()
        plain = Plain(model, ids)
        return cls(name, Host(model, StubTokenizer(), name=name), plain, ids)

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the logits."""
        return self.plain.clean.logits.std().item()

    def site(self, hook: str, layer: int) -> Site:
        if hook == "block":
            return find_site(self.host, self.host.block_paths[layer], module_path=True)
        return find_site(self.host, f"blocks.{layer}.{hook}")

    def activation(self, hook: str, layer: int) -> Tensor | None:
        """Return saebench's clean activation; None where it is not to be had."""
        try:
            site = self.site(hook, layer)
            return Passes(self.host).clean(self.ids, [site]).activations[site]
        except Exception:  # the hook's own cell says what went wrong
            return None

    def block(self, layer: int) -> Block:
        if layer not in self._blocks:
            path = self.host.block_paths[layer]
            self._blocks[layer] = Block(
                self.plain, path, layer,
                ask=lambda hook: self.activation(hook, layer),
                lens_norm=lambda name: self.host.adapter_path(f"blocks.{layer}.{name}"),
            )  # fmt: skip
        return self._blocks[layer]

    def logits(self, final: Tensor) -> Tensor:
        """Return saebench's logits of final hidden states."""
        rows = self.host.logits(final.flatten(0, -2))
        return rows.double().unflatten(0, final.shape[:-1])


class FullPasses(Passes):
    """Passes that never take the shortcut."""

    def is_exact(self, site: Site) -> bool:  # noqa: ARG002
        return False


def token_ids() -> Tensor:
    """Return random tokens, BOS first, without special ids after it."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, VOCAB, (BATCH, LENGTH), generator=generator)
    ids[:, 0] = 0
    return ids


def run_family(name: str, *, model: Any = None) -> FamilyResult:
    """Return every cell of a family, whatever happens in one of them.

    Args:
        name: its ``model_type``.
        model: the model to try; a tiny random one where not given.
    """
    try:
        with _time_limit(TIME_LIMIT_S), torch.no_grad():
            model = tiny_model(name) if model is None else model
            model(input_ids=token_ids(), use_cache=False)
    except Exception as error:
        return FamilyResult(name, (), not_built=_said(error))
    return FamilyResult(name, tuple(_cells(name, model)))


def _cells(name: str, model: Any) -> Iterator[Cell]:
    def of_model() -> Trial:
        trial = Trial.of(name, model)
        assert trial.host.blocks
        check_model(trial)
        return trial

    made: list[Trial] = []
    whole = _judged(Cell(name, "model", -1, Outcome.SUPPORTED), lambda: made.append(of_model()))
    if whole.outcome is not Outcome.SUPPORTED:
        yield whole
        return
    trial = made[0]
    cells = [tried(trial, hook, layer) for layer, hook in _places(trial)]
    yield from cells
    layer = cells[0].layer
    proved = [c.hook for c in cells if c.layer == layer and c.single and not c.outcome.is_fault]
    whole = Cell(name, TOGETHER, layer, Outcome.SUPPORTED, path="one pass")
    yield _judged(whole, lambda: check_together(trial, proved, layer))


def tried(trial: Trial, hook: str, layer: int) -> Cell:
    """Return a hook's cell."""
    paths: list[str] = []
    cell = Cell(trial.name, hook, layer, Outcome.SUPPORTED)
    cell = _judged(cell, lambda: paths.extend(check(trial, hook, layer)))
    return Cell(**(vars(cell) | dict(zip(("path", "single"), paths, strict=False))))


def _places(trial: Trial) -> Iterator[tuple[int, str]]:
    """Give the layers and hooks to try: a layer of each other kind beside the one for all."""
    last = len(trial.host.blocks) - 1
    layer = min(LAYER, last)
    yield from ((layer, hook) for hook in (*HOOKS, *MORE_HOOKS, "block", BOTH))
    for other in _other_kinds(trial, layer):
        yield from ((other, hook) for hook in HOOKS)
    yield last, "hook_resid_post"


def _other_kinds(trial: Trial, layer: int) -> list[int]:
    """Return the first layer of each kind that the given one is not of."""
    types = getattr(trial.host.config, "layer_types", None) or ()
    kinds: dict[Any, int] = {}
    for i, block in enumerate(trial.host.blocks):
        parts = tuple((n, type(m).__name__) for n, m in block.named_modules())
        shapes = tuple(p.shape for p in block.parameters())
        kinds.setdefault((parts, shapes, types[i] if i < len(types) else None), i)
        if i == layer:
            mine = (parts, shapes, types[i] if i < len(types) else None)
    return [i for kind, i in kinds.items() if kind != mine]


def _judged(cell: Cell, run: Callable[[], Any]) -> Cell:
    """Run a cell's checks and say what became of it."""
    try:
        with _time_limit(TIME_LIMIT_S):
            run()
    except SaebenchError as error:
        return _refused(cell, str(error))
    except Wrong as error:
        return _with(cell, Outcome.SILENT, str(error))
    except Quiet as error:
        return _with(cell, Outcome.QUIET, str(error))
    except Exception as error:
        return _with(cell, Outcome.RAW, _located(error))
    return cell


def _with(cell: Cell, outcome: Outcome, text: str) -> Cell:
    return Cell(**(vars(cell) | {"outcome": outcome, "text": text}))


def _refused(cell: Cell, sentence: str) -> Cell:
    """Say that a cell is refused, unless its sentence does not say of what and why."""
    hook = cell.hook if cell.hook in (*HOOKS, *MORE_HOOKS) else ""
    missing = [what for what in (cell.family, hook) if what not in sentence]
    if missing:
        return _with(cell, Outcome.UNCLEAR, f"without {' and '.join(missing)}: {sentence}")
    if "\n" in sentence.strip() or len(sentence) >= STATED:
        return _with(cell, Outcome.UNCLEAR, f"{len(sentence)} characters: {sentence[:200]}…")
    return _with(cell, Outcome.REFUSED, sentence)


def _located(error: BaseException) -> str:
    """Name an error that is not saebench's own, and the last lines that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/saebench/" in f.filename][-1:]
    where = [f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno} {f.name}" for f in [*ours, frames[-1]]]
    return f"{_said(error)} ({', in '.join(dict.fromkeys(where))})"


def _said(error: BaseException) -> str:
    lines = " ".join(str(error).split())
    text = lines if isinstance(error, NotBuilt) else f"{type(error).__name__}: {lines}"
    return text if len(text) < 300 else f"{text[:299]}…"


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check_model(trial: Trial) -> None:
    """Hold the host's logits against the plain model's, and see that no token sees later ones.

    Raises:
        Wrong: where they differ, or the model is not causal.
    """
    with torch.inference_mode():
        final = trial.host.final_hidden(trial.ids)
    _alike("logits", trial.logits(final), trial.plain.clean.logits, of=trial.spread)
    later = trial.ids.clone()
    later[:, POSITION:] = VOCAB - 1 - later[:, POSITION:]
    before = trial.plain.run(ids=later).logits[:, :POSITION]
    gap = distance(before, trial.plain.clean.logits[:, :POSITION])
    if gap > 1e-3 * trial.spread:
        raise Wrong("causal", f"logits move by {gap:.2g} where a later token is changed")


def check(trial: Trial, hook: str, layer: int) -> tuple[str, str]:
    """Hold one hook against the reference.

    Returns:
        How whole sequences are run, and how a single token is.

    Raises:
        Wrong: where a number differs.
        Quiet: where a change does not show.
    """
    hooked = _hooks_on(trial.host.model)
    if hook == BOTH:
        return _check_both(trial, layer)
    site = trial.site(hook, layer)
    passes = Passes(trial.host)
    clean = passes.clean(trial.ids, [site])
    x = clean.activations[site]
    _check_stopping(passes, trial, site, x)
    write = expected(trial.block(layer), hook, x)
    changed = torch.stack([x, torch.zeros_like(x), _random(x)])
    reference = _check_values(trial, passes, clean, site, changed, write)
    _check_full(trial, passes, clean, site, changed)
    path = "resumed" if passes.is_exact(site) else "full"
    single = _check_single(trial, site, x, write)
    if reference < QUIET * trial.spread:
        raise Quiet(f"random values move the logits by {reference:.2g} of {trial.spread:.2g}")
    if _hooks_on(trial.host.model) != hooked:
        raise Wrong("hooks", "the model has other hooks than before")
    return path, single


def _check_stopping(passes: Passes, trial: Trial, site: Site, x: Tensor) -> None:
    early = passes.clean(trial.ids, [site], stop_early=True).activations[site]
    if not close(early, x, rel=1e-6):
        raise Wrong("stopping", "a pass that stops early has another activation")


def _check_values(
    trial: Trial, passes: Passes, clean: CleanPass, site: Site, changed: Tensor, write: Write
) -> float:
    """Hold substituted logits against the reference's; return how far random values move them."""
    ours = trial.logits(passes.resume(clean, site, changed))
    plain = trial.plain.clean.logits
    _alike("identity", ours[0], plain, of=trial.spread)
    moved = 0.0
    for what, found, value in zip(("zero", "random"), ours[1:], changed[1:], strict=True):
        theirs = trial.plain.run(write(value.double())).logits
        moved = distance(theirs, plain)
        _alike(what, found, theirs, of=max(moved, QUIET * trial.spread))
    return moved


def _check_full(
    trial: Trial, passes: Passes, clean: CleanPass, site: Site, changed: Tensor
) -> None:
    resumed = passes.resume(clean, site, changed)
    full = FullPasses(trial.host).resume(clean, site, changed)
    _alike("resumed", resumed, full, of=full.abs().max().item())
    with passes.substituted(clean, site, changed[-1]), torch.inference_mode():
        within = trial.host.final_hidden(trial.ids)
    _alike("substituted", within, full[-1], of=full.abs().max().item())


def _check_both(trial: Trial, layer: int) -> tuple[str, str]:
    """Substitute a block's attention and then, on top of it, its MLP."""
    attn, mlp = trial.site("hook_attn_out", layer), trial.site("hook_mlp_out", layer)
    passes = Passes(trial.host)
    clean = passes.clean(trial.ids, [attn, mlp])
    x, y = clean.activations[attn], clean.activations[mlp]
    write_attn = expected(trial.block(layer), "hook_attn_out", x)
    write_mlp = expected(trial.block(layer), "hook_mlp_out", y)
    after = passes.resume_keeping(clean, attn, _random(x)[None], [mlp])
    ours = trial.logits(passes.resume(after, mlp, -2 * _random(y)[None]))[0]
    changes = {**write_attn(_random(x).double()), **write_mlp(-2 * _random(y).double())}
    theirs = trial.plain.run(changes).logits
    _alike("both", ours, theirs, of=distance(theirs, trial.plain.clean.logits))
    found = trial.block(layer).part_under("hook_mlp_out", write_attn(_random(x).double()))
    _alike("kept", after.activations[mlp], found, of=found.abs().max().item())
    is_exact = passes.is_exact(attn) and passes.is_exact(mlp)
    return ("resumed" if is_exact else "full"), ""


def check_together(trial: Trial, hooks: list[str], layer: int) -> None:
    """Read hooks in one clean pass, and then substitute a token at each of them.

    Raises:
        Wrong: where an activation or a logit is another than in a pass of its own.
    """
    sites = [trial.site(hook, layer) for hook in hooks]
    alone = [Passes(trial.host).clean(trial.ids, [s]).activations[s] for s in sites]
    clean = Passes(trial.host).clean(trial.ids, sites)
    passes = PrefixPasses(trial.host, position=POSITION)
    window = passes.clean(trial.ids, sites)
    for hook, site, x in zip(hooks, sites, alone, strict=True):
        _alike(f"{hook} read", clean.activations[site], x, of=x.abs().max().item())
        changed = x[None, :, POSITION:].clone()
        changed[:, :, 0] = _random(x[:, 0])
        together = passes.resume(window, site, changed)
        mine = PrefixPasses(trial.host, position=POSITION)
        apart = mine.resume(mine.clean(trial.ids, [site]), site, changed)
        _alike(f"{hook} substituted", together, apart, of=apart.abs().max().item())


def _check_single(trial: Trial, site: Site, x: Tensor, write: Write) -> str:
    """Hold windows with one token substituted, two draws of it, against full passes."""
    passes = PrefixPasses(trial.host, position=POSITION)
    try:
        window = passes.clean(trial.ids, [site])
        base = window.tail.activations[site]
        draws = torch.stack([base, base])
        draws[:, :, 0] = torch.stack([_random(base[:, 0]), -2 * _random(base[:, 0])])
        ours = trial.logits(passes.resume(window, site, draws))
    except SaebenchError as error:
        return str(error)
    for draw, found in zip(draws, ours, strict=True):
        whole = x.double().clone()
        whole[:, POSITION] = draw[:, 0]
        theirs = trial.plain.run(write(whole)).logits[:, POSITION:]
        moved = distance(theirs, trial.plain.clean.logits[:, POSITION:])
        _alike("single", found, theirs, of=max(moved, QUIET * trial.spread))
    return passes.path(site)


def _alike(check: str, found: Tensor, wanted: Tensor, *, of: float) -> None:
    if found.shape != wanted.shape:
        raise Wrong(check, f"expected {tuple(wanted.shape)}, found {tuple(found.shape)}")
    gap = distance(found, wanted)
    if not gap <= 1e-3 * of:
        raise Wrong(check, f"differs by {gap:.2g} of {of:.2g}")


def _random(x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(x.shape, generator=generator) * x.std() + x.mean()


def _hooks_on(model: Any) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + ("forward" in vars(m))
        for m in model.modules()
    )


def totals(results: list[FamilyResult]) -> Mapping[Outcome, int]:
    """Count the cells by what became of them."""
    found = [cell.outcome for result in results for cell in result.cells]
    return {outcome: found.count(outcome) for outcome in Outcome}
