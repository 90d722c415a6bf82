"""Every token substituted, and sinks: against plain passes in float64, one sequence at a time."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from families import (
    BOS,
    EOS,
    WIDTH,
    assert_same_sums,
    make_host,
    make_model,
    make_sae,
    make_subject,
    make_tokens,
    random_ids,
)
from scipy.special import log_softmax, rel_entr
from torch import Tensor

import saebench
from saebench.data.tokens import TokenSet
from saebench.errors import MeasurementError, NonFiniteValue
from saebench.experiments.everywhere import EverywhereEngine, EverywhereMeasurement
from saebench.options import Overrides
from saebench.properties import find_property
from saebench.records.verdict import Verdict
from saebench.subjects.loading import wrap_sae
from saebench.subjects.sae import Subject
from saebench.substitution.engine import Engine

N, T, LOUD = 7, 12, 50
BLOCK, MLP = "model.layers.1", "model.layers.1.mlp"


def _tokens() -> TokenSet:
    """Special tokens inside some sequences, and two tokens of extreme size."""
    ids = torch.where(random_ids(N, T) == LOUD, 51, random_ids(N, T))
    ids[1, 7], ids[2, 3], ids[4, 5], ids[6, 2] = BOS, EOS, LOUD, LOUD
    return make_tokens(ids)


@torch.no_grad()
def _loud(model: Any) -> Any:
    model.model.embed_tokens.weight[LOUD] *= 200
    return model


@cache
def _host() -> Any:
    host = make_host("llama")
    _loud(host.model)
    return host


def _transcoder() -> Any:
    from sae_lens import Transcoder, TranscoderConfig
    from sae_lens.saes.sae import SAEMetadata

    stated = SAEMetadata(
        hook_name="blocks.1.mlp.hook_in", hook_name_out="blocks.1.hook_mlp_out",
        context_size=T, prepend_bos=True,
    )  # fmt: skip
    config = TranscoderConfig(
        d_in=WIDTH, d_out=WIDTH, d_sae=64, apply_b_dec_to_input=False, metadata=stated
    )
    sae, generator = Transcoder(config), torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    return sae


def _subject(kind: str) -> Subject:
    if kind == "transcoder":
        return wrap_sae(_transcoder(), id="sae", overrides=Overrides())
    return make_subject(make_sae(), "blocks.1.hook_resid_pre", context=T)


def _measured(kind: str, tokens: TokenSet | None = None, *, batch_size: int = 2) -> Any:
    whole = _tokens()
    engine = Engine(_host(), whole, seed=0)
    everywhere = EverywhereEngine(engine, tokens or whole, batch_size=batch_size)
    return everywhere.measure([_subject(kind)], progress=lambda _: None)["sae"]


class _ByHand:
    """The loop: one plain pass a sequence, with a hook that replaces some positions."""

    def __init__(self, kind: str) -> None:
        self.model = _loud(make_model("llama")).double()
        self.kind = kind
        self.sae = (_transcoder() if kind == "transcoder" else make_sae()).double()

    def activations(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the SAE reads and what its output is compared with."""
        seen: dict[str, Tensor] = {}

        def stream(_: Any, args: Any, kwargs: Any) -> None:
            seen["x"] = args[0] if args else kwargs["hidden_states"]

        def mlp(_: Any, args: Any, out: Tensor) -> None:
            seen["in"], seen["out"] = args[0], out

        handles = [
            self.model.get_submodule(BLOCK).register_forward_pre_hook(stream, with_kwargs=True),
            self.model.get_submodule(MLP).register_forward_hook(mlp),
        ]
        self.model(input_ids=ids[None], use_cache=False)
        for handle in handles:
            handle.remove()
        if self.kind == "transcoder":
            return seen["in"][0], seen["out"][0]
        return seen["x"][0], seen["x"][0]

    def reconstructed(self, given: Tensor) -> Tensor:
        if self.kind == "sae":
            return self.sae.decode(self.sae.encode(given))
        w = self.sae  # whose own encode computes in fp32
        return (given @ w.W_enc + w.b_enc).relu() @ w.W_dec + w.b_dec

    def log_p(self, ids: Tensor, change: Callable[[Tensor], Tensor] | None = None) -> np.ndarray:
        handle = None
        if change is not None and self.kind == "transcoder":
            module = self.model.get_submodule(MLP)
            handle = module.register_forward_hook(lambda _, __, out: change(out))
        elif change is not None:

            def pre(_: Any, args: Any, kwargs: Any) -> Any:
                if args:
                    return (change(args[0]), *args[1:]), kwargs
                return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}

            module = self.model.get_submodule(BLOCK)
            handle = module.register_forward_pre_hook(pre, with_kwargs=True)
        logits = self.model(input_ids=ids[None], use_cache=False).logits[0]
        if handle is not None:
            handle.remove()
        return log_softmax(logits.numpy(), axis=-1)

    def kl(self, ids: Tensor, scored: list[int], replaced: list[int]) -> float:
        x_hat = self.reconstructed(self.activations(ids)[0])

        def change(x: Tensor) -> Tensor:
            out = x.clone()
            for t in replaced:
                out[0, t] = x_hat[t]
            return out

        clean, changed = self.log_p(ids), self.log_p(ids, change)
        return sum(rel_entr(np.exp(clean[t]), np.exp(changed[t])).sum() for t in scored)


@pytest.mark.parametrize("kind", ["sae", "transcoder"])
@torch.no_grad()
def test_both_kls_are_those_of_plain_passes(kind: str):
    hand, tokens, found = _ByHand(kind), _tokens(), _measured(kind).table()
    for s, ids in enumerate(tokens.ids):
        scored = np.flatnonzero(tokens.counted[s]).tolist()
        usual, everywhere = (hand.kl(ids, scored, r) for r in (scored, list(range(T))))
        np.testing.assert_allclose(found["usual.kl"][s], usual, rtol=2e-4)
        np.testing.assert_allclose(found["everywhere.kl"][s], everywhere, rtol=2e-4)
        assert abs(usual - everywhere) > 1e-3 * usual
        assert found["n.scored"][s] == len(scored)


def _rows(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the counted tokens' activations and errors, by a loop."""
    hand, tokens = _ByHand(kind), _tokens()
    x, errors = [], []
    for ids, counted in zip(tokens.ids, tokens.counted, strict=True):
        given, compared = hand.activations(ids)
        for t in np.flatnonzero(counted):
            x_hat = hand.reconstructed(given[t][None])[0]
            x.append(compared[t].numpy())
            errors.append((compared[t] - x_hat).numpy())
    return np.array(x), np.array(errors)


def _explained(x: np.ndarray, errors: np.ndarray) -> float:
    return 1 - np.square(errors).sum() / np.square(x - x.mean(axis=0)).sum()


@torch.no_grad()
def test_sinks_are_above_ten_times_the_median_norm_and_explained_variance_is_with_and_without():
    x, errors = _rows("sae")
    norms = np.linalg.norm(x, axis=1)
    rest = norms <= 10 * np.median(norms)
    assert (~rest).sum() == 2
    findings: Any = find_property("special_tokens").findings(_measured("sae"), {})
    metrics = {m.name.partition(".")[2]: m.value for m in findings.metrics}
    assert metrics["sinks"] == 2 / len(x)
    assert metrics["explained_variance"] == pytest.approx(_explained(x, errors), abs=1e-6)
    without = _explained(x[rest], errors[rest])
    assert metrics["explained_variance_without_sinks"] == pytest.approx(without, abs=1e-6)
    assert abs(metrics["explained_variance"] - without) > 0.01


def test_parts_of_the_run_merge_to_the_whole():
    tokens = _tokens()
    parts = [
        _measured("sae", tokens.part(rows), batch_size=1)
        for rows in (slice(0, 3), slice(3, 4), slice(4, N))
    ]
    merged = EverywhereMeasurement.merged(parts).finished()
    assert_same_sums(merged, _measured("sae", batch_size=5), rtol=1e-4, atol=1e-6)


def test_a_sum_that_is_not_finite_is_an_error_that_names_it():
    found = _measured("sae")
    found.sums.by_sequence["everywhere.kl"][3] = np.inf
    with pytest.raises(NonFiniteValue, match=r"everywhere\.kl is not finite in 1 of 7.*sequence 3"):
        found.need()


def test_an_sae_far_below_its_release_fails_alone():
    bad, engine = _subject("sae"), Engine(_host(), _tokens(), seed=0)
    bad.expected_explained_variance = 5.0
    good = make_subject(make_sae(seed=1), "blocks.2.hook_resid_pre", id="good", context=T)
    both = EverywhereEngine(engine, _tokens()).measure([bad, good], progress=lambda _: None)
    assert isinstance(both["sae"], MeasurementError)
    alone = EverywhereEngine(engine, _tokens()).measure([good], progress=lambda _: None)
    assert_same_sums(both["good"], alone["good"], rtol=1e-12)


def test_a_run_measures_the_first_32_sequences_and_reports(tiny):
    run = saebench.judge(
        tiny.good, tiny.model, tiny.texts, sequences=36, properties=["special_tokens"]
    )
    (case,) = run.cases
    assert case.verdict is Verdict.NEW
    assert {m.n.sequences for m in case.metrics} == {32}


def test_where_everything_is_substituted_already_the_case_is_skipped(tiny):
    run = saebench.judge(
        tiny.good, tiny.model, tiny.texts, sequences=4, score_bos=True,
        properties=["special_tokens"],
    )  # fmt: skip
    (case,) = run.cases
    assert case.verdict is Verdict.SKIPPED
    assert "--sae-score-bos" in case.reason


def _numbers(run: Any) -> dict[str, list[float]]:
    return {
        m.name: [m.value, m.ci.low, m.ci.high]
        for case in run.cases for m in case.metrics if m.value is not None and m.ci is not None
    }  # fmt: skip


def test_shards_and_rounds_find_what_a_whole_run_finds(tiny, tmp_path):
    stated = {"metadata__l0": 15, "metadata__explained_variance": 0.9}
    sae = str(tiny.copy_of(tiny.good, tmp_path / "sae", **stated))
    ways: list[dict[str, Any]] = [
        {}, {"run_dir": tmp_path / "run", "shard_sequences": 7, "threads": 1},
        {"run_dir": tmp_path / "run", "shard_sequences": 7, "threads": 1},  # resumed
    ]  # fmt: skip
    whole, *others = [
        _numbers(
            saebench.judge(
                sae,
                tiny.model,
                tiny.texts,
                sequences=36,
                properties=["special_tokens", "promise"],
                **way,
            )  # fmt: skip
        )
        for way in ways
    ]
    assert {"special_tokens.kl_ratio", "promise.l0_ratio"} <= set(whole)
    assert others[0] == others[1]
    for name, values in whole.items():
        assert others[0][name] == pytest.approx(values, rel=1e-4, abs=1e-6), name
    rounds = saebench.judge(
        sae, tiny.model, tiny.texts, sequences=36, stop_early=True,
        properties=["special_tokens", "promise"],
    )  # fmt: skip
    assert Verdict.ERROR not in {case.verdict for case in rounds.cases}
