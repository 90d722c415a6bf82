"""A made-up repair: for tables, pages and files, without a model."""

from dataclasses import replace

from runs import make_run

from saebench.records.repair import (
    REPAIR_SCHEMA_VERSION,
    Correlation,
    CourseRow,
    FeatureAnalysis,
    GateChange,
    Ranged,
    RepairCourse,
    RepairRecipe,
    RepairRecord,
    RepairRow,
)
from saebench.records.run import Direction

MSE = RepairRow(
    "fidelity.mse", "", Direction.LOWER, None, Ranged.of(2.0, 1.9, 2.1), Ranged.of(1.5, 1.4, 1.6),
    Ranged.of(-0.5, -0.6, -0.4), Ranged.of(-0.25, -0.3, -0.2),
)  # fmt: skip
GAP = RepairRow(
    "perplexity_gap", "", Direction.LOWER, None, Ranged(4.0), Ranged(3.0),
    Ranged.of(-1.0, -1.5, -0.5), Ranged.of(-0.25, -0.4, -0.1),
)  # fmt: skip
RATIO = RepairRow(
    "shrinkage.l2_ratio", "", Direction.TARGET, 1.0, Ranged(0.85), Ranged(0.96), Ranged(0.11),
    Ranged(0.129),
)  # fmt: skip
UNDEFINED = Ranged(None)
RECIPE = RepairRecipe("scale", ("scale",), 1000, 1e-3, 64, 0.0, 5, 0)
COURSE = RepairCourse(
    1000, False, 12.4, "train.jsonl", "f" * 8, 500, 2.0, 3, 4096,
    (CourseRow(0, None, 2.0), CourseRow(1000, 1.8, 1.5)),
)  # fmt: skip
CORRELATIONS = (
    Correlation("log strength", "scaling", None, Ranged.of(-0.7, -0.8, -0.5)),
    Correlation("log strength", "scaling", "log frequency", Ranged.of(-0.25, -0.4, -0.1)),
    Correlation("log frequency", "scaling", None, UNDEFINED),
)
ANALYSIS = FeatureAnalysis(
    tokens=1000, features=2, left_out=30, least_tokens=100, correlations=CORRELATIONS,
    scaling_mean=1.15, additive_mean=0.13, additive_median=0.125, additive_theory=0.48,
    cosine_mean=0.95, cosine_lowest=0.9, log_strength=(0.1, 0.2), log_frequency=(-3.0, -2.0),
    scaling=(1.2, 1.1), additive=(0.15, 0.11), cosine=(0.9, 1.0),
)  # fmt: skip


def make_repair(**changes):
    run = make_run(saes=("before", "after"))
    record = RepairRecord(
        REPAIR_SCHEMA_VERSION, {"version": "0"}, {}, run.saes[0], run.saes[1], run.models[0],
        RECIPE, COURSE,
        run.datasets[0], (MSE, GAP, RATIO), (GateChange("fidelity.kl<=0.1", "FAIL", "PASS"),),
        ANALYSIS, ("a note",),
    )  # fmt: skip
    return replace(record, **changes)


def undefined(row):
    """Return a row whose numbers are all undefined."""
    return replace(row, before=UNDEFINED, after=UNDEFINED, change=UNDEFINED, share=UNDEFINED)
