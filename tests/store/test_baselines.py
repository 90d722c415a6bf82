"""Stored baselines: what is written, what is kept, and what is refused."""

import contextlib
import errno
import hashlib
import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from saebench.errors import NotWritten, StoreError
from saebench.experiments.prepare import prepare
from saebench.judging.cases import case_request
from saebench.judging.judge import Judge
from saebench.options import Settings
from saebench.progress import progress_bar
from saebench.properties import find_property, properties
from saebench.records.case_result import CaseResult
from saebench.records.inputs import DatasetRecord, ModelRecord, SubjectRecord
from saebench.records.metric import Direction, Interval, Metric, SampleSize
from saebench.records.verdict import Verdict
from saebench.store import atomic, baselines
from saebench.store.baselines import Measured, baseline_path, read_baseline, update_baseline
from saebench.subjects.references import find_subjects

SAE = SubjectRecord("sae", "here", "ab" * 32, "cd" * 32, "standard", "hook", "resumed", 4, 8, 16)
MODEL = ModelRecord("model", None, "ef" * 32, "float32", "cpu")


def _data(fingerprint: str) -> DatasetRecord:
    return DatasetRecord("texts", None, None, fingerprint, 6, 16, "documents", 6, 0, {})


def _sums(seed: int = 0, sequences: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    names = ("sae.kl", "norm_ratio", "l0")
    counts = rng.integers(5, 15, sequences).astype(float)
    return {name: rng.gamma(2, 1, sequences) for name in names} | {"n.scored": counts}


FORMULAS = {"fidelity.kl": "sae.kl", "shrinkage.l2_ratio": "norm_ratio", "sparsity.l0": "l0"}


def _case(name: str, sums: dict[str, np.ndarray], **changes: Any) -> CaseResult:
    value = float(sums[FORMULAS[name]].sum() / sums["n.scored"].sum())
    n = SampleSize(len(sums["n.scored"]), int(sums["n.scored"].sum()))
    ci = Interval(value - 0.1, value + 0.1, 0.95, "BCa")
    metric = Metric(name, 1, value, "nats", Direction.LOWER, n, ci=ci)
    about = name.partition(".")[0]
    given = {"verdict": Verdict.PASS, "reason": "", "duration_s": 0.1, "fingerprint": "f" * 8}
    return CaseResult(f"{about}@sae", "sae", about, {}, metrics=(metric,), **(given | changes))


def _measured(*names: str, seed: int = 0, sequences: int = 6, **changes: Any) -> Measured:
    sums = _sums(seed, sequences)
    cases = tuple(_case(name, sums, **changes) for name in names or FORMULAS)
    data = replace(_data(f"tokens {seed} {sequences}"), sequences=sequences)
    key = f"sequences@{seed}-{sequences}"
    return Measured(SAE, MODEL, (data,), cases, {key: sums}, {case.id: key for case in cases})


def _update(root: Path, measured: Measured, *, only_new: bool = False) -> list[baselines.Change]:
    return update_baseline(root, measured, only_new=only_new)


def _read(root: Path) -> dict[str, Any]:
    return read_baseline(baseline_path(root, SAE, MODEL))


def _value(stored: dict[str, Any], metric: str) -> float:
    about = metric.partition(".")[0]
    return stored["cases"][f"{about}@sae"]["metrics"][metric]["value"]


def _files(root: Path) -> list[str]:
    return sorted(p.suffix for p in root.rglob("*") if p.is_file())


@pytest.fixture
def stored(tmp_path) -> Path:
    """A baseline's JSON file."""
    _update(tmp_path, _measured())
    return baseline_path(tmp_path, SAE, MODEL)


def _edited(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_is_read_is_what_was_written(tmp_path):
    measured = _measured()
    _update(tmp_path, measured)
    found = _read(tmp_path)
    assert (found["sae"]["id"], found["model"]["name"]) == ("sae", "model")
    assert found["datasets"][0]["fingerprint"] == measured.datasets[0].fingerprint
    for case in measured.cases:
        (metric,) = case.metrics
        assert found["cases"][case.id]["fingerprint"] == case.fingerprint
        assert found["cases"][case.id]["metrics"][metric.name] == {
            "version": 1, "value": metric.value, "ci": [metric.ci.low, metric.ci.high],
            "unit": "nats", "sequences": 6,
        }  # fmt: skip
    for key, table in measured.tables.items():
        for channel, values in table.items():
            assert np.array_equal(found["arrays"][f"{key}/{channel}"], values)


def _given_back(stored: dict[str, Any], metric: str) -> float:
    key = stored["cases"][f"{metric.partition('.')[0]}@sae"]["sums"]
    arrays = stored["arrays"]
    return arrays[f"{key}/{FORMULAS[metric]}"].sum() / arrays[f"{key}/n.scored"].sum()


def test_the_sums_give_back_every_value(stored, tmp_path):
    found = read_baseline(stored)
    for metric in FORMULAS:
        assert _given_back(found, metric) == pytest.approx(_value(found, metric), rel=1e-12)


@pytest.fixture(scope="module")
def real(tiny) -> Measured:
    """The tiny world's good SAE, measured in every way that it can be."""
    settings = Settings(
        model=tiny.model, dataset=tiny.texts, sequences=8, interventions=("eps_random", "zero")
    )
    judge = Judge(settings)
    judge.adopt(prepare(settings, find_subjects([tiny.good])))
    judge.announce(case_request("good", name) for name in properties())
    for request in judge.requests:
        judge.case(request, progress=progress_bar)
    (measured,) = judge.measured()
    return measured


def test_a_real_saes_sums_give_back_every_metric_that_is_a_formula_of_sums(real, tmp_path):
    cases = tuple(case for case in real.cases if case.verdict is not Verdict.ERROR)
    _update(tmp_path, replace(real, cases=cases))
    found = read_baseline(baseline_path(tmp_path, real.sae, real.model))
    checked = 0
    for case in found["cases"].values():
        declared = find_property(case["property"])
        arrays = {
            name.removeprefix(f"{case['sums']}/"): values.sum()
            for name, values in found["arrays"].items()
            if name.startswith(f"{case['sums']}/")
        }
        for spec in declared.metrics:
            value = case["metrics"].get(spec.name, {}).get("value")
            if spec.formula is not None and value is not None:
                assert spec.formula(arrays) == pytest.approx(value, rel=1e-12), spec.name
                checked += 1
    assert checked >= 15


def test_a_case_that_was_skipped_is_not_stored(real, tmp_path):
    skipped = {case.id for case in real.cases if case.verdict is Verdict.SKIPPED}
    assert skipped
    _update(tmp_path, real)
    stored = read_baseline(baseline_path(tmp_path, real.sae, real.model))
    assert not skipped & set(stored["cases"])


def test_a_new_baselines_changes_have_no_value_before(tmp_path):
    changes = _update(tmp_path, _measured())
    assert {c.metric for c in changes} == set(FORMULAS)
    assert all(c.before is None and c.after is not None for c in changes)


def test_an_updates_changes_are_before_and_after(tmp_path):
    _update(tmp_path, _measured(seed=0))
    before = _read(tmp_path)
    for change in _update(tmp_path, _measured(seed=1)):
        assert change.before == _value(before, change.metric)
        assert change.after == _value(_read(tmp_path), change.metric) != change.before


def test_cases_that_were_not_selected_stay_as_they_are(tmp_path):
    _update(tmp_path, _measured())
    before = _read(tmp_path)["cases"]
    _update(tmp_path, _measured("fidelity.kl", verdict=Verdict.FAIL))
    after = _read(tmp_path)["cases"]
    assert after["fidelity@sae"]["verdict"] == "FAIL"
    assert after.keys() == before.keys()
    assert after["sparsity@sae"] == before["sparsity@sae"]


def test_only_new_stores_new_cases_and_leaves_the_others(tmp_path):
    _update(tmp_path, _measured("fidelity.kl"))
    before = _read(tmp_path)["cases"]["fidelity@sae"]
    changes = _update(tmp_path, _measured(verdict=Verdict.FAIL), only_new=True)
    assert {c.metric for c in changes} == {"shrinkage.l2_ratio", "sparsity.l0"}
    assert _read(tmp_path)["cases"]["fidelity@sae"] == before


def test_only_new_with_nothing_new_writes_nothing(stored, tmp_path):
    before = stored.stat().st_mtime_ns
    assert _update(tmp_path, _measured(seed=1), only_new=True) == []
    assert stored.stat().st_mtime_ns == before


@pytest.mark.parametrize("sequences", [6, 4])
@pytest.mark.parametrize("only_new", [False, True])
def test_cases_kept_from_other_tokens_keep_the_sums_they_were_made_of(
    tmp_path, only_new, sequences
):
    """Or the update is refused: a value beside another run's sums would be compared wrongly."""
    _update(tmp_path, _measured("fidelity.kl"))
    other = _measured("sparsity.l0", seed=1, sequences=sequences)
    with contextlib.suppress(StoreError):
        _update(tmp_path, other, only_new=only_new)
    found = _read(tmp_path)
    assert _given_back(found, "fidelity.kl") == pytest.approx(_value(found, "fidelity.kl"))


def test_an_error_case_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(StoreError, match="sae not updated: fidelity@sae is an ERROR"):
        _update(tmp_path, _measured(verdict=Verdict.ERROR))
    assert not list(tmp_path.iterdir())


def test_the_same_measurement_gives_the_same_bytes(stored, tmp_path):
    before = {p: p.read_bytes() for p in stored.parent.iterdir()}
    _update(tmp_path, _measured())
    assert {p: p.read_bytes() for p in stored.parent.iterdir()} == before


def test_an_update_leaves_one_json_and_one_npz(tmp_path):
    for seed in range(3):
        _update(tmp_path, _measured(seed=seed))
    assert _files(tmp_path) == [".json", ".npz"]


def test_other_saes_files_are_left_alone(tmp_path):
    other = replace(_measured(), sae=replace(SAE, id="sae2", weights_sha256="ab" * 32))
    _update(tmp_path, other)
    for seed in range(2):
        _update(tmp_path, _measured(seed=seed))
    assert read_baseline(baseline_path(tmp_path, other.sae, MODEL))["sae"]["id"] == "sae2"


def _sums_file(stored: Path) -> Path:
    (found,) = stored.parent.glob("*.npz")
    return found


def test_altered_sums_are_refused(stored):
    data = bytearray(_sums_file(stored).read_bytes())
    data[len(data) // 2] ^= 1
    _sums_file(stored).write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"sae@abababab\.json: .*altered; measure it again"):
        read_baseline(stored)


@pytest.mark.parametrize("size", [0, 10, -1])
def test_truncated_sums_are_refused(stored, size):
    _sums_file(stored).write_bytes(_sums_file(stored).read_bytes()[:size])
    with pytest.raises(StoreError, match="altered"):
        read_baseline(stored)


def test_missing_sums_are_named(stored):
    name = _sums_file(stored).name
    _sums_file(stored).unlink()
    with pytest.raises(StoreError, match=name):
        read_baseline(stored)


def test_a_missing_baseline_is_named(tmp_path):
    with pytest.raises(StoreError, match="No such file"):
        read_baseline(tmp_path / "none.json")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", "{}", '{"schema_version": 1}', "\ud800", "[" * 100_000]
)
def test_a_file_that_is_no_baseline_is_refused(stored, text):
    stored.write_text(text, errors="surrogatepass")
    with pytest.raises(StoreError, match=r"sae@abababab\.json"):
        read_baseline(stored)


@pytest.mark.parametrize(
    "changes",
    [
        {"arrays": None}, {"arrays": {}}, {"arrays": {"file": "x.npz"}}, {"arrays": {"file": 3}},
        {"cases": None}, {"cases": {"fidelity@sae": 3}},
    ],
    ids=str,
)  # fmt: skip
def test_a_baseline_of_another_shape_is_refused(stored, changes):
    name = changes.get("arrays") and changes["arrays"].get("file")
    if name == "x.npz":
        changes = {"arrays": {"file": _sums_file(stored).name}}
    _edited(stored, **changes)
    with pytest.raises(StoreError, match=r"sae@abababab\.json"):
        read_baseline(stored)


def test_a_value_edited_by_hand_is_refused(stored):
    cases = json.loads(stored.read_text())["cases"]
    cases["fidelity@sae"]["metrics"]["fidelity.kl"]["value"] *= 2
    _edited(stored, cases=cases)
    with pytest.raises(StoreError, match=r"sae@abababab\.json"):
        read_baseline(stored)


def test_a_schema_of_another_version_is_refused_and_not_overwritten(stored, tmp_path):
    _edited(stored, schema_version=99)
    before = stored.read_bytes()
    with pytest.raises(StoreError, match="schema_version 99, this saebench reads 1 and 2"):
        _update(tmp_path, _measured())
    assert stored.read_bytes() == before


def test_sums_are_never_read_from_elsewhere(stored, tmp_path):
    secret = tmp_path / "secret.npz"
    secret.write_bytes(_sums_file(stored).read_bytes())
    arrays = json.loads(stored.read_text())["arrays"]
    _edited(stored, arrays=arrays | {"file": "../../../secret.npz"})
    with pytest.raises(StoreError, match=r"secret\.npz"):
        read_baseline(stored)


@pytest.mark.parametrize("crash_at", [1, 2])
def test_a_crash_leaves_the_old_baseline_readable_and_nothing_half_written(
    stored, tmp_path, monkeypatch, crash_at
):
    before, calls = _read(tmp_path)["cases"], []
    real_replace = Path.replace

    def crashing(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == crash_at:
            raise OSError(5, "the disk is gone")
        return real_replace(self, target)

    monkeypatch.setattr(Path, "replace", crashing)
    with pytest.raises(StoreError, match="cannot be written: the disk is gone"):
        _update(tmp_path, _measured(seed=1))
    assert _read(tmp_path)["cases"] == before
    assert not [p for p in stored.parent.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("full", [".json", ".npz"])
def test_a_full_disk_leaves_the_old_baseline_and_nothing_else(stored, tmp_path, monkeypatch, full):
    before = {path: path.read_bytes() for path in stored.parent.iterdir()}
    write = atomic._write_through

    def until_full(path: Path, data: bytes) -> None:
        if full in path.name:
            path.write_bytes(data[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    monkeypatch.setattr(atomic, "_write_through", until_full)
    with pytest.raises(NotWritten, match="No space left on device"):
        _update(tmp_path, _measured(seed=1))
    assert {path: path.read_bytes() for path in stored.parent.iterdir()} == before


def _killed_at(suffix: str, root: Path, real: Any = baselines.replace_files) -> None:
    def kill(contents: dict[Path, bytes]) -> None:
        for path, data in contents.items():
            if path.suffix == suffix:
                os.kill(os.getpid(), signal.SIGKILL)
            real({path: data})

    baselines.replace_files = kill
    _update(root, _measured(seed=1))


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_a_killed_process_leaves_the_old_baseline_and_the_next_update_goes_on(
    stored, tmp_path, suffix
):
    before = _read(tmp_path)["cases"]
    process = multiprocessing.get_context("fork").Process(
        target=_killed_at, args=(suffix, tmp_path)
    )
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert _read(tmp_path)["cases"] == before
    _update(tmp_path, _measured(seed=2))
    assert _files(tmp_path) == [".json", ".npz"]


def _together(root: Path, name: str, seed: int, start: Any) -> None:
    start.wait()
    _update(root, _measured(name, seed=seed))


def test_two_updates_at_once_are_both_kept(tmp_path):
    fork = multiprocessing.get_context("fork")
    for attempt in range(10):
        root, start = tmp_path / str(attempt), fork.Barrier(2)
        names = ("fidelity.kl", "sparsity.l0")
        both = [
            fork.Process(target=_together, args=(root, name, seed, start))
            for seed, name in enumerate(names)
        ]
        for each in both:
            each.start()
        for each in both:
            each.join(30)
        assert [each.exitcode for each in both] == [0, 0]
        assert sorted(_read(root)["cases"]) == ["fidelity@sae", "sparsity@sae"]
        assert _files(root) == [".json", ".npz"]


@pytest.mark.parametrize("data", [b"", b"no npz", b"PK\x03\x04" + bytes(96)])
def test_sums_that_are_no_npz_are_refused_even_with_their_checksum(stored, data):
    arrays = json.loads(stored.read_text())["arrays"]
    (stored.parent / arrays["file"]).write_bytes(data)
    _edited(stored, arrays=arrays | {"sha256": hashlib.sha256(data).hexdigest()})
    with pytest.raises(StoreError, match=r"sums are no npz"):
        read_baseline(stored)


def test_an_update_after_a_crash_clears_what_the_crash_left(stored, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        real = Path.replace
        patched.setattr(Path, "replace", lambda p, to: real(p, to) if to != stored else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            _update(tmp_path, _measured(seed=1))
    assert _files(tmp_path) == [".json", ".npz", ".npz"]
    _update(tmp_path, _measured(seed=2))
    assert _files(tmp_path) == [".json", ".npz"]


def _with_nan(measured: Measured, where: str) -> Measured:
    if where == "sums":
        ((key, table),) = measured.tables.items()
        kl = table["sae.kl"].copy()
        kl[2] = np.nan
        return replace(measured, tables={key: table | {"sae.kl": kl}})
    metric = measured.cases[0].metrics[0]
    changes = {"value": {"value": float("nan")},
               "interval": {"ci": Interval(float("nan"), 1.0, 0.95, "")}}  # fmt: skip
    case = replace(measured.cases[0], metrics=(replace(metric, **changes[where]),))
    return replace(measured, cases=(case, *measured.cases[1:]))


@pytest.mark.parametrize("only_new", [False, True])
@pytest.mark.parametrize("where", ["value", "interval", "sums"])
def test_what_is_nan_is_refused_and_the_store_stays_byte_for_byte(
    stored, tmp_path, where, only_new
):
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(StoreError, match="sae not updated"):
        _update(tmp_path, _with_nan(_measured(seed=1), where), only_new=only_new)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_place_that_cannot_be_written_is_an_error_naming_it(tmp_path):
    (tmp_path / "file").write_text("no directory")
    for root in (Path("/proc/none"), tmp_path / "file"):
        with pytest.raises(StoreError, match=f"{root}.*cannot be written"):
            _update(root, _measured())


names = st.text(max_size=300) | st.sampled_from(
    ["..", ".", "", "/", "../../x", "/etc/x", "a\0b", "C:\\x", "~", "-rf", "a\nb", ".git", "é" * 99]
)


@given(sae=names, hook=names, model=names)
@example(sae="../x", hook="../..", model="/")
def test_no_name_leads_out_of_the_root(sae, hook, model):
    root = Path("/root/of/baselines")
    path = baseline_path(root, replace(SAE, id=sae, hook=hook), replace(MODEL, name=model))
    parts = path.relative_to(root).parts
    assert len(parts) == 3
    for part in parts:
        assert part.strip(".")
        assert part.isascii()
        assert not set(part) & set("/\\\0\n ")
        assert len(part) + len(".12345678.npz.1234567") < 255
    assert path.name.endswith("@abababab.json")


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "..", "é/ü 😀", "a" * 500, "x[1]*?"])
def test_an_sae_of_any_name_is_stored_inside_the_root_and_read_back(tmp_path, name):
    root = tmp_path / "root"
    odd = replace(_measured(), sae=replace(SAE, id=name, hook=name))
    odd = replace(odd, model=replace(MODEL, name=name))
    for seed in (0, 1):
        other = _measured(seed=seed)
        _update(root, replace(odd, tables=other.tables, table_of=other.table_of))
    assert [p.name for p in tmp_path.iterdir()] == ["root"]
    assert _files(root) == [".json", ".npz"]
    assert read_baseline(baseline_path(root, odd.sae, odd.model))["sae"]["id"] == name
