"""Every escape of the page's scripts is needed: with one of them off a name comes to life."""

import pytest
from hostile import WORST, came_to_life, hostile_repair, hostile_run

from saebench.report.page import document
from saebench.report.page.run_page import run_page

ESCAPES = {
    "plotly's tags": ("plots.js", '.replaceAll("<", "&lt;")', ""),
    "names of layers": ("plots.js", "name: plain(layer.name)", "name: layer.name"),
    "places on an axis": ("plots.js", '(typeof v === "string" ? plain(v) : v)', "v"),
    "tokens of a text": ("plots.js", "textContent: token", "innerHTML: token"),
    "choices of a figure": ("figures.js", "textContent: label", "innerHTML: label"),
    "a figure as a table": ("figures.js", '{ textContent: c ?? "" }', '{ innerHTML: c ?? "" }'),
    "what a figure is of": ("figures.js", '$(".of-sae", this.element).textContent',
                            '$(".of-sae", this.element).innerHTML'),
    "what a chart is about": ("figures.js", '$(".about", this.element).textContent',
                              '$(".about", this.element).innerHTML'),
    "cells of a table": ("tables.js", "td.append(i === at ? badge(textOf(cell)) : textOf(cell));",
                         "td.innerHTML = textOf(cell);"),
}  # fmt: skip
SHORT = ("plotly's tags", "cells of a table")  # CI's; all of them: make test-slow


def _open(opened, tmp_path, name="page.html"):
    path = tmp_path / name
    run = hostile_run("first", WORST)
    path.write_bytes(run_page(run, repairs=[hostile_repair(WORST)]).encode())
    return opened(path)


def test_no_name_comes_to_life(opened, tmp_path):
    found = _open(opened, tmp_path)
    for sae in ("0", "1"):
        found.page.select_option("#sae", sae)
        assert came_to_life(found.page) == []


@pytest.mark.parametrize(
    "escape",
    [n if n in SHORT else pytest.param(n, marks=pytest.mark.slow) for n in ESCAPES],
)
def test_without_one_of_its_escapes_a_name_comes_to_life(opened, tmp_path, monkeypatch, escape):
    file, kept, off = ESCAPES[escape]
    asset = document._asset

    def hurt(name):
        text = asset(name)
        assert name != file or kept in text, f"{file} has changed: {kept} is no longer in it"
        return text.replace(kept, off) if name == file else text

    monkeypatch.setattr(document, "_asset", hurt)
    found = _open(opened, tmp_path)
    alive = []
    for sae in ("0", "1"):
        found.page.select_option("#sae", sae)
        alive += came_to_life(found.page)
    assert alive
    found.errors.clear()
    found.requests.clear()
