"""What a run was asked to do, once command line, environment and defaults are settled."""

import operator
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any

from saebench.data.names import Packing
from saebench.errors import OptionError, nearest
from saebench.subjects.metadata import SHORTEST_CONTEXT, Overrides
from saebench.substitution.names import check_names

DTYPES = ("float32", "tf32", "bfloat16", "float16")


class Profile(StrEnum):
    """How much data a run takes where nothing says so."""

    SMOKE = "smoke"
    STANDARD = "standard"
    RELEASE = "release"


SEQUENCES = {Profile.SMOKE: 64, Profile.STANDARD: 512, Profile.RELEASE: 16_384}
DRAWS = {Profile.SMOKE: 50, Profile.STANDARD: 500, Profile.RELEASE: 500}
DRAWN_SEQUENCES = {Profile.SMOKE: 16, Profile.STANDARD: 64, Profile.RELEASE: 512}
PROMPTS = {Profile.SMOKE: 100, Profile.STANDARD: 1000, Profile.RELEASE: 1000}
LEAST = {
    "sequences": 1,
    "prompts": 1,
    "context": SHORTEST_CONTEXT,
    "batch_size": 1,
    "position": 0,
    "draw_position": 0,
    "draws": 2,
}


class OnInconclusive(StrEnum):
    """What an undecided gate does to the exit code."""

    FAIL = "fail"
    WARN = "warn"


@dataclass(frozen=True)
class Settings:
    """Everything that shapes a run's numbers and verdicts.

    Attributes:
        model: directory or name of the host model; None takes the SAE's metadata.
        dataset: file, directory or hub name of the texts.
        cloze: cloze prompts: a file, a directory, or a name; None for none.
        prompts: how many of them; None takes the profile's number.
        profile: how much data where ``sequences`` is None.
        sequences: how many sequences.
        context: tokens in each; None takes the SAE's training context.
        batch_size: sequences at once; None chooses.
        position: of the token that is substituted alone.
        draw_position: of the token that is substituted alone by many random errors.
        draws: how many of these; None takes the profile's.
        seed: root seed of all noise.
        device: ``auto``, or a torch device.
        dtype: of the model's weights; ``tf32`` for float32 multiplied in TF32, on a GPU.
        packing: how documents become sequences.
        score_bos: count position 0 and special tokens too.
        bos_token: the token, or its id, that sequences begin with where the SAE was trained with
            one first; None takes the tokenizer's BOS, else EOS as TransformerLens does.
        interventions: which of them kl_gap measures; empty for all.
        thresholds: a threshold file; None takes the default one.
        fail_on: further rules.
        baseline: a baseline file, a directory of them or a git ref, to hold the run against.
        inconclusive: whether an undecided gate fails the run.
        stop_early: measure in rounds, and end where every gate is decided.
        overrides: what the SAEs' metadata lacks.
    """

    model: str | None = None
    dataset: str | None = None
    cloze: str | None = None
    prompts: int | None = None
    profile: Profile = Profile.STANDARD
    sequences: int | None = None
    context: int | None = None
    batch_size: int | None = None
    position: int = 32
    draw_position: int = 48
    draws: int | None = None
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    packing: Packing = Packing.DOCUMENTS
    score_bos: bool = False
    bos_token: str | None = None
    interventions: tuple[str, ...] = ()
    thresholds: str | None = None
    fail_on: tuple[str, ...] = ()
    baseline: str | None = None
    inconclusive: OnInconclusive = OnInconclusive.FAIL
    stop_early: bool = False
    overrides: Overrides = field(default_factory=Overrides)

    def __post_init__(self) -> None:
        """Refuse values that no run can have.

        Raises:
            OptionError: naming the option.
        """
        self._read_words()
        self._read_numbers()
        if self.dtype not in DTYPES:
            raise OptionError(
                f"--sae-dtype: unknown value {self.dtype!r}{nearest(self.dtype, DTYPES)}"
            )

    def _read_words(self) -> None:
        for name in ("score_bos", "stop_early"):
            yes_or_no(name, getattr(self, name))
        for name, made in (_WORDS | _CHOICES).items():
            value = getattr(self, name)
            if value is not None or name in _CHOICES:
                object.__setattr__(self, name, made(name, value))
        for name in ("interventions", "fail_on"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        check_names(self.interventions)

    def _read_numbers(self) -> None:
        for name in (*LEAST, "seed"):
            value = whole_number(name, getattr(self, name))
            object.__setattr__(self, name, value)
            if value is not None and value < LEAST.get(name, value):
                raise OptionError(f"{option(name)} must be {LEAST[name]} or more, found {value}")

    @property
    def sequence_count(self) -> int:
        """How many sequences to take."""
        return SEQUENCES[self.profile] if self.sequences is None else self.sequences

    @property
    def draw_count(self) -> int:
        """How many random errors of one token to draw."""
        return DRAWS[self.profile] if self.draws is None else self.draws

    @property
    def drawn_sequences(self) -> int:
        """In how many sequences to draw them."""
        return DRAWN_SEQUENCES[self.profile]

    @property
    def prompt_count(self) -> int:
        """How many cloze prompts to take."""
        return PROMPTS[self.profile] if self.prompts is None else self.prompts


def option(name: str) -> str:
    """Return a field's option on the command line.

    Example:
        >>> option("batch_size")
        '--sae-batch-size'
    """
    return "--sae-" + name.replace("_", "-")


def whole_number(name: str, value: Any) -> int | None:
    """Return a number of any library's; None stays so.

    Raises:
        OptionError: for what is no whole number.
    """
    if value is None:
        return None
    if not isinstance(value, bool):
        with suppress(TypeError):
            return operator.index(value)
    raise OptionError(f"{option(name)}: expected a whole number, found {value!r}")


def yes_or_no(name: str, value: Any) -> None:
    """Refuse what is neither True nor False: the word "false" would count as true.

    Raises:
        OptionError: for anything else but None.
    """
    if value is not None and not isinstance(value, bool):
        raise OptionError(f"{option(name)}: expected True or False, found {value!r}")


def _path(name: str, value: Any) -> str:
    """Return a path or a name as text; judge() may be given path objects."""
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)  # pyright: ignore[reportReturnType]
    raise OptionError(f"{option(name)}: expected a path or a name, found {value!r}")


def _word(name: str, value: Any) -> str:  # noqa: ARG001  (all of these take an option's name)
    """Return a device, a token or its id as text; judge() may be given objects."""
    return str(value)


def _dtype(name: str, value: Any) -> str:  # noqa: ARG001
    """Return a dtype's name; judge() may be given torch's own."""
    return str(value).removeprefix("torch.")


def _member(name: str, value: str, kind: type[StrEnum]) -> StrEnum:
    """Return the enum's member of that value."""
    try:
        return kind(value)
    except ValueError as error:
        known = [str(member.value) for member in kind]
        raise OptionError(
            f"--sae-{name}: unknown value {value!r}{nearest(str(value), known)}"
        ) from error


_WORDS: dict[str, Callable[[str, Any], str]] = {
    "model": _path, "dataset": _path, "cloze": _path, "thresholds": _path, "baseline": _path,
    "device": _word, "dtype": _dtype, "bos_token": _word,
}  # fmt: skip
_CHOICES: dict[str, Callable[[str, Any], str]] = {
    "profile": partial(_member, kind=Profile),
    "packing": partial(_member, kind=Packing),
    "inconclusive": partial(_member, kind=OnInconclusive),
}
