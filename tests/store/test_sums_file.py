"""The per-sequence sums beside a result file."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from runs import make_case, make_run

from saebench.errors import StoreError
from saebench.records.verdict import Verdict
from saebench.store.baselines import Measured
from saebench.store.sums_file import (
    CaseSums,
    RunSums,
    dump_sums,
    joined_sums,
    parse_sums,
    read_sums,
    run_sums,
    sums_path,
)

TABLE = {"sae.kl": np.arange(6.0), "n.scored": np.full(6, 10)}
CASE = make_case("one", "fidelity", Verdict.PASS)
RUN = make_run(CASE)
SUMS = RunSums({CASE.id: CaseSums(CASE.fingerprint, TABLE)})


def write_sums(sums, result, *, run_id):
    sums_path(result).write_bytes(dump_sums(sums, run_id=run_id))


def test_sums_are_read_back_as_they_were_written(tmp_path):
    write_sums(SUMS, tmp_path / "run.json", run_id="id")
    assert [p.name for p in tmp_path.iterdir()] == ["run.sums.npz"]
    found = read_sums(tmp_path / "run.json", RUN).cases[CASE.id]
    assert found.fingerprint == CASE.fingerprint
    assert {c: v.tolist() for c, v in found.table.items()} == {
        c: v.tolist() for c, v in TABLE.items()
    }


def test_where_none_lie_there_are_none(tmp_path):
    assert read_sums(tmp_path / "run.json", RUN) == RunSums({})


def test_cases_of_one_measurement_share_its_table():
    rng = np.random.default_rng(0)
    table = {f"c{i}": rng.normal(size=500) for i in range(20)}
    many = RunSums({f"p{i}@one": CaseSums("f", table) for i in range(10)})
    data = dump_sums(many, run_id="id")
    assert len(data) < 1.05 * len(dump_sums(RunSums({"p@one": CaseSums("f", table)}), run_id="id"))
    _, found = parse_sums(data, where="here")
    assert all(np.array_equal(c.table["c3"], table["c3"]) for c in found.cases.values())


def test_equal_sums_are_equal_bytes_whatever_their_order():
    two = {**SUMS.cases, "a@one": CaseSums("f", {"x": np.ones(3)})}
    turned = {id: CaseSums(c.fingerprint, dict(reversed(c.table.items()))) for id, c in two.items()}
    assert dump_sums(RunSums(two), run_id="id") == dump_sums(
        RunSums(dict(reversed(turned.items()))), run_id="id"
    )


def test_sums_of_another_run_are_refused(tmp_path):
    write_sums(SUMS, tmp_path / "run.json", run_id="another")
    with pytest.raises(StoreError, match=r"run\.sums\.npz: holds the sums of another run than run"):
        read_sums(tmp_path / "run.json", RUN)


@pytest.mark.parametrize("id", [CASE.id, "kl_gap@one"])
def test_sums_of_other_cases_or_fingerprints_are_refused(tmp_path, id):
    write_sums(RunSums({id: CaseSums("other", TABLE)}), tmp_path / "run.json", run_id="id")
    with pytest.raises(StoreError, match="another run"):
        read_sums(tmp_path / "run.json", RUN)


def _npz(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _about(**changes):
    told = {"version": 1, "run": "id", "tables": [["x"]]}
    told["cases"] = {"p@s": {"fingerprint": "f", "table": 0}}
    return np.frombuffer(json.dumps(told | changes).encode(), dtype=np.uint8)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04half",
        dump_sums(SUMS, run_id="id")[:-40],
        _npz(x=np.ones(3)),
        _npz(about=np.frombuffer(b"{", dtype=np.uint8)),
        _npz(about=_about()),  # no column
        _npz(about=_about(tables=[]), **{"0/x": np.ones(3)}),
        _npz(about=_about(tables=[[]]), **{"0/x": np.ones(3)}),
        _npz(about=_about(cases=[]), **{"0/x": np.ones(3)}),
        _npz(about=_about(tables=[["x", "y"]]), **{"0/x": np.ones(3), "0/y": np.ones(4)}),
        _npz(about=_about(), **{"0/x": np.ones((3, 2))}),
        _npz(about=_about(), **{"0/x": np.array(["a", "b"])}),
    ],
)
def test_damaged_sums_are_named_with_what_to_do(tmp_path, data):
    (tmp_path / "run.sums.npz").write_bytes(data)
    with pytest.raises(StoreError, match=r"run\.sums\.npz: no per-sequence sums that can be read"):
        read_sums(tmp_path / "run.json", RUN)


def test_every_flipped_byte_is_an_error_or_changes_nothing():
    data = dump_sums(SUMS, run_id="id")
    for at in range(0, len(data), 7):
        hurt = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
        try:
            run_id, found = parse_sums(hurt, where="here")
        except StoreError:
            continue
        assert run_id == "id"
        assert np.array_equal(found.cases[CASE.id].table["sae.kl"], TABLE["sae.kl"])


def test_pickles_are_never_opened(tmp_path):
    data = _npz(about=_about(), **{"0/x": np.array([{}], dtype=object)})
    with pytest.raises(StoreError, match="no per-sequence sums"):
        parse_sums(data, where="here")


def test_sums_of_another_version_are_refused():
    with pytest.raises(StoreError, match="here: sums of version 2, expected 1"):
        parse_sums(_npz(about=_about(version=2)), where="here")


def test_only_cases_about_one_sae_with_metrics_and_sums_are_kept():
    pair = replace(CASE, id="propagation@a→one", sae="a→one")
    failed = replace(CASE, id="kl_gap@one", metrics=())
    alone = replace(CASE, id="cost@one")
    measured = Measured(
        RUN.saes[0], RUN.models[0], RUN.datasets, (CASE, pair, failed, alone), {"k": TABLE},
        dict.fromkeys((CASE.id, pair.id, failed.id), "k"),
    )  # fmt: skip
    assert run_sums([measured]) == SUMS


def test_processes_are_joined():
    two = RunSums({"fidelity@two": CaseSums("f", TABLE)})
    assert joined_sums([SUMS, two]).cases == {**SUMS.cases, **two.cases}


def test_the_sums_stand_beside_the_file_whatever_its_suffix(tmp_path):
    assert sums_path(tmp_path / "a.b.json") == tmp_path / "a.b.sums.npz"
    assert sums_path(tmp_path / "plain") == tmp_path / "plain.sums.npz"
