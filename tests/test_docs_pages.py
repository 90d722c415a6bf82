"""The pages of docs/: metrics as the properties declare them, links that lead somewhere."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from runs import make_case, make_run

from saebench import __version__
from saebench.properties import metric_names, properties
from saebench.records.verdict import Verdict

ROOT = Path(__file__).resolve().parents[1]
METRICS = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "perf" / "README.md"]
CITING = [*PAGES, *ROOT.glob("baselines/*.toml"), *ROOT.glob("benchmarks/*.py")]
CITING += [*ROOT.glob("perf/**/*.py")]


def _section(name):
    """A property's section: from its heading to the next one."""
    found = re.search(rf"^## {name}\n(.*?)^## ", METRICS, re.MULTILINE | re.DOTALL)
    assert found, f"docs/metrics.md has no section {name}"
    return found[1]


def _family(name):
    """As the tables write it: what is in brackets is said in words."""
    return re.sub(r"\[.*\]", "[…]", name)


@pytest.mark.parametrize("name", sorted(properties()))
def test_each_metric_is_defined_with_its_unit_direction_and_version(name):
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \| (.+?) \| (.+?) \| (\d+) \|$", _section(name), re.M)
    defined = {family: (unit, best, version) for family, _, unit, best, version in rows}
    for spec in properties()[name].metrics:
        unit, best, version = defined[_family(spec.name)]
        assert unit.replace("\\|", "|") in (spec.unit, "that metric's")
        assert best == (spec.direction.value if spec.target is None else f"{spec.target:g}")
        assert int(version) == spec.version
    assert set(defined) == {_family(spec.name) for spec in properties()[name].metrics}


def test_the_page_names_every_metric_in_full_and_no_other():
    named = set(re.findall(rf"`((?:{'|'.join(properties())})\.[^`*]+)`", METRICS))
    families = {name for name in named if name.endswith("[…]")}
    assert named - families == metric_names()
    assert families <= {_family(name) for name in metric_names()}


def _anchor(heading):
    """GitHub's: lower case, no punctuation, hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if path.startswith(("http://", "https://", "mailto:")):
            continue
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(_anchor, headings), f"{page.name} links to {target}"


def test_every_page_that_a_text_names_in_capitals_is_in_the_repository():
    for file in CITING:
        named = re.findall(r"\b[A-Z]{3,}\.md\b", file.read_text(encoding="utf-8"))
        missing = [name for name in named if not list(ROOT.glob(f"**/{name}"))]
        assert not missing, f"{file.relative_to(ROOT)} names {missing}"


def test_works_are_cited_by_author_and_not_by_number():
    for file in CITING:
        assert not re.search(r"\bseeds? 0\d\d\b", file.read_text(encoding="utf-8").lower()), file


def test_the_index_lists_every_page_of_docs():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"]({page.name})" in index


def _example(name):
    """What the Python block of docs/extending.md that defines a name makes of it."""
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (block,) = [b for b in blocks if re.search(rf"^(class |def )?{name}\b", b, re.MULTILINE)]
    defined = {}
    exec(compile(block, "docs/extending.md", "exec"), defined)
    return defined[name]


class _Measurement:
    def table(self):
        n = np.full(8, 10.0)
        return {"squared_error": 0.5 * n, "squared_output": 2.0 * n, "n.scored": n}


def test_the_example_property_measures_what_its_page_says():
    declared = _example("PROPERTY")
    assert declared.interventions({}) == ()
    (metric,) = declared.findings(_Measurement(), {}).metrics
    assert (metric.name, metric.value, metric.n.sequences) == ("noise.ratio", 0.25, 8)


def test_the_example_format_reads_its_directory(tmp_path):
    format_ = _example("MyLab")()
    assert not format_.matches(tmp_path)
    (tmp_path / "mylab.json").write_text('{"d_in": 4}')
    assert format_.matches(tmp_path)
    assert format_.config(tmp_path) == {"d_in": 4}


def test_the_example_renderer_gives_a_line_for_each_case():
    cases = [make_case("one", about, Verdict.PASS) for about in ("fidelity", "sparsity")]
    judged = make_run(*cases)
    lines = _example("verdict_lines")(judged).splitlines()
    assert lines == [f"{case.id}\t{case.verdict}" for case in judged.cases]


def test_the_citation_has_what_its_format_requires_and_the_version_of_the_package():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["cff-version"] == "1.2.0"
    assert cited["message"]
    assert cited["title"]
    assert all({"name"} <= set(author) for author in cited["authors"])
    assert cited["version"] == __version__


def test_the_licence_of_the_package_is_in_the_repository():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("MIT License\n\nCopyright (c) 2026 saebench contributors\n")
