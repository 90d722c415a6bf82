"""SAE directories damaged byte by byte: an error, or the right result for the bytes."""

import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzz_targets import sae_files
from independent_sae import read_weights, reconstruct

import saebench
from saebench.errors import SaebenchError
from saebench.options import Overrides
from saebench.subjects.loading import load_subject
from saebench.subjects.references import find_subjects
from saebench.subjects.sae import Subject

WEIGHTS = "sae_weights.safetensors"
FEWEST = 500
LAYOUTS = ("saelens", "topk")


def _variants(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Give a file with each of its bytes changed in two ways, and cut at many places."""
    for at in range(len(whole)):
        for bit in (1 << at % 8, 0x80 if at % 8 != 7 else 0x04):
            yield f"byte {at} ^ {bit:#x}", whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :]
    for end in range(0, len(whole), 7):
        yield f"cut to {end}", whole[:end]
    for at in range(0, len(whole), 11):
        yield f"byte {at} lost", whole[:at] + whole[at + 1 :]
        yield f"byte {at} twice", whole[: at + 1] + whole[at:]
    yield "a byte more", whole + b"\x00"


def _all_variants(layout: str) -> list[tuple[str, str, bytes]]:
    return [
        (name, how, content)
        for name, whole in sae_files(layout).items()
        for how, content in _variants(whole)
    ]


def _written(root: Path, layout: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, whole in sae_files(layout).items():
        (root / name).write_bytes(whole)
    return root


def _loaded(directory: Path) -> Subject:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (reference,) = find_subjects([str(directory)])
        return load_subject(reference, overrides=Overrides(), device="cpu")


def _x(d: int) -> torch.Tensor:
    return torch.randn(16, d, generator=torch.Generator().manual_seed(3))


def _outcome(directory: Path, clean: str, *, of_weights: bool) -> str:
    """Return how a damaged directory ends; a wrong number without a word is an AssertionError."""
    try:
        subject = _loaded(directory)
    except SaebenchError as error:
        return "refused" if directory.name in str(error) else "refused, not saying which"
    x = _x(subject.d_in)
    found = subject.reconstruct(x).x_hat.double().numpy()
    with np.errstate(all="ignore"):
        expected = reconstruct(directory, x.double().numpy())
    scale = max(1.0, float(np.abs(expected).max()))
    # Weights of 1e38 overflow float32: infinite is what they give, and the gate says ERROR.
    finite = np.isfinite(found).all()
    assert not finite or np.allclose(found, expected, rtol=1e-4, atol=1e-5 * scale)
    if of_weights:
        changed = read_weights(directory / WEIGHTS)
        original = read_weights(directory.parent / "whole" / WEIGHTS)
        same = all(np.array_equal(changed[n], original[n]) for n in original)
        assert same == (subject.weights_sha256 == clean)
    return "right" if finite else "overflows"


def _damaged(tmp_path: Path, layout: str, chosen: list[tuple[str, str, bytes]]) -> Counter[str]:
    clean = _loaded(_written(tmp_path / "whole", layout)).weights_sha256
    found: Counter[str] = Counter()
    for name, how, content in chosen:
        directory = _written(tmp_path / "damaged", layout)
        (directory / name).write_bytes(content)
        try:
            found[f"{name} {_outcome(directory, clean, of_weights=name == WEIGHTS)}"] += 1
        except Exception as error:
            raise AssertionError(f"{layout}/{name}, {how}: {error!r}") from error
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_some_damaged_directories_are_refused_or_read_as_they_are(layout, tmp_path):
    chosen = _all_variants(layout)[::37]
    found = _damaged(tmp_path, layout, chosen)
    assert found.total() == len(chosen) >= 50
    assert not any("not saying" in outcome for outcome in found)
    assert {"cfg.json refused", f"{WEIGHTS} refused", f"{WEIGHTS} right"} <= set(found)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_damaged_directory_is_refused_or_read_as_it_is(layout, tmp_path):
    chosen = _all_variants(layout)
    found = _damaged(tmp_path, layout, chosen)
    print(dict(found))  # noqa: T201
    assert found.total() == len(chosen) >= FEWEST
    assert not any("not saying" in outcome for outcome in found)


def test_the_gate_s_number_for_altered_weights_is_that_of_the_weights_read_independently(
    tiny, tmp_path
):
    directory = tiny.copy_of(tiny.good, tmp_path / "altered")
    content = bytearray((directory / WEIGHTS).read_bytes())
    content[-37] ^= 0x41
    (directory / WEIGHTS).write_bytes(content)
    weights = {n: torch.tensor(t) for n, t in read_weights(directory / WEIGHTS).items()}
    plain = _Plain(weights)
    about = {"hook": "blocks.1.hook_resid_pre", "training_context": 12, "prepend_bos": True}
    config = {"properties": ["fidelity"], "sequences": 24, "context": 12}
    first = saebench.judge(str(directory), tiny.model, tiny.texts, **config)
    second = saebench.judge(plain, tiny.model, tiny.texts, **config, **about)
    before = saebench.judge(tiny.good, tiny.model, tiny.texts, **config)
    (kl, same, whole) = (_kl(run) for run in (first, second, before))
    assert kl == pytest.approx(same, rel=1e-5)
    assert kl != whole
    assert first.saes[0].weights_sha256 != before.saes[0].weights_sha256


def _kl(run):
    return next(m.value for case in run.cases for m in case.metrics if m.name == "fidelity.kl")


class _Plain(torch.nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.W = torch.nn.ParameterDict(weights)

    def encode(self, x):
        return ((x - self.W["b_dec"]) @ self.W["W_enc"] + self.W["b_enc"]).relu()

    def decode(self, features):
        return features @ self.W["W_dec"] + self.W["b_dec"]
