"""Advantage: the SAE against principal components, and where its KL is far above the mean.

Source: docs/metrics.md (advantage, strata).
"""

from collections.abc import Iterator

from saebench.records.case_result import CaseResult
from saebench.report.charts import (
    NO_INTERVAL,
    Axis,
    Chart,
    Figure,
    Form,
    Layer,
    Mark,
    View,
    by_sae,
    curve,
    size_of,
    with_series,
)
from saebench.report.material import Material
from saebench.report.sections import Section

RATIOS = {"KL": "advantage.kl_ratio", "squared error": "advantage.fvu_ratio"}
NO_BETTER = (Mark("y", 1.0, "no better than PCA"),)
WORST = {
    "tokens by frequency": "strata.worst_decile_ratio",
    "types of tokens": "strata.worst_type_ratio",
    "parts of the context": "strata.worst_position_ratio",
    "single tokens": "strata.worst_token_ratio",
}


def _advantage(material: Material) -> Iterator[Figure]:
    matched = [c for c in material.run.cases_about("advantage", k="matched") if c.metrics]
    if matched:
        yield Figure(
            "advantage-ratios",
            "Against PCA of the same sparsity",
            "At each token PCA keeps as many components as the SAE has active features. At 1 the "
            "SAE is no better than components that nobody trained; near 0 it is far better.",
            (View(by_sae(matched, Axis("SAE / PCA, ×"), RATIOS, marks=NO_BETTER)),),
            main=True,
        )
        yield Figure(
            "advantage-position",
            "KL by position, of the SAE and of PCA",
            "Mean over documents at each position of the context.",
            tuple(
                View(_by_position(values, case), sae)
                for sae, values, case in with_series(matched, "kl_by_position")
            ),
        )
    curves = material.run.cases_about("advantage", k="curve")
    yield Figure(
        "advantage-curve",
        "How many components the SAE is worth",
        "KL of PCA with the same number of components at every token. The SAE's KL is the level "
        "line; where it meets the curve, PCA with so many components is as faithful.",
        tuple(View(_worth(case), case.sae) for case in curves if "curve" in case.series),
    )


def _by_position(values: dict[str, list[float | None]], case: CaseResult) -> Chart:
    layers = (curve("sae", values["sae"]), curve("PCA", values["pca_matched"]))
    axes = Axis("position"), Axis("KL, nats", log=True)
    return Chart(*axes, layers, size_of([case]), NO_INTERVAL)


def _worth(case: CaseResult) -> Chart:
    found = case.series["curve"]
    # The last number leaves nothing out: its KL is rounding, and has no place on a log axis.
    sizes, kl = found["components"][:-1], found["kl_pca"][:-1]
    layers = (
        Layer("PCA", Form.LINE, list(sizes), list(kl)),
        Layer("sae", Form.LINE, list(sizes), [found["kl_sae"]] * len(sizes)),
    )
    marks = (Mark("x", float(found["l0"]), f"the SAE's l0, {found['l0']:.3g}"),)
    axes = Axis("components", log=True, log_base=2), Axis("KL, nats", log=True)
    return Chart(*axes, layers, size_of([case]), NO_INTERVAL, marks)


def _strata(material: Material) -> Iterator[Figure]:
    cases = [case for case in material.run.cases_about("strata") if case.metrics]
    if cases:
        yield Figure(
            "strata-worst",
            "The worst kind of token against the mean",
            "KL at the worst tenth of tokens by frequency, the worst type, the worst sixteenth of "
            "the context and the worst single token, as multiples of the mean KL.",
            (View(by_sae(cases, Axis("worst / mean, ×"), WORST)),),
            main=True,
        )


SECTIONS = (
    Section(
        "advantage",
        "Advantage",
        "Is the SAE better than PCA with as many active components?",
        15,
        _advantage,
    ),
    Section(
        "strata",
        "Strata",
        "Are there kinds of tokens at which the SAE is much worse than on average?",
        75,
        _strata,
    ),
)
