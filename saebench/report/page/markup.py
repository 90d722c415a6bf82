"""HTML from texts that are never trusted: everything is escaped unless it is markup already."""

import unicodedata
from html import escape

VOID = {"meta", "input", "br", "link"}
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
KEPT = {"\u200d", "\ufe0f"}  # they join emoji


class Markup(str):
    """A text that is HTML already."""

    __slots__ = ()


def visible(text: str) -> str:
    r"""Return a text with what cannot be seen made visible: control characters, directions,
    halves of surrogate pairs. A name must not reorder or hide what stands beside it.

    Example:
        >>> visible("a\x1bb\u202ec")
        'a␛b⟨U+202E⟩c'
    """  # noqa: D205
    return "".join(_seen(char) for char in text)


def _seen(char: str) -> str:
    if char.isprintable() or char in KEPT:
        return char
    if ord(char) < 0x20:
        return chr(0x2400 + ord(char))
    if unicodedata.category(char) in HIDDEN:
        return f"⟨U+{ord(char):04X}⟩"
    return char


def tag(name: str, /, *children: str, **attributes: "str | bool | None") -> Markup:
    """Return an element; ``class_`` is class, and ``data_x`` is data-x.

    Example:
        >>> tag("p", "a < b", class_="note")
        '<p class="note">a &lt; b</p>'
    """
    inner = "".join(map(text, children))
    opening = f"<{name}{''.join(_attribute(k, v) for k, v in attributes.items())}>"
    return Markup(opening if name in VOID else f"{opening}{inner}</{name}>")


def text(child: str) -> Markup:
    """Return a text escaped, and markup as it is."""
    return child if isinstance(child, Markup) else Markup(escape(visible(child)))


def joined(*children: str) -> Markup:
    """Return several texts and elements in a row."""
    return Markup("".join(map(text, children)))


def _attribute(name: str, value: "str | bool | None") -> str:
    shown = name.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    if value is True:
        return f" {shown}"
    return f' {shown}="{escape(visible(value))}"'
