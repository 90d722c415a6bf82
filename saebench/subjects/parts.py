"""The modules whose outputs attention and MLP add to the residual stream, tested on the model.

The place of a hook such as ``hook_attn_out`` is accepted only after a test: the outputs of
attention and MLP and the block's input must sum to the block's output, and changing one of them
must change the sum by the same amount.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saebench.subjects.calls import Call, calls_once, record, trial_noise

if TYPE_CHECKING:
    from saebench.subjects.host import Host

Stream = Float[Tensor, "batch pos d"]

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
# Token mixers other than the attention of TransformerLens' attn hooks.
_OTHER_MIXER = re.compile(
    r"linear|mamba|ssm|delta|recurrent|lightning|conv|retention|mlstm|slstm|mixer", re.IGNORECASE
)
_MLP = re.compile(r"mlp|moe|feed_?forward", re.IGNORECASE)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|_")
_NORM = re.compile(r"norm", re.IGNORECASE)


class Form(Enum):
    """How a block combines attention and MLP."""

    SEQUENTIAL = "the MLP reads the residual stream after attention was added to it"
    PARALLEL = "attention and MLP read the same residual stream"
    NORMED = "the residual stream itself is normalised after each addition"


@dataclass(frozen=True)
class Parts:
    """A block's attention and MLP, as module paths; None for a part that is missing.

    Attributes:
        form: how the block combines them; None where that is unknown.
        attention: the module whose output attention adds to the stream.
        mlp: the module whose output the MLP adds to the stream.
        middle: for a normalised stream, the norm whose output is the stream between the two.
        mlp_entry: the module whose input is the stream that the MLP's branch reads.
        attention_branch: the child of the block that attention runs in.
        mlp_branch: the child of the block that the MLP runs in, or ends in.
        missing: why neither was identified; empty where one of them was.
    """

    form: Form | None = None
    attention: str | None = None
    mlp: str | None = None
    middle: str | None = None
    mlp_entry: str | None = None
    attention_branch: str | None = None
    mlp_branch: str | None = None
    missing: str = ""


@dataclass(frozen=True)
class _Candidate:
    """Recorded outputs that may make up the block's output."""

    form: Form | None
    first: Call
    second: Call | None
    middle: Call | None = None
    last: Call | None = None


def find_parts(host: "Host", layer: int) -> Parts:
    """Return the attention and MLP of a model's block."""
    return _Search(host, layer).parts()


def is_close(a: Tensor, b: Tensor, host: "Host") -> bool:
    """True where two activations are equal up to the model's rounding."""
    tolerance = 1e-5 if host.is_fp32 else 4 * host.rounding
    return a.shape == b.shape and bool(
        (a.float() - b.float()).abs().max() <= tolerance * b.float().abs().max()
    )


class _Search:
    """Search for the attention and MLP of one block."""

    def __init__(self, host: "Host", layer: int) -> None:
        self.host, self.layer = host, layer
        self.path = host.stack.blocks[layer].path
        self.block = host.model.get_submodule(self.path)
        self.aliases = {host.alias(layer, hook) for hook in ("hook_attn_out", "hook_mlp_out")}
        self.calls = host.calls(layer)
        self.paths = list(self.calls)
        own = self.calls[self.path]
        assert own.given is not None
        assert own.returned is not None
        self.pre, self.post = own.given, own.returned
        self.inner = [c for c in self.calls.values() if c.path != self.path]
        self.outputs = [c for c in self.inner if c.returned is not None and self._is_wide(c)]

    def _is_wide(self, call: Call) -> bool:
        assert call.returned is not None
        return call.returned.shape == self.pre.shape

    def parts(self) -> Parts:
        """Return the first candidate that the tests on the model confirm."""
        for candidate in self._candidates():
            if (confirmed := self._confirmed(candidate)) is not None:
                return confirmed
        children = [name for name, _ in self.block.named_children() if self._is_run(name)]
        attention = [n for n in children if self._is_attention(n) and not self._passes_on(n)]
        mlp = [name for name in children if self._is_mlp(name)]
        return Parts(
            attention_branch=self._child(attention) if len(attention) == 1 else None,
            mlp_branch=self._child(mlp) if len(mlp) == 1 else None,
            missing=self._why_not(),
        )

    def _is_run(self, name: str) -> bool:
        return f"{self.path}.{name}" in self.calls

    def _is_mlp(self, name: str) -> bool:
        words = self._words(name)
        other = self._is_attention(name) or self._mixes(name) or self._passes_on(name)
        return bool(_MLP.search(words)) and not other

    def _child(self, names: list[str]) -> str | None:
        return f"{self.path}.{names[0]}" if names else None

    def _candidates(self) -> Iterator[_Candidate]:
        yield from self._sums()
        yield from self._normed()

    def _sums(self) -> Iterator[_Candidate]:
        """Yield pairs of outputs that with the block's input sum to its output, likeliest first."""
        pairs = [
            (x, y)
            for x in self.outputs
            if self._is_mixer(x)
            for y in self.outputs
            if not self._is_mixer(y)
            and is_close(self.pre + _out(x) + _out(y), self.post, self.host)
        ]
        for x, y in sorted(pairs, key=lambda p: [self._rank(c) for c in p], reverse=True):
            yield _Candidate(None, x, y)
        alone = [x for x in self.outputs if is_close(self.pre + _out(x), self.post, self.host)]
        for x in sorted(alone, key=self._rank, reverse=True):
            yield _Candidate(None, x, None)

    def _normed(self) -> Iterator[_Candidate]:
        """Yield candidates for a stream that is normalised after each addition (GPT-1, BERT)."""
        norms = [c for c in self.outputs if self._is_norm(c) and c.given is not None]
        lasts = [c for c in norms if is_close(_out(c), self.post, self.host)]
        for last in lasts:
            for middle in [c for c in norms if c is not last]:
                for x in self._summand(self.pre, middle):
                    for y in self._summand(_out(middle), last):
                        if self._is_mixer(x) and not self._is_mixer(y):
                            yield _Candidate(Form.NORMED, x, y, middle, last)

    def _summand(self, stream: Stream, norm: Call) -> list[Call]:
        """Return the outputs that with the stream sum to a norm's input, the last first."""
        assert norm.given is not None
        summands = [c for c in self.outputs if is_close(stream + _out(c), norm.given, self.host)]
        return sorted(summands, key=self._rank, reverse=True)

    def _rank(self, call: Call) -> tuple[bool, int]:
        """Rank the adapter's own modules highest, then those that returned last."""
        return call.path in self.aliases, self.inner.index(call)

    def _confirmed(self, candidate: _Candidate) -> Parts | None:
        """Run the model with changed outputs; None where the block's output is not their sum."""
        changed = self._perturbed(candidate.first)
        if not self._still_sums(candidate, changed):
            return None
        form = candidate.form
        if candidate.second is not None:
            moved = not is_close(_at(changed, candidate.second), _out(candidate.second), self.host)
            form = form or (Form.SEQUENTIAL if moved else Form.PARALLEL)
            if not self._still_sums(candidate, self._perturbed(candidate.second)):
                return None
        return self._named(candidate, form)

    def _perturbed(self, call: Call) -> dict[str, Call]:
        """Return the block's calls with noise added to one output."""
        value = _out(call)
        noisy = value + trial_noise(value)
        return calls_once(record(self.host, self.paths, outputs={call.path: noisy}))

    def _still_sums(self, candidate: _Candidate, calls: dict[str, Call]) -> bool:
        first, post = _at(calls, candidate.first), _out(calls[self.path])
        if candidate.form is not Form.NORMED:
            second = 0 if candidate.second is None else _at(calls, candidate.second)
            moved = not is_close(post, self.post, self.host)
            return moved and is_close(self.pre + first + second, post, self.host)
        assert candidate.middle is not None
        assert candidate.last is not None
        assert candidate.second is not None
        middle, last = calls[candidate.middle.path], calls[candidate.last.path]
        assert middle.given is not None
        assert last.given is not None
        return (
            is_close(self.pre + first, middle.given, self.host)
            and is_close(_out(middle) + _at(calls, candidate.second), last.given, self.host)
            and is_close(_out(last), post, self.host)
        )

    def _named(self, candidate: _Candidate, form: Form | None) -> Parts:
        """Return the parts with their roles: attention, MLP, or neither."""
        roles = {
            call.path: self._branch(call) for call in (candidate.first, candidate.second) if call
        }
        attention = [p for p, branch in roles.items() if self._is_attention(branch)]
        mlp = [p for p, b in roles.items() if not self._is_attention(b) and not self._mixes(b)]
        entry = None
        if candidate.second is not None and mlp == [candidate.second.path]:
            entry = self._entry(candidate, form)
        return Parts(
            form=form if candidate.second is not None else None,
            attention=attention[0] if attention else None,
            mlp=mlp[0] if mlp else None,
            middle=candidate.middle.path if candidate.middle else None,
            mlp_entry=entry,
            attention_branch=self._child([roles[path] for path in attention]),
            mlp_branch=self._child([roles[path] for path in mlp]),
        )

    def _entry(self, candidate: _Candidate, form: Form | None) -> str | None:
        """Return the module whose input is the stream that the MLP's branch alone reads."""
        first, second = candidate.first, candidate.second
        assert second is not None
        stream = self.pre if form is Form.PARALLEL else self.pre + _out(first)
        if candidate.middle is not None:
            stream = _out(candidate.middle)
        # The outermost first: its children read the same input, each for a share of the branch.
        for call in reversed(self.inner):
            if call.given is not None and is_close(call.given, stream, self.host):
                noisy = stream + trial_noise(stream)
                changed = calls_once(record(self.host, self.paths, inputs={call.path: noisy}))
                same = is_close(_at(changed, first), _out(first), self.host)
                moved = not is_close(_at(changed, second), _out(second), self.host)
                if same and moved and self._still_sums(candidate, changed):
                    return call.path
        return None

    def _branch(self, call: Call) -> str:
        """Return the block's child that an output comes from, not a norm or dropout after it."""
        returned = [c.path for c in self.inner[: self.inner.index(call) + 1]]
        for path in reversed(returned):
            name = path.removeprefix(f"{self.path}.").split(".")[0]
            if not self._passes_on(name):
                return name
        return call.path.removeprefix(f"{self.path}.").split(".")[0]

    def _is_mixer(self, call: Call) -> bool:
        """True for the output of attention, or of another module that mixes positions."""
        branch = self._branch(call)
        return self._is_attention(branch) or self._mixes(branch)

    def _is_attention(self, branch: str) -> bool:
        words = self._words(branch)
        return bool(_ATTENTION.search(words)) and not _OTHER_MIXER.search(words)

    def _mixes(self, branch: str) -> bool:
        is_linear_map = hasattr(self.block.get_submodule(branch), "weight")
        return bool(_OTHER_MIXER.search(self._words(branch))) and not is_linear_map

    def _words(self, branch: str) -> str:
        """Return the names of a child and its class, without the model family: GptOss is no SSM."""
        child = self.block.get_submodule(branch)
        own = _own_name(type(child).__name__, type(self.block).__name__)
        if _ATTENTION.search(own) or _MLP.search(own):
            branch = branch.replace("mixer", "")  # hybrid models call any child so
        return f"{branch} {own}"

    def _passes_on(self, name: str) -> bool:
        """True for norms, dropout and the like, whose output belongs to the module before them."""
        child = self.block.get_submodule(name)
        own = _own_name(type(child).__name__, type(self.block).__name__)
        is_norm = bool(_NORM.search(own) and not _ATTENTION.search(own))
        return is_norm or isinstance(child, nn.Dropout | nn.Identity)

    def _is_norm(self, call: Call) -> bool:
        return bool(_NORM.search(type(self.host.model.get_submodule(call.path)).__name__))

    def _why_not(self) -> str:
        """Explain why no two outputs make up the block's addition to the stream."""
        delta = (self.post - self.pre).double().flatten()
        for x in self.outputs:
            for y in self.outputs:
                if self._is_mixer(x) and not self._is_mixer(y):
                    pair = torch.stack([_out(x).double().flatten(), _out(y).double().flatten()], 1)
                    scale = torch.linalg.lstsq(pair, delta[:, None]).solution
                    if is_close(self.pre + (pair @ scale).view_as(self.pre), self.post, self.host):
                        a, m = (round(float(s), 6) for s in scale)
                        return (
                            f"it adds {a:g} times the output of attention and {m:g} times the "
                            "output of the MLP"
                        )
        return (
            "its addition to the stream is not the sum of one module's output for attention and "
            "one for the MLP"
        )


def _out(call: Call) -> Stream:
    assert call.returned is not None
    return call.returned


def _at(calls: Mapping[str, Call], call: Call) -> Stream:
    return _out(calls[call.path])


def _own_name(name: str, block: str) -> str:
    """Return a class's name without the words that it shares with its block's class: the family.

    Example:
        >>> _own_name("GptOssMLP", "GptOssDecoderLayer")
        'MLP'
    """
    words, family = (_WORD.findall(each) for each in (name, block))
    while words and family and words[0] == family[0]:
        words, family = words[1:], family[1:]
    return "".join(words)
