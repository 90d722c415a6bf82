"""Degradation beyond the training context against loops over tokens, and when it is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import saebench
from saebench.compare.sides import sides_of_run
from saebench.errors import NonFiniteValue, OptionError
from saebench.experiments.texts import bin_edges, edges_from_both_ends
from saebench.measures.sums import TokenSums
from saebench.options import Settings
from saebench.properties import find_property
from saebench.properties.context_length import BINS
from saebench.records.case_result import CaseResult
from saebench.records.metric import Metric
from saebench.records.verdict import Verdict
from saebench.substitution.measurement import Measurement

C, N, LONGEST = 3, 12, 24  # 8·C; documents of the tiny world have 25 tokens
CHANNELS = {"mse": "squared_error", "l0": "l0", "l1": "l1"}


class _Tokens:
    """Values of every token, of which some count; the metrics by loops over them."""

    def __init__(self, values: dict[str, np.ndarray], scored: np.ndarray, trained: int) -> None:
        self.values, self.scored, self.trained = values, scored, trained
        self.targets = scored.copy()
        self.targets[:, -1] = False

    def mean(self, channel: str, start: int, stop: int) -> float:
        mask = self.targets if channel.endswith(".ce") else self.scored
        kept = [
            self.values[channel][s, t]
            for s in range(len(mask))
            for t in range(start, min(stop, mask.shape[1]))
            if mask[s, t]
        ]
        return sum(kept) / len(kept)

    def rise(self, start: int, stop: int) -> float:
        return self.mean("sae.ce", start, stop) - self.mean("clean.ce", start, stop)

    def expected(self) -> dict[str, float]:
        c, end = self.trained, self.scored.shape[1]
        within, beyond = (1, c), (c, end)
        found = {
            "degradation": self.rise(*beyond) - self.rise(*within),
            "kl_rise": self.mean("sae.kl", *beyond) - self.mean("sae.kl", *within),
        }
        for name, channel in CHANNELS.items():
            found[f"{name}_ratio"] = self.mean(channel, *beyond) / self.mean(channel, *within)
        for i, (start, stop) in enumerate([(1, c), (c, 2 * c), (2 * c, 4 * c), (4 * c, 8 * c)]):
            if start < end:
                found[f"ce_increase[{BINS[i]}]"] = self.rise(start, stop)
        return {f"context_length.{name}": value for name, value in found.items()}

    def expected_degradation(self) -> float:
        c, end = self.trained, self.scored.shape[1]
        return self.rise(c, end) - self.rise(1, c)

    def measurement(self) -> Measurement:
        n, context = self.scored.shape
        sums = TokenSums(n, context, bin_edges(self.trained, context))
        masks = {"n.scored": self.scored, "n.targets": self.targets}
        for name, mask in masks.items():
            sums.count(name, torch.from_numpy(mask), rows=slice(0, n))
        for name, values in self.values.items():
            mask = masks["n.targets" if name.endswith(".ce") else "n.scored"]
            sums.add(name, torch.from_numpy(values), mask=torch.from_numpy(mask), rows=slice(0, n))
        return Measurement(sums, ("sae",), np.zeros(4), "resumed")


def _made_up(trained: int, context: int, *, seed: int = 0) -> _Tokens:
    rng = np.random.default_rng(seed)
    names = ("sae.ce", "clean.ce", "sae.kl", "norm", *CHANNELS.values())
    scored = rng.random((7, context)) < 0.8
    scored[0] = True
    scored[:, 0] = False
    return _Tokens({name: rng.gamma(2, 1, (7, context)) for name in names}, scored, trained)


def _metrics(measurement: Measurement) -> dict[str, float | None]:
    found = find_property("context_length").findings(measurement, {}).metrics
    return {metric.name: metric.value for metric in found}


def _judged(
    tiny: Any, sae: str | None = None, *, reach: str = "beyond", **options: Any
) -> CaseResult:
    run = saebench.judge(
        sae or tiny.good, tiny.model, tiny.texts, properties=["context_length"],
        **({"sequences": N, "order": "file"} | options),
    )  # fmt: skip
    return next(case for case in run.cases if case.params == {"reach": reach})


@pytest.mark.parametrize(
    ("trained", "context", "edges"),
    [
        (128, 1024, (0, 128, 256, 512, 1024)),
        (128, 1000, (0, 128, 256, 512, 1000)),
        (128, 513, (0, 128, 256, 513)),
        (128, 512, (0, 128, 256, 512)),
        (128, 200, (0, 128, 200)),
    ],
)
def test_bins_double_from_the_training_context_to_the_evaluated_one(trained, context, edges):
    assert bin_edges(trained, context) == edges


@given(trained=st.integers(3, 6), times=st.floats(1.5, 8), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=15)
def test_metrics_are_their_definitions(trained, times, seed):
    context = max(trained + 2, int(trained * times))
    if context in (2 * trained + 1, 4 * trained + 1):  # the last bin has no target: see below
        context += 1
    tokens = _made_up(trained, context, seed=seed)
    # float64 sums in another order; the rises are differences of differences.
    assert _metrics(tokens.measurement()) == pytest.approx(tokens.expected(), rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("context", [7, 13])
def test_a_bin_without_any_target_is_left_out_and_spares_the_others(context):
    """2·C+1 or 4·C+1 tokens: the last bin is the last position alone, which predicts nothing."""
    tokens = _made_up(3, context)
    found = _metrics(tokens.measurement())
    whole = tokens.rise(3, context) - tokens.rise(1, 3)
    assert found["context_length.degradation"] == pytest.approx(whole)
    assert found.get(f"context_length.ce_increase[{BINS[2 if context == 7 else 3]}]") is None


def test_an_sae_without_error_has_no_ratio_of_errors_and_still_its_degradation():
    """The identity must pass every gate (docs/metrics.md): 0/0 is undefined, no ERROR."""
    tokens = _made_up(3, 24)
    tokens.values["squared_error"][:] = 0
    found = _metrics(tokens.measurement())
    assert found["context_length.mse_ratio"] is None
    assert found["context_length.degradation"] is not None


def test_nan_is_an_error_and_never_a_value():
    measurement = _made_up(3, 24).measurement()
    measurement.sums.by_sequence["sae.ce"][2] = float("nan")
    with pytest.raises(NonFiniteValue, match="sequence 2"):
        find_property("context_length").findings(measurement, {})


def _hooked(model: Any, sae: Any, ids: list[int], *, counted: list[int] | None) -> dict[str, Any]:
    """Run one sequence in float64, with the SAE at the counted positions where given."""
    seen: dict[str, Any] = {}

    def change(_: Any, args: tuple) -> Any:
        x = args[0].clone()
        features = sae.encode(x[0])
        x_hat = sae.decode(features)
        seen.update(
            squared_error=(x[0] - x_hat).square().sum(-1), l0=(features != 0).sum(-1),
            l1=features.abs().sum(-1), norm=x[0].norm(dim=-1),
        )  # fmt: skip
        if counted is not None:
            x[0, counted] = x_hat[counted]
        return (x, *args[1:])

    with torch.no_grad(), model.model.layers[1].register_forward_pre_hook(change):
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return {"log_p": logits.log_softmax(-1).numpy()} | {k: v.numpy() for k, v in seen.items()}


@pytest.fixture(scope="module")
def by_hand(tiny) -> _Tokens:
    """The tiny world's bad SAE on whole documents, pass by pass in float64."""
    from sae_lens import SAE
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny.model, dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(tiny.model)
    sae = SAE.load_from_disk(tiny.bad).double()
    texts = [json.loads(line)["text"] for line in Path(tiny.texts).read_text().splitlines()]
    rows = [_by_hand(model, sae, [1, *tokenizer(t)["input_ids"]][:LONGEST]) for t in texts[:N]]
    values = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    scored = np.ones((N, LONGEST), dtype=bool)
    scored[:, 0] = False
    return _Tokens(values, scored, C)


def _by_hand(model: Any, sae: Any, ids: list[int]) -> dict[str, np.ndarray]:
    clean = _hooked(model, sae, ids, counted=None)
    changed = _hooked(model, sae, ids, counted=list(range(1, len(ids))))
    log_p, log_q = clean.pop("log_p"), changed["log_p"]
    places = np.arange(len(ids) - 1)
    ce = {
        name: np.append(-log[places, ids[1:]], np.nan)
        for name, log in (("clean.ce", log_p), ("sae.ce", log_q))
    }
    return clean | ce | {"sae.kl": (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)}


def test_a_judged_sae_has_the_numbers_of_plain_passes_in_float64(tiny, by_hand):
    case = _judged(tiny, tiny.bad, training_context=C)
    found = {metric.name: metric.value for metric in case.metrics}
    # fp32 against float64: some 1e-6 of CEs of a few nats, and differences of them.
    assert found == pytest.approx(by_hand.expected(), rel=1e-4, abs=1e-5)
    assert abs(found["context_length.degradation"]) > 1e-3
    assert case.series["bins"] == [[0, 3], [3, 6], [6, 12], [12, 24]]


def test_curves_by_position_are_means_over_documents(tiny, by_hand):
    series = _judged(tiny, tiny.bad, training_context=C).series
    for curve, channel in (("kl", "sae.kl"), ("mse", "squared_error"), ("ce_sae", "sae.ce")):
        found = series[f"{curve}_by_position"]
        last = LONGEST - (channel == "sae.ce")
        assert found[0] is None
        expected = [by_hand.values[channel][:, t].mean() for t in range(1, last)]
        assert found[1:last] == pytest.approx(expected, rel=1e-4)


def test_every_metric_has_an_interval_around_its_value(tiny):
    for metric in _judged(tiny, tiny.bad, training_context=C).metrics:
        assert metric.ci.low <= metric.value <= metric.ci.high
        assert metric.n.sequences == N


def test_packed_data_are_refused_with_the_option_that_would_not_pack(tiny):
    case = _judged(tiny, training_context=C, packing="packed")
    assert case.verdict is Verdict.SKIPPED
    assert "--sae-packing documents" in case.reason
    assert not case.metrics


def test_an_sae_that_states_no_context_is_judged_beyond_the_runs(tiny, tmp_path):
    sae = tiny.copy_of(tiny.bad, tmp_path / "sae", drop=("context_size",))
    without, stating = (
        _judged(tiny, each, context=C, **more)
        for each, more in ((str(sae), {}), (tiny.bad, {"training_context": C}))
    )
    assert without.series["bins"] == [[0, 3], [3, 6], [6, 12], [12, 24]]
    assert [m.value for m in without.metrics] == [m.value for m in stating.metrics]


def test_an_sae_that_states_no_context_claims_the_models_as_far_as_the_texts_reach(tiny, tmp_path):
    sae = tiny.copy_of(tiny.good, tmp_path / "sae", drop=("context_size",))
    case = _judged(tiny, str(sae), reach="claimed", context=12)
    assert case.series["bins_of_claim"][-1] == [23, 24]
    assert "claims 48 tokens, and was judged up to 24" in case.series["sentences"][-1]


@pytest.mark.parametrize("trained", [47, 48, 60])
def test_a_model_that_takes_no_more_than_the_training_context_is_refused(tiny, trained):
    case = _judged(tiny, training_context=trained, context=12)
    assert case.verdict is Verdict.SKIPPED
    assert f"trained on {trained} tokens and tiny-llama takes 48" in case.reason
    claimed = _judged(tiny, reach="claimed", training_context=trained, context=12)
    assert claimed.metrics
    assert f"claims {min(trained, 48)} tokens" in claimed.series["sentences"][-1]


def test_texts_that_are_too_short_are_refused_with_their_length(tiny):
    case = _judged(tiny)
    assert case.verdict is Verdict.SKIPPED
    assert "no document has 48 tokens" in case.reason
    assert "the longest has 25" in case.reason
    assert "--sae-dataset" in case.reason


def test_texts_that_are_too_short_are_refused_without_an_option_that_does_not_help(tiny):
    assert _judged(tiny, context=6).verdict is Verdict.SKIPPED
    assert "--sae-context" not in _judged(tiny, context=6).reason


def test_saes_of_two_training_contexts_are_measured_each_on_its_own(tiny, tmp_path):
    for trained in (3, 5):
        name = tmp_path / f"trained-on-{trained}"
        tiny.copy_of(tiny.bad, name, metadata__context_size=trained)
    texts = tiny.root / "texts.jsonl"
    run = saebench.judge(
        str(tmp_path / "trained-on-*"), tiny.model, str(texts), properties=["context_length"],
        sequences=N, context=12, order="file",
    )  # fmt: skip
    found = {case.sae: case for case in run.cases if case.params == {"reach": "beyond"}}
    assert found["trained-on-3"].series["bins"][-1] == [12, 24]
    assert found["trained-on-5"].verdict is Verdict.SKIPPED  # 40 tokens are more than texts have
    alone = _judged(tiny, str(tmp_path / "trained-on-3"), context=12)
    assert [m.value for m in found["trained-on-3"].metrics] == [m.value for m in alone.metrics]


def _bins(context: int) -> list[tuple[int, int]]:
    """Return bins that double from both ends, by walking from each end to the middle."""
    middle, left, right = context // 2, [], []
    start = 1
    while start < middle:
        left.append((start, min(2 * start, middle)))
        start *= 2
    stop = context
    while stop > middle:
        size = 1 if stop == context else context - stop
        right.append((max(stop - size, middle), stop))
        stop -= size
    return [*left, *reversed(right)]


@pytest.mark.parametrize("context", [3, 4, 5, 12, 16, 24, 33, 100, 128, 1000])
def test_bins_of_the_claim_double_from_both_ends(context):
    edges = edges_from_both_ends(context)
    assert list(zip(edges[1:], edges[2:], strict=False)) == _bins(context)


def test_the_worst_bin_is_the_one_that_loops_find(tiny, by_hand):
    case = _judged(tiny, tiny.bad, reach="claimed", training_context=LONGEST, context=12)
    expected = {(a, b): by_hand.mean("sae.kl", a, b) for a, b in _bins(LONGEST)}
    found = [mean for _, mean, _ in case.series["kl_by_bin"]]
    assert found == pytest.approx(list(expected.values()), rel=1e-3, abs=1e-6)
    worst = case.by_name["context_length.worst_within"]
    assert worst.value in found
    rises = [by_hand.rise(e, LONGEST) - by_hand.rise(1, e) for e in (2, 4, 8, 12)]
    rise = case.by_name["context_length.rise_within"]
    assert min(abs(rise.value - each) for each in rises) < 1e-3


def _claim(tokens: _Tokens) -> dict[str, Metric]:
    n, context = tokens.scored.shape
    measurement = tokens.measurement()
    sums = TokenSums(n, context, edges_from_both_ends(context))
    masks = {"n.scored": tokens.scored, "n.targets": tokens.targets}
    for name, mask in masks.items():
        sums.count(name, torch.from_numpy(mask), rows=slice(0, n))
    for name, values in tokens.values.items():
        mask = masks["n.targets" if name.endswith(".ce") else "n.scored"]
        sums.add(name, torch.from_numpy(values), mask=torch.from_numpy(mask), rows=slice(0, n))
    measurement.sums = sums
    found = find_property("context_length").findings(measurement, {"reach": "claimed"}).metrics
    return {metric.name.removeprefix("context_length."): metric for metric in found}


def _honest(context: int, n: int = 64) -> _Tokens:
    """Return an SAE with 0.1 nats of KL, and of CE, at every token."""
    rng = np.random.default_rng(5)
    kl = rng.gamma(1, 0.1, (n, context))
    clean = rng.gamma(2, 1, (n, context))
    scored = np.ones((n, context), dtype=bool)
    scored[:, 0] = False
    return _Tokens({"sae.kl": kl, "clean.ce": clean, "sae.ce": clean + kl}, scored, context)


@pytest.mark.parametrize(
    "broken", [slice(-9, None), slice(-1, None), slice(1, 2), slice(1, 4), slice(64, None)]
)
def test_an_sae_that_is_broken_at_one_end_of_its_claim_fails_whatever_its_mean(broken):
    tokens = _honest(128)
    assert _claim(tokens)["worst_within"].ci.high < 0.3
    assert _claim(tokens)["rise_within"].ci.high < 0.1
    for channel in ("sae.kl", "sae.ce"):
        tokens.values[channel][:, broken] += 7.6
    assert _claim(tokens)["worst_within"].ci.low > 5


def test_claiming_more_than_an_sae_works_on_gains_nothing():
    tokens = _honest(128)
    tokens.trained = 16
    for channel in ("sae.kl", "sae.ce"):
        tokens.values[channel][:, 16:] += 0.7
    honest = tokens.expected_degradation()
    assert _claim(tokens)["rise_within"].value == pytest.approx(honest, rel=1e-9)
    assert _claim(tokens)["rise_within"].ci.low > 0.5


def test_an_unknown_reach_is_refused_with_the_nearest():
    with pytest.raises(OptionError, match="unknown reach 'claim'; did you mean 'claimed'"):
        find_property("context_length").experiment_of({"reach": "claim"}, Settings())


def test_a_case_stored_before_it_had_parameters_is_compared_as_the_one_beyond(tiny):
    run = saebench.judge(
        tiny.good, tiny.model, tiny.texts, properties=["context_length"], sequences=N,
        training_context=C,
    )  # fmt: skip
    case = next(case for case in run.cases if case.params == {"reach": "beyond"})
    old = replace(case, id="context_length@good", params={})
    for each in (case, old):
        (side,) = sides_of_run(replace(run, cases=(each,))).values()
        assert list(side.cases) == ["context_length[reach=beyond]"]
