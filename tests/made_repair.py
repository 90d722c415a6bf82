"""A made-up repair: for reports and files, without a fit."""

from full_run import full_run

from saebench.repairs import (
    CourseRow,
    FeatureAnalysis,
    Ranged,
    RepairCourse,
    RepairRecipe,
    RepairRecord,
    RepairRow,
)
from saebench.results import Direction


def made_repair():
    """Return the record of a repair that never was."""
    run = full_run("first", "second")
    mse = RepairRow(
        "fidelity.mse", "", Direction.LOWER, None, Ranged(2.0), Ranged(1.5),
        Ranged(-0.5, -0.6, -0.4), Ranged(-0.25, -0.3, -0.2),
    )  # fmt: skip
    none = RepairRow(
        "perplexity_gap", "", Direction.LOWER, None, Ranged(None), Ranged(None), Ranged(None),
        Ranged(None),
    )  # fmt: skip
    many = (0.1, 0.2)
    analysis = FeatureAnalysis(
        1000, 2, 0, 100, (), 1.1, 0.1, 0.1, None, 1.0, 1.0, many, many, (1.2, 1.1), many, many
    )
    return RepairRecord(
        1, {}, {}, run.saes[0], run.saes[1], run.models[0],
        RepairRecipe("scale", ("s",), 1000, 1e-3, 64, 0.0, 5, 0),
        RepairCourse(1000, False, 1.0, "<b>texts", "f" * 8, 500, 2.0, 0, 100,
                     (CourseRow(0, None, 2.0),)),
        run.datasets[0], (mse, none), (), analysis,
    )  # fmt: skip
