"""Training: the frontier of whole-model KL against L0, of SAEs trained for it or not (seed 004)."""

from collections.abc import Iterator

from saebench.records.repair import Ranged
from saebench.records.sweep import KL, L0, SweepPoint, SweepRecord
from saebench.report.charts import Axis, Cell, Chart, Figure, Form, Layer, Table, View
from saebench.report.queries import Material
from saebench.report.sections import Section

COLUMNS = ("sparsity", "objective", "tokens", "L0", "KL", "95% CI", "less standard", "its 95% CI",
           "mse", "l2_ratio", "KL gap ×", "tax")  # fmt: skip
NONE = Ranged(None)


def frontier_figure(sweep: SweepRecord, *, number: int = 0) -> Figure:
    """Return the frontier of each place, a line for each objective."""
    views = tuple(
        View(_frontier(sweep, some), None, f"{hook}, equal {equal}")
        for (equal, hook), some in places(sweep).items()
    )
    return Figure(
        f"training-frontier-{number}",
        "The whole model's KL against sparsity",
        "Lower and further left is better: the same KL with fewer features.",
        views,
        main=True,
    )


def places(sweep: SweepRecord) -> dict[tuple[str, str], list[SweepPoint]]:
    """Return the points of each place, equal tokens and equal time apart."""
    found: dict[tuple[str, str], list[SweepPoint]] = {}
    for point in sweep.points:
        found.setdefault((point.equal, point.hook), []).append(point)
    return found


def _frontier(sweep: SweepRecord, some: list[SweepPoint]) -> Chart:
    layers = []
    for objective in dict.fromkeys(point.objective for point in some):
        mine = [p for p in some if p.objective == objective]
        mine.sort(key=lambda p: p.metrics.get(L0, NONE).value or 0.0)
        kl = [p.metrics.get(KL, NONE) for p in mine]
        layers.append(
            Layer(
                objective,
                Form.LINE,
                [p.metrics.get(L0, NONE).value for p in mine],
                [each.value for each in kl],
                [each.low for each in kl],
                [each.high for each in kl],
                labels=[p.sparsity for p in mine],
            )
        )
    return Chart(
        Axis("L0, features a token", log=True, log_base=2),
        Axis("KL(original ‖ with SAE), nats", log=True),
        tuple(layers),
        _size(sweep),
        "95% intervals over sequences",
    )


def _size(sweep: SweepRecord) -> str:
    data = sweep.judged_on
    return f"n = {data.sequences:,} sequences of {data.context} tokens of {data.name}"


def _figures(material: Material) -> Iterator[Figure]:
    for number, sweep in enumerate(material.sweeps):
        yield frontier_figure(sweep, number=number)


def _tables(material: Material) -> Iterator[Table]:
    for number, sweep in enumerate(material.sweeps):
        for place, ((equal, hook), some) in enumerate(places(sweep).items()):
            yield Table(
                f"training-{number}-{place}",
                f"{hook}, equal {equal}",
                COLUMNS,
                tuple(_row(point) for point in some),
                note=(
                    f"{_size(sweep)}; begun from standard SAEs of {sweep.init_tokens:,} tokens of "
                    f"{sweep.texts}; 'less standard' is paired over sequences"
                ),
            )


def _row(point: SweepPoint) -> tuple[str | Cell, ...]:
    kl = point.metrics.get(KL, NONE)
    less = point.against_standard or NONE
    return (
        point.sparsity,
        point.objective,
        Cell(f"{point.tokens:,}", point.tokens),
        number(point, L0),
        number(point, KL),
        ends(kl),
        Cell("–") if less.value is None else Cell(f"{less.value:+.3g}", less.value),
        ends(less, "+"),
        *(number(point, name) for name in ("mse", "l2_ratio", "kl_gap_ratio", "tax_kl")),
    )


def number(point: SweepPoint, name: str) -> Cell:
    """Return a metric's cell."""
    value = point.metrics.get(name, NONE).value
    return Cell("–") if value is None else Cell(f"{value:.3g}", value)


def ends(found: Ranged, sign: str = "") -> Cell:
    """Return an interval's cell."""
    told = found.interval(f"{sign}.3g")
    return Cell("–") if told is None else Cell(told, found.low)


SECTION = Section(
    "training",
    "Training",
    "Does training on the whole model's loss give better SAEs?",
    96,
    _figures,
    _tables,
)
