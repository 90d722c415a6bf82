"""The report of a real run, driven as a reader drives it."""

import pytest

DRAWN = """figures => figures.map(f => [f.id,
  f.querySelectorAll('.js-plotly-plot .trace, .js-plotly-plot .point, .js-plotly-plot .points path,'
    + '.js-plotly-plot .hm image, .js-plotly-plot .heatmaplayer image, .token').length])"""
FIGURES = {
    "kl-of-interventions", "kl-histogram", "kl-by-position", "ce-increase-by-position",
    "context-all", "context-position", "single-offsets", "single-draws", "single-z",
    "single-examples", "cloze-accuracy", "cloze-ce", "cloze-scatter-mse",
    "cloze-scatter-ce-increase", "cloze-strip", "cloze-parallel", "propagation-maps",
    "helpfulness-mean-delta", "helpfulness-score", "hard-texts", "frontier", "controls-margins",
    "cost-stages",
}  # fmt: skip


@pytest.fixture(scope="module")
def figures_of_both(judged):
    """Each SAE's id, as the chooser lists them."""
    return [sae["id"] for sae in judged.content["saes"]]


def test_every_published_figure_is_drawn_with_data(report):
    page = report.page
    drawn = dict(page.eval_on_selector_all("[data-figure]", DRAWN))
    assert set(drawn) >= FIGURES
    assert [name for name, marks in drawn.items() if not marks] == []


def test_every_intervention_has_a_colour_of_its_own(report):
    bars = "document.querySelector('#kl-of-interventions .js-plotly-plot').data"
    colours = report.page.evaluate(f"{bars}.map(bar => bar.marker.color)")
    assert len(colours) == 12
    assert len(set(colours)) == len(colours)


def test_every_figure_says_how_much_it_rests_on_and_its_interval(report):
    page = report.page
    notes = page.eval_on_selector_all("[data-figure] .n", "notes => notes.map(n => n.textContent)")
    assert notes
    for note in notes:
        assert note.startswith("n = ")
        assert any(word in note for word in ("CI", "interval")), note


def test_every_view_of_every_figure_draws(report, figures_of_both):
    found = report
    for sae in range(len(figures_of_both)):
        found.page.select_option("#sae", str(sae))
        for chooser in found.page.query_selector_all("[data-figure] .views"):
            for option in chooser.query_selector_all("option"):
                if chooser.is_visible():
                    chooser.select_option(option.get_attribute("value"))
    found.page.wait_for_timeout(300)
    empty = found.page.eval_on_selector_all(
        "[data-figure]", "fs => fs.filter(f => !f.dataset.drawn).map(f => f.id)"
    )
    assert empty == []


def test_another_sae_is_chosen_for_all_figures_and_tables(report, figures_of_both):
    found = report
    shown = found.page.text_content("#kl-histogram .of-sae")
    other = next(
        i for i in range(2) if found.page.text_content(f"#sae option:nth-child({i + 1})") != shown
    )
    found.page.select_option("#sae", str(other))
    name = found.page.text_content(f"#sae option:nth-child({other + 1})")
    found.page.wait_for_function(
        "n => document.querySelector('#kl-histogram .of-sae').textContent === n", arg=name
    )
    assert {row[0] for row in found.rows("hard-tokens-table")} == {name}
    assert set(figures_of_both) == {shown, name}


def test_a_header_sorts_by_number_up_and_down(report):
    found = report
    header = "[data-table=hard-tokens-table] th:nth-child(5) button"
    for order in ("ascending", "descending"):
        found.page.locator(header).press("Enter")
        found.page.wait_for_selector(f"[data-table=hard-tokens-table] th[aria-sort={order}]")
        values = [float(row[4]) for row in found.rows("hard-tokens-table")]
        assert values == sorted(values, reverse=order == "descending")
        assert len(set(values)) > 1


def test_words_and_verdicts_filter_rows(report):
    found = report
    found.page.fill("[data-table=gates] .filter", "shrinkage l2-topk")
    found.page.wait_for_function(
        "() => /^1 of 1/.test(document.querySelector('[data-table=gates] .more').textContent)"
    )
    (row,) = found.rows("gates")
    assert row[:3] == ["l2-topk", "shrinkage", "shrinkage.l2_ratio →"]
    found.page.fill("[data-table=gates] .filter", "")
    found.page.select_option("[data-table=gates] .chooser", "NEW")
    rows = "[...document.querySelectorAll('[data-table=gates] tbody tr')]"
    found.page.wait_for_function(f"() => {rows}.every(r => r.textContent.includes('NEW'))")
    assert found.rows("gates")


def test_copy_as_csv_gives_the_figures_data(report, judged):
    found = report
    found.page.click("#kl-by-position .csv")
    text = found.page.evaluate("navigator.clipboard.readText()")
    header, *rows = text.strip().split("\n")
    assert header == 'series,position,"KL, nats",low,high'
    sae = found.page.text_content("#kl-by-position .of-sae")
    case = next(c for c in judged.content["cases"] if c["id"] == f"kl_gap[scope=all]@{sae}")
    curve = case["series"]["kl_by_position"]["sae"]
    told = [row.split(",")[2] for row in rows if row.startswith("sae,")]
    assert len(told) == len(curve)
    assert float(told[5]) == pytest.approx(curve[5], rel=1e-3)


def test_a_figure_is_a_table_too(report):
    found = report
    found.page.click("#kl-of-interventions summary")
    cells = found.page.eval_on_selector_all(
        "#kl-of-interventions td", "c => c.map(x => x.textContent)"
    )
    assert "eps_random" in cells
    assert "l2-topk" in cells


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_both_themes(opened, judged, scheme):
    page = opened(judged.html, scheme=scheme).page
    body = "getComputedStyle(document.body)"
    ink, ground = page.evaluate(f"() => [{body}.color, {body}.backgroundColor]")
    assert _contrast(ink, ground) > 7
    soft = page.evaluate("() => getComputedStyle(document.querySelector('.caption')).color")
    card = page.evaluate("() => getComputedStyle(document.querySelector('figure')).backgroundColor")
    assert _contrast(soft, card) > 4.5


def test_the_theme_button_redraws_the_figures(report):
    found = report
    colour = "() => document.querySelector('#kl-histogram .js-line').style.stroke"
    before = found.page.evaluate(colour)
    found.page.click("#theme")
    found.page.wait_for_function(f"before => ({colour})() !== before", arg=before)
    assert found.page.evaluate("document.documentElement.dataset.theme") == "dark"
    found.page.click("#theme")


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_screen(report, width):
    report.page.set_viewport_size({"width": width, "height": 900})
    report.page.wait_for_timeout(200)
    assert report.page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_keyboard_reaches_the_content_first(opened, judged):
    page = opened(judged.html).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"


def test_every_control_has_a_name_and_headings_do_not_skip(report):
    page = report.page
    named = "e => e.textContent.trim() || e.ariaLabel || e.closest('label')?.textContent.trim()"
    nameless = page.eval_on_selector_all(
        "button, select, input", f"all => all.filter(e => !({named})(e)).length"
    )
    assert nameless == 0
    levels = page.eval_on_selector_all("h1, h2, h3", "hs => hs.map(h => Number(h.tagName[1]))")
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(levels[1:], levels[2:], strict=False) if a > 1)


def test_print_shows_the_summary_and_the_figures_on_paper(report, tmp_path):
    found = report
    printed = found.page.pdf(path=tmp_path / "report.pdf")
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") > 3


def _contrast(one, two):
    """WCAG 2's contrast ratio of two CSS colours."""

    def luminance(css):
        parts = [int(p) / 255 for p in css[css.index("(") + 1 : -1].split(",")[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted(map(luminance, (one, two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
