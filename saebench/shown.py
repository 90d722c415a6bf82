"""Texts for people that never steer what shows them, whoever wrote the names in them."""


def plain_text(text: str) -> str:
    r"""Return a text on one line, without what cannot be seen.

    A name in it must not colour or clear the terminal, turn the writing's direction, or begin a
    line of its own, which a CI service may take for a command.

    Example:
        >>> plain_text("a\x1b[31mb\n::error::c")
        'a?[31mb?::error::c'
    """
    return "".join(c if c.isprintable() else "?" for c in from_system(text))


def plain_lines(text: str) -> str:
    r"""Return a text that may have several lines; all but the first are marked as going on.

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

    Where the locale is C, Python has what is not ASCII in it as halves of surrogate pairs, one for
    each byte. What is no UTF-8 at all stays as it is.

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
