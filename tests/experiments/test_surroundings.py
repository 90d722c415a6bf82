"""What a caller set in torch for all of its code changes no number."""

import ast
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import saebench
from saebench.experiments.prepare import torchs_own_settings

PACKAGE = Path(__file__).resolve().parents[2] / "saebench"
# What they make without a dtype depends on torch.set_default_dtype.
MAKERS = {"zeros", "ones", "empty", "rand", "randn", "eye", "linspace", "logspace", "normal"}
DEMO = ["demo:l2-standard", "demo:l2-topk"]
FEW = ("fidelity", "kl_gap", "shrinkage", "sparsity", "controls")


def _judged(saes=DEMO, **options):
    run = saebench.judge(saes, sequences=4, **options)
    return {(c.id, m.name): (m.value, m.ci) for c in run.cases for m in c.metrics}


@pytest.fixture(scope="module")
def expected():
    return _judged(properties=FEW)


@contextmanager
def _default(set_it, value, before):
    set_it(value)
    try:
        yield
    finally:
        set_it(before)


@contextmanager
def _many():
    half = torch.autocast("cpu", dtype=torch.bfloat16)
    with _default(torch.set_default_device, "meta", None), torch.inference_mode(), half:
        yield


SURROUNDINGS = {
    "bfloat16 by default": lambda: _default(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "float64 by default": lambda: _default(torch.set_default_dtype, torch.float64, torch.float32),
    "a device by default, inference mode and autocast": _many,
}


@pytest.mark.parametrize("around", SURROUNDINGS)
def test_every_metric_of_the_zoo_is_exactly_the_same(around, expected):
    with SURROUNDINGS[around]():
        found = _judged(properties=FEW)
    assert found == expected
    assert len(found) > 50


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_every_metric_of_every_property_of_the_whole_zoo_is_exactly_the_same(dtype):
    expected = _judged("demo")
    with _default(torch.set_default_dtype, dtype, torch.float32):
        assert _judged("demo") == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_settings_are_put_back_after_an_error_too(dtype):
    with _default(torch.set_default_dtype, dtype, torch.float32):
        with pytest.raises(KeyError), torchs_own_settings():
            raise KeyError(torch.zeros(1).dtype)
        assert torch.get_default_dtype() == dtype


def test_whatever_makes_floating_point_numbers_names_their_dtype():
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and getattr(node.func.value, "id", None) == "torch"
        and node.func.attr in MAKERS
        and "dtype" not in {keyword.arg for keyword in node.keywords}
    ]
    assert not found
