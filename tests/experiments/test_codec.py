import io
import json

import numpy as np
import pytest
from scipy.sparse import csr_array

from saebench.errors import NotApplicable, StoreError, UndefinedDirection
from saebench.experiments.codec import decode, encode
from saebench.measures.histogram import LogHistogram
from saebench.measures.sums import TokenSums
from saebench.substitution.measurement import Measurement, Moves, TokenMeasurement


def _measurement() -> Measurement:
    sums = TokenSums(2, 3, edges=(0, 1, 3), keep=("kl",), first=4)
    sums.by_sequence["kl"] = np.array([1.0, np.pi])
    sums.by_token["kl"] = np.ones((2, 3), dtype=np.float32)
    sums.histograms["kl"] = LogHistogram.empty()
    return Measurement(
        sums=sums,
        interventions=("sae", "zero"),
        fired=np.array([3, 0]),
        path="resumed",
        failures={"sae_norm": UndefinedDirection("of length zero")},
        per_token=TokenMeasurement({"kl": np.ones((1, 2))}, np.ones((1, 2)), np.ones(2), str),
        moves=Moves(np.zeros((2, 5)), by_sequence=True),
    )


def test_a_measurement_comes_back_bit_for_bit():
    before = _measurement()
    after = decode(encode({"one": before, "none": NotApplicable("no text")}))
    found = after["one"]
    assert found.sums.edges == (0, 1, 3)
    assert found.sums.first == 4
    assert found.sums.by_sequence["kl"].tobytes() == before.sums.by_sequence["kl"].tobytes()
    assert found.sums.by_token["kl"].dtype == np.float32
    assert found.sums.histograms["kl"].counts.tolist() == LogHistogram.empty().counts.tolist()
    assert found.interventions == ("sae", "zero")
    assert isinstance(found.failures["sae_norm"], UndefinedDirection)
    assert found.moves.by_sequence is True
    assert found.per_token.values["kl"].shape == (1, 2)
    assert str(after["none"]) == "no text"
    assert isinstance(after["none"], NotApplicable)


def test_a_sparse_table_and_numbers_that_json_lacks_come_back():
    table = csr_array(np.array([[0, 1], [0, 0]], dtype=bool))
    found, nan, infinite, number = decode(encode((table, float("nan"), float("inf"), np.int64(3))))
    assert (found.toarray() == table.toarray()).all()
    assert np.isnan(nan)
    assert infinite == float("inf")
    assert number == 3


def test_what_is_no_measurement_is_refused():
    with pytest.raises(TypeError, match="object is not a measurement"):
        encode(object())


def _bytes(tree: object, **arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, tree=np.array(json.dumps(tree)), **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "tree",
    [
        {"class": ["Path", {}]},
        {"class": ["Moves", {"nothing": 1}]},
        {"error": ["nearest", "x"]},
        {"error": ["Iterable", "x"]},
        {"array": 7},
        {"what": 1},
        {"list": [1], "tuple": [1]},
    ],
)
def test_unknown_classes_errors_and_arrays_are_refused(tree: object):
    with pytest.raises(StoreError, match="not a measurement that saebench wrote"):
        decode(_bytes(tree))


def test_a_pickle_inside_is_never_loaded():
    buffer = io.BytesIO()
    np.savez(buffer, tree=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(StoreError):
        decode(buffer.getvalue())


@pytest.mark.parametrize("data", [b"", b"PK", b"\x00" * 100])
def test_bytes_of_something_else_are_refused(data: bytes):
    with pytest.raises(StoreError):
        decode(data)
