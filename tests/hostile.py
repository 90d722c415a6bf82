"""A run whose every name and text tries to be more than a text, and what shows that one did."""

from dataclasses import replace

from made_repair import COURSE, make_repair
from runs import make_case, make_run

from saebench.records.repair import RepairRecord
from saebench.records.verdict import Verdict

NAMES = (
    "<img src=x onerror=document.title='owned'>",
    "</script><script>document.title='owned'</script>",
    "<b>bold</b><a href='https://example.org'>a</a>",
    "\"'`${1} &lt; <!-- \u2028 \u202egnp.exe \x1b[31m \ud800",
    "$x$ %{x} [red] \\",
)
WORST = "\"><b>bold</b><a href='https://example.org'>a</a> \u202e\x1b"
SEEN = """() => {
  const all = (selector, of) => [...document.querySelectorAll(selector)].map(of);
  const texts = all('main, header, title', e => e.textContent).join('');
  const values = all('option, [title]', e => `${e.value}${e.title}`);
  const count = (selector) => document.querySelectorAll(selector).length;
  return {
    title: document.title.endsWith('saebench') ? 0 : 1,
    elements: count('img, iframe, object, embed, main b, main i, main u, header b'),
    scripts: count('main script, header script'),
    links: all('a', a => a.getAttribute('href') ?? '').filter(h => !h.startsWith('#')).length,
    hidden: /[\\u202e\\u2028\\u001b]/.test(texts + values.join('')) ? 1 : 0,
  };
}"""


def hostile_run(*names):
    """Return a run of SAEs of these names; their hooks, tokens and texts are hostile too."""
    run = make_run(*(case for name in names for case in _cases(name)), saes=names)
    return replace(
        run,
        saes=tuple(replace(sae, hook=f"{sae.id} hook", architecture=sae.id) for sae in run.saes),
        models=tuple(replace(model, name=names[0]) for model in run.models),
        datasets=tuple(replace(data, name=names[0]) for data in run.datasets),
    )


def _cases(name):
    """Cases whose SAE, tokens, texts, metric and interventions all carry the name."""
    case = make_case(name, "kl_gap", Verdict.FAIL, name="kl_gap.kl[sae]")
    curve = {"sae": [None, 0.5, 0.25], name: [None, 0.1, 0.2]}
    tokens = [name, '"', "\n", "\x00", "<i>"]
    texts = [{"sequence": 0, "tokens": tokens, "gap": [0.1, -0.2, None, 0, 1]}]
    example = {
        "sequence": 0, "position": 1, "text": name, "tokens": [name, "\t", "<u>"],
        "probabilities": {"clean": [0.5, 0.1, 0.1], "sae": [0.4, 0.1, 0.2]}, "kl": {"sae": 0.1},
    }  # fmt: skip
    return (
        replace(case, params={"scope": "all"}, series={"kl_by_position": curve}, reason=name),
        replace(case, id=f"hard_tokens@{name}", property="hard_tokens", series={"texts": texts}),
        replace(case, id=f"single_token@{name}", property="single_token",
                params={"experiment": "offsets"}, series={"examples": [example]}),
    )  # fmt: skip


def hostile_repair(name):
    """Return a repair whose SAE and texts carry the name."""
    record: RepairRecord = make_repair(notes=(name,), course=replace(COURSE, texts=name))
    return replace(record, before=replace(record.before, id=name))


def came_to_life(page):
    """Drive a page as a reader does; return what of its texts became more than texts."""
    page.wait_for_selector("html[data-ready=yes]", timeout=60_000)
    for summary in page.query_selector_all("figure summary"):
        summary.evaluate("s => s.parentElement.open = true")
    page.wait_for_timeout(50)
    found = page.evaluate(SEEN)
    for header in page.query_selector_all("[data-table] th:first-child button"):
        header.evaluate("b => b.click()")
    page.wait_for_timeout(100)
    again = page.evaluate(SEEN)
    return sorted(name for name in found if found[name] or again[name])
