"""An SAE's functions cannot change others' memory, and their results are checked."""

import pytest
import torch
from torch import Tensor, nn

from saebench.errors import SubjectError
from saebench.options import Overrides
from saebench.subjects.loading import wrap_sae
from saebench.subjects.sae import Subject

D, FEATURES = 8, 12


class Plain(nn.Module):
    """The maths that each case below keeps, by other means."""

    def __init__(self) -> None:
        super().__init__()
        drawn = torch.randn(2, D, FEATURES, generator=torch.Generator().manual_seed(1))
        self.up, self.down = nn.Parameter(drawn[0]), nn.Parameter(drawn[1].T.contiguous())

    def encode(self, x: Tensor) -> Tensor:
        return ((x - 1) @ self.up).relu()

    def decode(self, features: Tensor) -> Tensor:
        return features @ self.down + 1


class EncodesInPlace(Plain):
    def encode(self, x: Tensor) -> Tensor:
        return (x.sub_(1) @ self.up).relu_()


class DecodesInPlace(Plain):
    def decode(self, features: Tensor) -> Tensor:
        found = features @ self.down + 1
        features.zero_()
        return found


class UsesOneBuffer(Plain):
    def encode(self, x: Tensor) -> Tensor:
        return self._kept("features", super().encode(x))

    def decode(self, features: Tensor) -> Tensor:
        return self._kept("output", super().decode(features))

    def _kept(self, name: str, value: Tensor) -> Tensor:
        buffer = self.__dict__.setdefault(name, torch.zeros(4, value.shape[-1]))
        return buffer[: len(value)].copy_(value)


def _x(rows: int = 10) -> Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(2))


def _subject(sae: nn.Module) -> Subject:
    return wrap_sae(sae, id="x", overrides=Overrides(hook="blocks.0.hook_resid_pre"))


@pytest.mark.parametrize("kind", [EncodesInPlace, DecodesInPlace, UsesOneBuffer])
def test_an_sae_that_works_in_place_is_judged_as_the_one_that_does_not(kind, monkeypatch):
    monkeypatch.setattr("saebench.subjects.sae.ROWS_AT_ONCE", {"cpu": 4})
    x, plain = _x(), Plain()
    found, expected = _subject(kind()).reconstruct(x), plain.decode(plain.encode(_x()))
    assert torch.equal(x, _x())
    torch.testing.assert_close(found.x_hat, expected, rtol=1e-5, atol=1e-5)  # fp32, chunks of rows
    assert torch.equal(found.l0, (plain.encode(_x()) != 0).sum(-1).float())
    torch.testing.assert_close(found.l1, plain.encode(_x()).sum(-1), rtol=1e-5, atol=1e-5)


def test_what_one_batch_gave_is_not_overwritten_by_the_next():
    subject = _subject(UsesOneBuffer())
    first = subject.reconstruct(_x(4)).x_hat
    kept = first.clone()
    subject.reconstruct(5 * _x(4))
    assert torch.equal(first, kept)


BAD_FEATURES = {
    "a tuple of (float32 tensor [4, 12] on cpu, None)": lambda f: (f, None),
    "None": lambda _: None,
    "int64 tensor [4, 12]": lambda f: f.long(),
    "bool tensor [4, 12]": lambda f: f != 0,
    "complex64 tensor [4, 12]": lambda f: f.to(torch.complex64),
    "float32 tensor [3, 12]": lambda f: f[1:],
    "float32 tensor [12]": lambda f: f[0],
    "float32 tensor [1, 4, 12]": lambda f: f[None],
    "float32 tensor [4, 12] on meta": lambda f: f.to("meta"),
    "a value of type ndarray": lambda f: f.detach().numpy(),
}


@pytest.mark.parametrize("said", BAD_FEATURES)
def test_features_of_another_kind_are_refused_and_named(said):
    class Odd(Plain):
        def encode(self, x: Tensor) -> Tensor:
            return BAD_FEATURES[said](super().encode(x))

    with pytest.raises(SubjectError, match=r"encode gives .*expected one floating-point") as caught:
        _subject(Odd()).reconstruct(_x(4))
    assert said in str(caught.value)


@pytest.mark.parametrize("odd", [lambda y: (y,), lambda _: None, lambda y: y[1:], lambda y: y > 0])
def test_reconstructions_of_another_kind_are_refused(odd):
    class Odd(Plain):
        def decode(self, features: Tensor) -> Tensor:
            return odd(super().decode(features))

    with pytest.raises(SubjectError, match=r"decode gives .*reconstructions \[4, width\]"):
        _subject(Odd()).reconstruct(_x(4))


def test_what_an_sae_raises_is_reported_as_its_own():
    class Failing(Plain):
        def decode(self, features: Tensor) -> Tensor:
            return {"features": features}["scale"]

    with pytest.raises(SubjectError, match=r"decode fails on a tensor \[4, 12\]: KeyError"):
        _subject(Failing()).reconstruct(_x(4))


def test_an_sae_that_gives_other_features_for_other_tokens_is_refused():
    class Growing(Plain):
        def encode(self, x: Tensor) -> Tensor:
            return super().encode(x)[:, : len(x)]

        def decode(self, features: Tensor) -> Tensor:
            return features @ self.down[: features.shape[1]]

    subject = _subject(Growing())
    subject.reconstruct(_x(4))
    with pytest.raises(SubjectError, match="gives 5 features, and gave 4"):
        subject.reconstruct(_x(5))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_sparse_features_of_any_layout_are_counted(layout):
    class Sparse(Plain):
        def encode(self, x: Tensor) -> Tensor:
            return super().encode(x).to_sparse(layout=layout)

    found, expected = _subject(Sparse()).reconstruct(_x()), _subject(Plain()).reconstruct(_x())
    assert torch.equal(found.l0, expected.l0)
    torch.testing.assert_close(found.x_hat, expected.x_hat)
