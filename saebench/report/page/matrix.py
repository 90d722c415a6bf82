"""SAEs against properties: which fails where, as a table."""

from saebench.report.charts import Cell, Table
from saebench.report.page.badges import SHAPES
from saebench.report.page.summary import verdict_of
from saebench.report.reading import by_depth
from saebench.results import SEVERITY, Run, Verdict, overall


def matrix(run: Run) -> Table:
    """Return a row for each SAE, the worst first, with the verdict of each property."""
    names = list(dict.fromkeys(case.property for case in run.cases))
    about = {sae.id: sae for sae in run.saes}
    order = sorted(by_depth(run.saes), key=lambda id: -SEVERITY[verdict_of(run, id)])
    found: dict[tuple[str, str], list[Verdict]] = {}
    for case in run.cases:
        found.setdefault((case.sae, case.property), []).append(case.verdict)
    rows = [
        (id, verdict_of(run, id).value, about[id].architecture, about[id].hook,
         *(_cell(found.get((id, name), [])) for name in names))
        for id in order
    ]  # fmt: skip
    columns = ("SAE", "verdict", "architecture", "hook", *names)
    shapes = ", ".join(f"{shape} {verdict.value}" for verdict, shape in SHAPES.items())
    filters = ("verdict", "architecture", "hook")
    return Table("saes", "Every SAE", columns, tuple(rows), note=shapes, filters=filters)


def _cell(verdicts: list[Verdict]) -> str | Cell:
    if not verdicts:
        return Cell("")
    verdict = overall(verdicts)
    return Cell(f"{SHAPES[verdict]} {verdict.value.lower()}", -SEVERITY[verdict])
