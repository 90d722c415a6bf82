"""What a GPU does is what the CPU does; skipped where there is none."""

import copy
import gc
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import StubTokenizer, make_model, make_tokens, random_ids
from torch import Tensor, nn

import saebench
from saebench.cli import main
from saebench.data.tokens import TokenSet
from saebench.measures.names import INTERVENTIONS
from saebench.measures.sums import TokenSums
from saebench.options import Overrides
from saebench.records.verdict import Verdict
from saebench.subjects.host import Host
from saebench.subjects.host_loading import has_tf32
from saebench.subjects.loading import wrap_sae
from saebench.subjects.sae import Subject
from saebench.substitution import engine as engine_module
from saebench.substitution.engine import Engine
from saebench.substitution.measurement import Measurement
from saebench.substitution.noise import NoiseSource

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SEQUENCES, CONTEXT, HOOK = 24, 48, "blocks.1.hook_resid_pre"


@pytest.fixture(autouse=True)
def _no_tf32() -> Iterator[None]:
    assert torch.get_float32_matmul_precision() == "highest"
    yield
    assert torch.get_float32_matmul_precision() == "highest"


@cache
def _model(family: str) -> Any:
    return make_model(family)


def _host(family: str, device: torch.device, **how: Any) -> Host:
    dtype = how.pop("dtype", torch.float32)
    model = copy.deepcopy(_model(family)).to(device, dtype)
    return Host(model, StubTokenizer(), name=family, **how)


def _tokens(sequences: int = SEQUENCES) -> TokenSet:
    ids = random_ids(sequences, CONTEXT)
    counted = torch.ones_like(ids, dtype=torch.bool)
    counted[:, 0] = False
    counted[3, 5:9] = False
    return make_tokens(ids, counted)


def _subject(device: torch.device, *, scale: float = 0.3) -> Subject:
    from sae_lens import StandardSAE, StandardSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    metadata = SAEMetadata(model_name="m", hook_name=HOOK)
    sae = StandardSAE(StandardSAEConfig(d_in=32, d_sae=64, metadata=metadata))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        sae.W_enc.copy_(torch.randn(32, 64, generator=generator))
        sae.W_dec.copy_(scale * torch.randn(64, 32, generator=generator))
    return wrap_sae(sae, id="sae", overrides=Overrides()).to(device)


def _plain(reconstruct: Callable[[Tensor], Tensor], device: torch.device) -> Subject:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.W_enc = nn.Parameter(torch.eye(32))

        def encode(self, x: Tensor) -> Tensor:
            return x @ self.W_enc

        def decode(self, features: Tensor) -> Tensor:
            return reconstruct(features)

    overrides = Overrides(hook=HOOK, training_context=CONTEXT, prepend_bos=True)
    return wrap_sae(Plain(), id="sae", overrides=overrides).to(device)


def _measured(
    host: Host,
    subject: Subject,
    tokens: TokenSet | None = None,
    names: tuple[str, ...] = INTERVENTIONS,
    **how: Any,
) -> Measurement:
    progress = how.pop("progress", lambda _: None)
    keep = {"sae": ("sae.kl",)}
    engine = Engine(host, tokens or _tokens(), seed=5, **how)
    found = engine.measure([(subject, names)], progress=progress, keep=keep)["sae"]
    if isinstance(found, Exception):
        raise found
    return found


def _worst(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return, for each channel, the largest difference over the largest value."""
    assert set(found) == set(expected)
    size = {name: max(np.abs(values).max(), 1e-9) for name, values in expected.items()}
    return {n: float(np.abs(found[n] - expected[n]).max() / size[n]) for n in expected}


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_every_channel_is_that_of_the_cpu(family: str):
    expected = _measured(_host(family, CPU), _subject(CPU), batch_size=5)
    found = _measured(_host(family, GPU), _subject(GPU), batch_size=5)
    assert found.interventions == expected.interventions
    assert found.path == expected.path
    # Counts of tokens whose order of KL, or whose maximum, hangs on the last bit may differ by 1.
    counts = {n for n in expected.table() if n.endswith((".exceeded", ".agrees"))}
    worst = _worst(found.table(), expected.table())
    assert max(v for n, v in worst.items() if n not in counts) < 2e-4, worst
    assert max(worst[n] for n in counts) <= 1 / CONTEXT + 1e-9, worst
    assert np.abs(found.fired - expected.fired).max() <= 1
    for name, histogram in expected.sums.histograms.items():
        assert histogram.counts.sum() == found.sums.histograms[name].counts.sum()
    assert found.per_token is not None
    assert expected.per_token is not None
    kept = found.per_token.values["sae.kl"]
    np.testing.assert_allclose(kept, expected.per_token.values["sae.kl"], rtol=1e-3, atol=1e-6)


def test_the_integers_of_the_noise_are_equal_and_the_normals_nearly():
    source = NoiseSource(3, "eps_random")
    place = torch.arange(500), torch.arange(500) % 48
    there = tuple(part.to(GPU) for part in place)
    assert torch.equal(source.integers(*place), source.integers(*there).cpu())
    normals = source.normal(*place, d=30), source.normal(*there, d=30).cpu()
    torch.testing.assert_close(*normals, rtol=1e-4, atol=1e-5)


def test_the_batch_size_changes_nothing():
    host, subject = _host("gpt2", GPU), _subject(GPU)
    expected = _measured(host, subject, batch_size=24)
    for size in (1, 7, None):
        worst = _worst(_measured(host, subject, batch_size=size).table(), expected.table())
        kl = {n: v for n, v in worst.items() if n.endswith((".kl", ".ce"))}
        assert max(kl.values()) < 1e-5, kl


def test_the_identity_changes_nothing():
    identity = _plain(lambda x: x, GPU)
    found = _measured(_host("llama", GPU), identity, names=("sae",))
    assert found.sums.total("sae.kl") / found.sums.total("n.scored") <= 1e-6


def test_after_the_first_batch_we_look_at_the_gpu_once_a_batch():
    host, subject, ours = _host("gpt2", GPU), _subject(GPU), Path(saebench.__file__).parent
    batches = 0

    def begin(_: int) -> None:
        nonlocal batches
        batches += 1
        torch.cuda.set_sync_debug_mode("warn")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            engine = Engine(host, _tokens(), seed=5, batch_size=4)
            # Whatever waits at the end, when sums are fetched, is not in the loop.
            subjects = [(subject, INTERVENTIONS)]
            finish = Engine._finished
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Engine, "_finished", lambda *a: _quietly(finish, *a))
                engine.measure(subjects, progress=begin)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [Path(w.filename) for w in caught if "synchroniz" in str(w.message)]
    own = [path.name for path in waits if ours in path.parents]
    assert own == ["batches.py"] * (batches - 1), [str(w) for w in waits]


def _quietly(finish: Callable[..., Any], *args: Any) -> Any:
    torch.cuda.set_sync_debug_mode("default")
    return finish(*args)


def test_logits_that_fp32_cannot_compare_are_computed_again():
    def blown_up(x: Tensor) -> Tensor:
        return 1e5 * x.flip(-1)

    # The final norm takes the size away: a model without it is what overflows.
    hosts = [_host("gpt2", device) for device in (CPU, GPU)]
    for host in hosts:
        host.model.transformer.ln_f.weight.data.mul_(300)
        host.model.lm_head.weight.data.mul_(1)
    expected, found = (
        _measured(host, _plain(blown_up, host.device), names=("sae", "zero")) for host in hosts
    )
    assert expected.sums.total("sae.kl") / expected.sums.total("n.scored") > 100
    worst = _worst(found.table(), expected.table())
    assert worst["sae.kl"] < 1e-4, worst


def test_an_undefined_direction_is_named_and_spares_the_others():
    found = _measured(_host("gpt2", GPU), _plain(lambda x: 0 * x, GPU))
    expected = _measured(_host("gpt2", CPU), _plain(lambda x: 0 * x, CPU))
    assert set(found.failures) == set(expected.failures) == {
        "norm_corrected", "theta_random_x", "theta_random_sae",
    }  # fmt: skip
    assert str(found.failures["norm_corrected"]) == str(expected.failures["norm_corrected"])
    assert found.interventions == expected.interventions


def test_a_batch_that_does_not_fit_is_halved_and_gives_the_same(monkeypatch):
    host, subject, tokens = _host("gpt2", GPU), _subject(GPU), _tokens(2048)
    names = ("sae", "zero", "eps_random")
    expected = _measured(host, subject, tokens, names, batch_size=32)
    seen = []
    known = engine_module.is_out_of_memory
    monkeypatch.setattr(
        engine_module, "is_out_of_memory", lambda e: seen.append(known(e)) or seen[-1]
    )
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**26) / total)
    try:
        found = _measured(host, subject, tokens, names, batch_size=2048)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert seen
    assert all(seen)
    worst = _worst(found.table(), expected.table())
    assert max(v for n, v in worst.items() if n.endswith(".kl")) < 1e-5, worst


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "tf32"])
def test_a_model_in_fewer_bits_gives_the_same_kl_within_2_percent(kind: str):
    if kind == "tf32" and not has_tf32("cuda"):
        pytest.skip("this GPU has no TF32")
    how: dict[str, Any] = {"tf32": True} if kind == "tf32" else {"dtype": getattr(torch, kind)}
    subjects = [_plain(lambda x: x + 0.05 * x.flip(-1), GPU)] * 2
    hosts = [_host("llama", GPU), _host("llama", GPU, **how)]
    exact, found = (
        _measured(host, subject, names=("sae",))
        for host, subject in zip(hosts, subjects, strict=True)
    )
    kl = [m.sums.total("sae.kl") / m.sums.total("n.scored") for m in (exact, found)]
    assert 0.005 < kl[0] < 0.05
    assert kl[1] == pytest.approx(kl[0], rel=0.02)


def test_the_stages_add_up_to_the_time_and_none_waits():
    engine = Engine(_host("gpt2", GPU), _tokens(), seed=0)
    engine.measure([(_subject(GPU), INTERVENTIONS)], progress=lambda _: None)
    seconds = engine.stages.seconds()
    assert all(seconds[stage] > 0 for stage in ("clean", "encode", "noise", "resume", "readout"))


def test_sums_of_a_gpu_are_here_only_when_fetched():
    sums = TokenSums(sequences=2, context=3)
    mask = torch.ones(1, 3, dtype=torch.bool, device=GPU)
    for row in range(2):
        values = torch.full((1, 3), 1.0 + row, device=GPU)
        sums.add("kl", values, mask=mask, rows=slice(row, row + 1))
        sums.tally("kl", values.flatten())
    assert "kl" not in sums.by_sequence
    assert sums.fetch().by_sequence["kl"].tolist() == [3.0, 6.0]
    assert sums.fetch().by_position["kl"].tolist() == [3.0, 3.0, 3.0]
    assert sums.histograms["kl"].counts.sum() == 6


def test_the_gate_gives_the_cpus_verdicts_and_metrics(tiny):
    runs = {
        device: saebench.judge(tiny.good, tiny.model, tiny.texts, sequences=8, device=device)
        for device in ("cpu", "cuda")
    }
    cases = {device: {c.id: c for c in run.cases} for device, run in runs.items()}
    assert set(cases["cpu"]) == set(cases["cuda"])
    for key, expected in cases["cpu"].items():
        found = cases["cuda"][key]
        assert found.verdict == expected.verdict, key
        values = {metric.name: metric.value for metric in found.metrics}
        assert set(values) == {metric.name for metric in expected.metrics}
        for metric in expected.metrics:
            if metric.value is None:
                assert values[metric.name] is None
            else:
                same = pytest.approx(metric.value, rel=0.02, abs=2e-3)
                assert values[metric.name] == same, (key, metric.name)


@pytest.mark.parametrize("objective", ["standard", "frozen", "intrusive", "non-intrusive"])
def test_training_on_a_gpu_gives_an_sae_that_can_be_judged(tmp_path, tiny, objective: str):
    out = tmp_path / "out"
    words = ["--hook", "blocks.2.hook_resid_pre", "--sparsity", "topk:16", "--tokens", "30000"]
    words += ["--init-tokens", "30000", "--sae-device", "cuda", "-o", str(out)]
    assert main(["train", "--objective", objective, *words]) == 0
    cases = saebench.judge(str(out), data=tiny.texts, sequences=8, context=12, device="cuda").cases
    assert Verdict.ERROR not in {case.verdict for case in cases}
    [fidelity] = [case for case in cases if case.property == "fidelity"]
    assert fidelity.metrics


@pytest.mark.parametrize("method", ["scale", "decoder", "baseline"])
def test_repair_on_a_gpu_gives_an_sae_that_is_judged(tmp_path, method: str):
    words = ["repair", "demo:l2-standard", "--method", method, "--tokens", "20000"]
    words += ["--sequences", "32"]
    assert main([*words, "--sae-device", "cuda", "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "repair.json").is_file()
