"""Every escape of the page's markup is needed: with one of them off a name comes to life."""

from html import escape
from html.parser import HTMLParser

import pytest
from hostile import NAMES, WORST, hostile_repair, hostile_run

from saebench.report.page import markup
from saebench.report.page import markup as blocks
from saebench.report.page.markup import Markup, visible
from saebench.report.page.run_page import run_page

KNOWN = {"onerror", "src"}
HIDDEN = "\u202e\u2028\x1b"


class Seen(HTMLParser):
    """Notes what a browser would take for elements, and texts with characters nobody sees."""

    def __init__(self):
        super().__init__()
        self.found = set()
        self.scripts = 0

    def handle_starttag(self, tag, attrs):
        told = dict(attrs)
        self.scripts += tag == "script"
        if tag in ("img", "b", "i", "u") or KNOWN & set(told):
            self.found.add(f"<{tag}>")
        if tag == "a" and not (told.get("href") or "").startswith("#"):
            self.found.add("link")
        self._look(" ".join(v or "" for v in told.values()))

    def handle_data(self, data):
        self._look(data)

    def _look(self, text):
        if set(text) & set(HIDDEN):
            self.found.add("hidden")


def came_to_life(names=(*NAMES, WORST)):
    page = run_page(hostile_run(*names), repairs=[hostile_repair(WORST)])
    seen = Seen()
    seen.feed(page)
    plain = run_page(hostile_run(*(f"sae-{i}" for i in range(len(names)))),
                     repairs=[hostile_repair("sae")])  # fmt: skip
    other = Seen()
    other.feed(plain)
    return seen.found | ({"script"} if seen.scripts != other.scripts else set())


def _attribute(name, value, *, shown):
    told = name.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {told}" if value is True else f' {told}="{shown(value)}"'


ESCAPES = {
    "texts": (markup, "text", lambda c: c if isinstance(c, Markup) else Markup(visible(c))),
    "hidden in texts": (
        markup, "text", lambda c: c if isinstance(c, Markup) else Markup(escape(c)),
    ),
    "attributes": (markup, "_attribute", lambda n, v: _attribute(n, v, shown=visible)),
    "hidden in attributes": (markup, "_attribute", lambda n, v: _attribute(n, v, shown=escape)),
    "data": (blocks, "packed", lambda content: content.decode()),
}  # fmt: skip


def test_no_name_comes_to_life():
    assert came_to_life() == set()


@pytest.mark.parametrize("off", ESCAPES)
def test_without_one_of_its_escapes_a_name_comes_to_life(monkeypatch, off):
    where, name, instead = ESCAPES[off]
    monkeypatch.setattr(where, name, instead)
    assert came_to_life()


def test_texts_in_data_show_what_cannot_be_seen(monkeypatch):
    monkeypatch.setattr(blocks, "packed", lambda content: content.decode())
    assert not set(blocks.packed_json({"a": [WORST]})) & set("\u202e\x1b")
    assert "\\u202e" not in blocks.packed_json({"a": [WORST]})
    monkeypatch.setattr(blocks, "visible", lambda text: text)
    assert "\\u202e" in blocks.packed_json({"a": [WORST]})
