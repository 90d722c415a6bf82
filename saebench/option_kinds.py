"""What an option is: its names, the kind of its values, and how a value is read and checked."""

import operator
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from saebench.errors import OptionError, nearest

TRUE, FALSE = ("true", "yes", "1"), ("false", "no", "0")
ALLOW_PARTIAL = "--sae-allow-partial"  # the command that measures one case again always has it
_METADATA = "option"


class Group(StrEnum):
    """What options are about; the help lists them by it."""

    SAE = "SAEs, and what their metadata lacks"
    DATA = "model, texts, and how much is measured"
    GATE = "gates, baselines and verdicts"
    OUTPUT = "files that are written"
    SCALE = "several processes, or a Ray cluster"


@dataclass(frozen=True)
class Kind:
    """The kind of an option's values.

    Attributes:
        expected: what an error message asks for.
        metavar: what the help calls a value; empty for a flag, which takes none.
        convert: returns a Python value in the form that the records hold; raises TypeError or
            ValueError for what it cannot be.
        parse: reads what was written on the command line, in the environment or in
            pyproject.toml. A text that it cannot read is returned as it is: ``convert`` refuses it.
        choices: the values that there are, where they are few.
        repeatable: True where the option may be given several times.
        default: of an option that declares none.
        argparse_type: what argparse reads a value with; None leaves the text.
    """

    expected: str
    metavar: str
    convert: Callable[[Any], Any]
    parse: Callable[[Any], Any] = lambda written: written
    choices: tuple[str, ...] = ()
    repeatable: bool = False
    default: Any = None
    argparse_type: Callable[[str], Any] | None = None


@dataclass(frozen=True)
class Option:
    """An option of ``pytest``, with the names that it has elsewhere.

    Attributes:
        group: what it is about.
        kind: of its values.
        about: its help.
        default: where nobody gives it; None in its place means it too.
        least: the least number that it may be.
        name: in pyproject.toml, and on the command line after ``--sae-``.
        field: in the records of options, and as a keyword of ``judge()``.
    """

    group: Group
    kind: Kind
    about: str
    default: Any = None
    least: int | None = None
    name: str = ""
    field: str = ""

    @property
    def flag(self) -> str:
        """The option on the command line."""
        return "--sae" if self.name == "sae" else f"--sae-{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable that gives it too."""
        return "SAEBENCH_" + self.name.upper().replace("-", "_")

    @property
    def takes_value(self) -> bool:
        """False for a flag."""
        return bool(self.kind.metavar)

    @property
    def reproduced(self) -> bool:
        """True where the command that measures a case again repeats it."""
        return self.group is not Group.OUTPUT and self.flag != ALLOW_PARTIAL

    @property
    def help(self) -> str:
        """What it does, with its default."""
        nothing = self.default is None or self.default is False or self.default == ()
        if nothing or "(default" in self.about:
            return self.about
        return f"{self.about} (default {self.default})"

    @property
    def declaration(self) -> dict[str, Any]:
        """How argparse, and pytest, declare it; it is None where it was not given."""
        common: dict[str, Any] = {"default": None, "help": self.help}
        if not self.takes_value:
            return common | {"action": "store_true"}
        action = "append" if self.kind.repeatable else "store"
        read = self.kind.argparse_type
        converted = {"type": read} if read else {}
        return common | converted | {"action": action, "metavar": self.kind.metavar}

    def check(self, value: Any) -> Any:
        """Return a Python value as the records hold it; None is the default.

        Raises:
            OptionError: naming the option, for a value that it cannot have.
        """
        if value is None:
            return self.default
        try:
            converted = self.kind.convert(value)
        except (TypeError, ValueError) as error:
            raise OptionError(
                f"{self.flag}: expected {self.kind.expected}, found {value!r}"
            ) from error
        choices = self.kind.choices
        if choices and converted not in choices:
            raise OptionError(
                f"{self.flag}: unknown value {converted!r}{nearest(converted, map(str, choices))}"
            )
        if self.least is not None and converted < self.least:
            raise OptionError(f"{self.flag} must be {self.least} or more, found {converted}")
        return choices[choices.index(converted)] if choices else converted


def option(
    group: Group,
    kind: Kind,
    about: str,
    *,
    default: Any = None,
    least: int | None = None,
    name: str = "",
) -> Any:
    """Declare a field of a record as an option; its name is the field's where none is given."""
    default = kind.default if default is None else default
    declared = Option(group, kind, about, default, least, name)
    return field(default=default, metadata={_METADATA: declared})


@cache
def options_of(record: type) -> tuple[Option, ...]:
    """Return the options that are fields of a record, and of the records within it."""
    return tuple(_options_of(record))


def _options_of(record: type) -> Iterator[Option]:
    for each in fields(record):
        if is_dataclass(each.type):
            assert isinstance(each.type, type)
            yield from options_of(each.type)
        if declared := each.metadata.get(_METADATA):
            name = declared.name or each.name.replace("_", "-")
            yield replace(declared, name=name, field=each.name)


class OptionRecord:
    """Base of the frozen dataclasses of options, which check and convert values when built."""

    def __post_init__(self) -> None:
        """Check each value.

        Raises:
            OptionError: naming the option, for a value that it cannot have.
        """
        own = {each.name for each in fields(self)}  # pyright: ignore[reportArgumentType]
        for each in options_of(type(self)):
            if each.field in own:
                object.__setattr__(self, each.field, each.check(getattr(self, each.field)))


def several(separator: str, metavar: str, *, repeatable: bool = False) -> Kind:
    """Return the kind of an option that has several values.

    Args:
        separator: between the values in one text.
        metavar: what the help calls them.
        repeatable: whether the option itself may be given several times.
    """

    def parse(written: Any) -> Any:
        parts = written.split(separator) if isinstance(written, str) else written
        return [part.strip() for part in parts if part.strip()] if _are_texts(parts) else written

    return Kind("a list of texts", metavar, _texts, parse, repeatable=repeatable, default=())


def choice(values: Iterable[str]) -> Kind:
    """Return the kind of an option that is one of a few words."""
    words = tuple(values)
    return Kind("one of a few words", "|".join(words), str, choices=words)


def _are_texts(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(v, str) for v in values)


def _texts(value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value)
    if not _are_texts(texts):
        raise TypeError
    return texts


def _boolean(value: Any) -> bool:
    """Refuse what is neither True nor False: the word "false" would count as true."""
    if not isinstance(value, bool):
        raise TypeError
    return value


def _written_boolean(written: Any) -> Any:
    word = str(written).lower()
    return word in TRUE if word in TRUE + FALSE else written


def _whole_number(value: Any) -> int:
    """Return a whole number, of numpy too, as Python's."""
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


def _number(value: Any) -> float:
    if isinstance(value, str | bool) or not abs(number := float(value)) < float("inf"):
        raise TypeError
    return number


def _written_number(read: Callable[[str], Any]) -> Callable[[Any], Any]:
    def parse(written: Any) -> Any:
        with suppress(ValueError):
            return read(written) if isinstance(written, str) else written
        return written

    return parse


TRUE_OR_FALSE = Kind("True or False", "true|false", _boolean, _written_boolean)
FLAG = replace(TRUE_OR_FALSE, metavar="", default=False)
WHOLE = Kind("a whole number", "N", _whole_number, _written_number(int), argparse_type=int)
NUMBER = Kind("a number", "X", _number, _written_number(float))
PATH_OR_NAME = Kind("a path or a name", "PATH|NAME", os.fsdecode)
FILE = Kind("a path", "FILE", lambda value: Path(os.path.expanduser(value)))
DIRECTORY = replace(FILE, metavar="DIR")
# Words that Python code may give as objects: a torch device, the id of a token.
WORD = Kind("a word", "NAME", str)
