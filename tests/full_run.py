"""A made-up run with every series that the report draws, in the shapes that properties give."""

from dataclasses import replace

from runs import make_case, make_run

from saebench.records.run import Cost
from saebench.records.verdict import Verdict

CURVE = [None, 0.5, 0.25, 0.3, 0.2]
NAMES = ("sae", "eps_random", "zero")
HISTOGRAM = {"edges": [0.1, 1.0, 10.0], "counts": [3, 1]}
FEATURE = {
    "feature": 3,
    "prompts": 20,
    "mean_delta": -0.1,
    "score": -4,
    "p": 0.01,
    "p_adjusted": 0.02,
}
TOKEN = {
    "token": " a",
    "id": 5,
    "count": 7,
    "sequences": 6,
    "mean_gap": 0.2,
    "sd": 0.1,
    "ci": [0.1, 0.3],
}
EXAMPLE = {
    "sequence": 2, "position": 3, "text": "once", "tokens": [" upon", " a"],
    "probabilities": {"clean": [0.6, 0.1], "sae": [0.5, 0.2]}, "kl": {"sae": 0.1},
}  # fmt: skip
CLOZE = {
    "cells": {"whole": {"both": 1, "only_clean": 1, "only_sae": 0, "neither": 0}},
    "cell_of_prompt": {"whole": ["both", "only_clean"]}, "prompts_cut": 0,
    "delta_log_p": [0.1, -1.0], "log_p_clean": [-1.0, -2.0], "mse": [1.0, 2.0], "l0": [5, 6],
    "ce_increase": [0.1, 0.2],
}  # fmt: skip
QUANTITIES = ("kl", "l0", "l1", "mse", "norm", "ce_clean", "ce_sae")
LONG = {f"{name}_by_position": CURVE for name in QUANTITIES}
CURVES = dict.fromkeys(NAMES, CURVE)
BY_POSITION = {"ce_clean_by_position": CURVE, "ce_sae_by_position": CURVE}
CASES = (
    ("fidelity", {}, "fidelity.ce_score", BY_POSITION),
    ("kl_gap", {"scope": "all"}, "kl_gap.kl[sae]", {
        "kl_by_position": CURVES, "ce_increase_by_position": CURVES,
        "kl_histogram": dict.fromkeys(NAMES, HISTOGRAM)}),
    ("single_token", {"experiment": "offsets"}, "single_token.kl[sae@0]", {
        "position": 2, "kl_by_offset": {"sae": [0.5, 0.1]}, "examples": [EXAMPLE]}),
    ("single_token", {"experiment": "draws"}, "single_token.z_median", {
        "position": 2, "draws": 9, "sequence": [4, 5], "z": [1.5, None],
        "histograms": [{"sequence": 4, "kl_sae": 0.5} | HISTOGRAM]}),
    ("hard_tokens", {}, "hard_tokens.correlation[l0]", {
        "tokens": [TOKEN], "texts": [{"sequence": 1, "tokens": ["a", "b"], "gap": [None, 0.5]}],
        "gap_by_part": {"l0": {"mean": [1.0, 2.0], "gap": [0.1, 0.2]}}}),
    ("special_tokens", {}, "special_tokens.kl_ratio", {
        "kl_by_position": {"usual": CURVE, "everywhere": CURVE}}),
    ("promise", {"of": "l0"}, "promise.l0_ratio", {}),
    ("context_length", {}, "context_length.ce_increase[within]", {
        "bins": [[0, 2], [2, 5]], **LONG}),
    ("cloze", {}, "cloze.delta_log_p", CLOZE),
    ("helpfulness", {}, "helpfulness.tested", {
        "mean_delta_histogram": HISTOGRAM, "score_histogram": HISTOGRAM,
        "most_helpful": [FEATURE], "most_harmful": [FEATURE]}),
    ("shrinkage", {}, "shrinkage.l2_ratio", {"l2_ratio_by_position": CURVE}),
    ("sparsity", {}, "sparsity.l0", {"density_histogram": HISTOGRAM | {"dead": 1}}),
    ("controls", {}, "controls.margin[fidelity:scaled]", {}),
)  # fmt: skip


def full_run(*saes):
    """Return a run of SAEs that have every property, and of their first pair."""
    cases = [_case(sae, *given) for sae in saes for given in CASES]
    if len(saes) > 1:
        cases.append(_pair(*saes[:2]))
    cost = Cost("sequences", "model", tuple(saes), 100, {"clean": 1.0, "resume": 2.0}, 10**6)
    return replace(make_run(*cases, saes=saes), cost=(cost,))


def _case(sae, about, params, metric, series):
    case = make_case(sae, about, Verdict.FAIL if about == "kl_gap" else Verdict.PASS, name=metric)
    listed = ",".join(f"{key}={value}" for key, value in params.items())
    id = f"{about}[{listed}]@{sae}" if listed else f"{about}@{sae}"
    return replace(case, id=id, params=params, series=series)


def _pair(first, second):
    case = make_case(f"{first}→{second}", "propagation", Verdict.NEW, gated=False)
    cell = {"mse_change[sae]": 0.5, "kl_together[sae]": 0.1}
    shown = {"row": first, "column": second, "row_hook": "h", "column_hook": "h", "cell": cell}
    return replace(case, params={"first": first, "second": second}, series={"heat_map": shown})
