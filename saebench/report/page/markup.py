"""HTML from untrusted texts: everything is escaped unless it is markup already."""

import base64
import gzip
import json
import math
import unicodedata
from html import escape
from typing import Any

from saebench.records.verdict import Verdict
from saebench.report.style import LOOKS

VOID = {"meta", "input", "br", "link"}
INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
JOINERS = {"\u200d", "\ufe0f"}  # of emoji


class Markup(str):
    """A text that is HTML already."""

    __slots__ = ()


def visible(text: str) -> str:
    r"""Return a text with invisible characters made visible.

    Control characters, directions, halves of surrogate pairs: a name must not reorder or hide
    the text next to it.

    Example:
        >>> visible("a\x1bb\u202ec")
        'a␛b⟨U+202E⟩c'
    """
    return "".join(_visible(char) for char in text)


def _visible(char: str) -> str:
    if char.isprintable() or char in JOINERS:
        return char
    if ord(char) < 0x20:
        return chr(0x2400 + ord(char))
    if unicodedata.category(char) in INVISIBLE:
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
    attribute = name.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    if value is True:
        return f" {attribute}"
    return f' {attribute}="{escape(visible(value))}"'


def badge(verdict: str) -> Markup:
    """Return a verdict as an element; other words are shown as they are."""
    shape = LOOKS[Verdict(verdict)].shape if verdict in set(Verdict) else ""
    return tag(
        "span", tag("span", shape, aria_hidden="true"), verdict,
        class_=f"badge v-{verdict.lower()}" if shape else "badge",
    )  # fmt: skip


DIGITS = 4


def packed(content: bytes) -> str:
    """Return bytes compressed, as base64: the page's script unpacks them."""
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()


def block(id: str, content: str) -> Markup:
    """Return packed content as an element that a browser does not parse."""
    return tag("script", Markup(content), id=id, type="application/octet-stream")


def packed_json(content: Any) -> str:
    """Return content as packed JSON: numbers to four digits, invisible characters made visible."""
    text = json.dumps(_rounded(content), separators=(",", ":"), allow_nan=False)
    return packed(text.encode())


def _rounded(content: Any) -> Any:
    if isinstance(content, float):
        return float(f"{content:.{DIGITS}g}") if math.isfinite(content) else None
    if isinstance(content, str):
        return visible(content)
    if isinstance(content, dict):
        return {key: _rounded(value) for key, value in content.items()}
    if isinstance(content, list | tuple | range):
        return [_rounded(value) for value in content]
    return content
