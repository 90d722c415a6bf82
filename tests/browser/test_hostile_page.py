"""Names and texts that try to be more than texts."""

import json
from dataclasses import replace

from hostile import NAMES, hostile_run
from runs import make_case, make_run

from saebench.records.boards import Leaderboard
from saebench.records.metric import Interval
from saebench.records.verdict import Verdict
from saebench.report.page.leaderboard_page import leaderboard_page
from saebench.report.page.run_page import run_page
from saebench.store.json_files import dump_record, parse_run


def test_hostile_names_are_texts_everywhere(opened, tmp_path):
    path = tmp_path / "page.html"
    path.write_bytes(run_page(hostile_run(*NAMES)).encode())
    page = opened(path).ready().page
    page.click("#kl-by-position summary")
    for i in range(len(NAMES)):
        page.select_option("#sae", str(i))
        name = page.text_content(f"#sae option:nth-child({i + 1})")
        said = "name => document.querySelector('#hard-texts .token')?.textContent === name"
        page.wait_for_function(said, arg=name)
        assert name in page.text_content("#single-examples .about")
    assert page.title().endswith("saebench")
    assert page.evaluate("document.querySelectorAll('img, iframe, object, embed').length") == 0
    links = page.eval_on_selector_all("a", "all => all.map(a => a.getAttribute('href'))")
    assert [link for link in links if not link.startswith("#")] == []
    assert page.evaluate("document.querySelectorAll('#main b, #main i, #main u').length") == 0


def test_what_cannot_be_seen_is_made_visible(opened, tmp_path):
    path = tmp_path / "page.html"
    path.write_bytes(run_page(hostile_run("a\x1bb\u202ec\u2028d\ud800e")).encode())
    assert "a␛b⟨U+202E⟩c⟨U+2028⟩d⟨U+D800⟩e" in opened(path).page.text_content("h1")


def test_a_script_that_got_in_would_not_run(opened, tmp_path):
    page = run_page(hostile_run("plain one"))
    hurt = page.replace("<main", "<script>document.title = 'owned'</script><main", 1)
    (tmp_path / "page.html").write_text(hurt, encoding="utf-8")
    found = opened(tmp_path / "page.html")
    assert found.page.title() != "owned"
    assert any("Content Security Policy" in error for error in found.errors)
    found.errors.clear()


def test_two_hundred_saes_of_forty_metrics_open_within_three_seconds(opened, tmp_path):
    path = tmp_path / "large.html"
    path.write_bytes(run_page(_large_run(200, 40)).encode())
    assert path.stat().st_size <= 6_000_000
    found = opened(path)
    # By the browser's own clock: from the request to tables that sort and figures that draw.
    opened_ms = found.page.evaluate("performance.getEntriesByName('open')[0].startTime")
    assert opened_ms <= 3000
    assert len(found.rows("saes")) == 50
    found.page.fill("[data-table=saes] .filter", "sae-199")
    found.page.wait_for_function(
        "() => document.querySelectorAll('[data-table=saes] tbody tr').length === 1"
    )


def _large_run(saes, metrics):
    """A run as large as sweeps are, with curves and histograms for each SAE."""
    names = [f"sae-{i}" for i in range(saes)]
    curve = {b: [None, *(0.1 + (i * 7919 % 101) / 100 for i in range(127))] for b in "abcdefghijk"}
    counts = {
        b: {"edges": [10 ** (i / 9) for i in range(91)], "counts": [*range(90)]} for b in "ab"
    }
    cases = []
    for i, name in enumerate(names):
        case = make_case(name, "kl_gap", list(Verdict)[i % 2], name="kl_gap.ratio[eps_random]")
        first = replace(case.metrics[0], ci=Interval(0.1, 0.2 + i, 0.95, "BCa"))
        many = tuple(replace(first, name=f"kl_gap.kl[b{k}]", value=0.1 + k) for k in range(metrics))
        series = {"kl_by_position": curve, "ce_increase_by_position": curve, "kl_histogram": counts}
        cases.append(replace(case, params={"scope": "all"}, metrics=many, series=series))
    return parse_run(dump_record(make_run(*cases, saes=tuple(names))), where="large")


def test_an_empty_leaderboard_opens(opened, tmp_path):
    (tmp_path / "board.html").write_text(leaderboard_page(Leaderboard(1, (), ())), encoding="utf-8")
    found = opened(tmp_path / "board.html").ready()
    assert "0 SAEs" in found.page.text_content("h1")
    assert (
        json.loads(found.page.evaluate("JSON.stringify(document.title)"))
        == "Leaderboard · saebench"
    )
