"""Texts for terminals, pages and paths, made safe whatever the names in them contain."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def plain_text(text: str) -> str:
    r"""Return a text on one line, each unprintable character replaced by a question mark.

    A name in it must not colour or clear the terminal, reverse the direction of writing, or begin
    a new line, which a CI service may take for a command.

    Example:
        >>> plain_text("a\x1b[31mb\n::error::c")
        'a?[31mb?::error::c'
    """
    return "".join(c if c.isprintable() else "?" for c in from_system(text))


def plain_lines(text: str) -> str:
    r"""Return a text of several lines, each printable; all but the first begin with a bar.

    Example:
        >>> print(plain_lines("rule not understood:\n  a.b<\n     ^"))
        rule not understood:
        |   a.b<
        |      ^
    """
    first, *others = text.split("\n")
    return "\n".join([plain_text(first), *(f"| {plain_text(line)}" for line in others)])


def from_system(name: str) -> str:
    r"""Return a path or an argument as it is written in UTF-8, whatever the locale.

    In the C locale, Python decodes each byte that is not ASCII as half of a surrogate pair. A name
    that is not UTF-8 is returned unchanged.

    Example:
        >>> from_system("M\udcc3\udca4rchen"), from_system("Märchen"), from_system("\udce4")
        ('Märchen', 'Märchen', '\udce4')
    """
    if name.isascii():
        return name
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        return name


def first_line(error: BaseException) -> str:
    r"""Return an exception's message up to its first line break, or its repr without a message.

    Example:
        >>> first_line(ValueError("no\nat all")), first_line(KeyError())
        ('no', 'KeyError()')
    """
    return (str(error).strip() or repr(error)).splitlines()[0]


def percent(share: float) -> str:
    """Return a share as a percentage that does not round to 100%.

    Example:
        >>> percent(0.95), percent(0.975), percent(0.9999878)
        ('95%', '97.5%', '99.9988%')
    """
    return f"{100 * share:.6g}%"


def is_unicode(text: str) -> bool:
    r"""Return whether a text can be written: half of a surrogate pair cannot.

    Example:
        >>> is_unicode("é"), is_unicode("\ud800")
        (True, False)
    """
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


LONGEST = 120  # bytes: suffixes are appended, and file systems take 255


_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9]|conin\$|conout\$)(\.|$)", re.IGNORECASE)


def file_part(name: str) -> str:
    r"""Return a name as one harmless part of a path, the same on every system.

    No separator, no leading or trailing dot, none of Windows' device names, not too long.

    Example:
        >>> file_part("../org/name"), file_part("NUL"), file_part("a\x00b\\c.")
        ('__org_name', '_NUL', 'a_b_c_')
    """
    clean = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:LONGEST] or "_"
    clean = re.sub(r"^\.+", "_", clean)
    clean = re.sub(r"\.+$", "_", clean)
    return f"_{clean}" if _RESERVED.match(clean) else clean


ESCAPED = "backslashreplace"


@contextmanager
def every_text(stream: Any) -> Iterator[None]:
    r"""Escape, within the context, what a stream's encoding lacks: ``≤`` is ``\u2264`` in ASCII.

    Args:
        stream: sys.stdout or sys.stderr. A notebook's or a test's replacement, which has no
            encoding, is left unchanged.
    """
    before = getattr(stream, "errors", None)
    if not hasattr(stream, "reconfigure") or before == ESCAPED:
        yield
        return
    stream.reconfigure(errors=ESCAPED)
    try:
        yield
    finally:
        if not stream.closed:
            stream.reconfigure(errors=before)
