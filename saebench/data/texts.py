"""What may stand for a document: a string that can be written, or nothing at all."""

from typing import Any

from saebench.data.text_files import MARK
from saebench.errors import DataError
from saebench.shown import is_unicode

FIELD = "text"
SHOWN = 40  # characters of a value that an error repeats


def text_of_row(row: Any, where: str) -> str | None:
    """Return the text in a row of a data set; None where the row says that it has none (null).

    Args:
        row: the row's columns by name.
        where: the row's place, for messages.

    Raises:
        DataError: for a row without the column, or a value that is no text.
    """
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a string under {FIELD!r}, found {described(row)}")
    if FIELD not in row:
        raise DataError(f"{where}: expected a string under {FIELD!r}, found {sorted(row)}")
    return checked_text(row[FIELD], where, expected=f"a string under {FIELD!r}")


def checked_text(value: Any, where: str, *, expected: str = "a string") -> str | None:
    """Return a text without the byte order mark that it may begin with; None for no text.

    Args:
        value: what stands for the document.
        where: its place, for messages.
        expected: what was to stand there.

    Raises:
        DataError: for what is no text, or half a character.
    """
    if is_null(value):
        return None
    if not isinstance(value, str):
        raise DataError(f"{where}: expected {expected}, found {described(value)}")
    if not is_unicode(value):
        raise DataError(f"{where}: half a character (a lone surrogate) in it: {value[:SHOWN]!r}")
    return str(value).removeprefix(MARK)


def is_null(value: Any) -> bool:
    """True for what data frames and JSON have where there is nothing: None, NaN, NaT, NA.

    Example:
        >>> is_null(None), is_null(float("nan")), is_null("")
        (True, True, False)
    """
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and value != value


def described(value: Any) -> str:
    """Return a value in a few words, for an error that says what was found.

    Example:
        >>> described(3), described(["a"])
        ('a number (3)', "a list (['a'])")
    """
    if is_null(value):
        return "null"
    kinds = {bool: "true or false", int: "a number", float: "a number", list: "a list",
             tuple: "a list", dict: "an object", bytes: "bytes", str: "a string"}  # fmt: skip
    kind = next((n for k, n in kinds.items() if isinstance(value, k)), type(value).__name__)
    shown = repr(value)
    return f"{kind} ({shown[:SHOWN]}{'…' if len(shown) > SHOWN else ''})"
