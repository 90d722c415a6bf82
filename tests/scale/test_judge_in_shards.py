"""saebench.judge shares its run out as pytest's does."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import saebench
from saebench.errors import OptionError

if TYPE_CHECKING:
    from tiny import TinyWorld

PROPERTIES = ("fidelity", "sparsity")
SHARDS: dict[str, Any] = {"shard_sequences": 5, "threads": 1}

# As in a notebook: no `if __name__ == "__main__"`, which processes elsewhere ask for.
SCRIPT = """
import json, sys
from dataclasses import asdict
import saebench

sae, model, texts, run_dir = sys.argv[1:]
run = saebench.judge(
    sae, model, texts, sequences=24, properties=["fidelity", "sparsity"], workers=1,
    shard_sequences=5, threads=1, run_dir=run_dir,
    min_documents=1,
)
print(json.dumps([asdict(case) for case in run.cases]))
print(__file__, __spec__)
"""


def _judged(sae: Any, model: Any, data: Any, **options: Any) -> Any:
    run = saebench.judge(sae, model, data, sequences=24, properties=PROPERTIES, **options)
    return _timeless(json.loads(json.dumps([asdict(case) for case in run.cases])))


def _timeless(cases: Any) -> Any:
    return [case | {"duration_s": None} for case in cases]


@pytest.fixture(scope="module")
def local(tiny: "TinyWorld") -> Any:
    """What this process finds in shards of the same size."""
    return _judged(tiny.good, tiny.model, tiny.texts, **SHARDS)


def test_a_script_that_hires_finds_the_same_bits(tiny: "TinyWorld", local: Any, tmp_path: Path):
    script, run_dir = tmp_path / "script.py", tmp_path / "run"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), tiny.good, tiny.model, tiny.texts, str(run_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    cases, left = done.stdout.splitlines()
    assert _timeless(json.loads(cases)) == local
    assert left == f"{script} None"
    assert len(list((run_dir / "shards").iterdir())) >= 5
    resumed = _judged(tiny.good, tiny.model, tiny.texts, **SHARDS, run_dir=run_dir, rerun="never")
    assert resumed == local


def test_objects_are_kept_in_a_run_directory_and_not_given_to_workers(
    tiny: "TinyWorld", tmp_path: Path
):
    from sae_lens import SAE

    sae = SAE.load_from_disk(tiny.good)
    first = _judged(sae, tiny.model, tiny.texts, **SHARDS, run_dir=tmp_path / "run")
    again = _judged(sae, tiny.model, tiny.texts, **SHARDS, run_dir=tmp_path / "run", rerun="never")
    assert again == first
    with pytest.raises(OptionError, match="workers load everything themselves"):
        _judged(sae, tiny.model, tiny.texts, workers=2)
    texts = ["w1 w2 w3"]
    with pytest.raises(OptionError, match="workers load everything themselves"):
        _judged(tiny.good, tiny.model, texts, engine="ray")


def test_a_damaged_shard_is_told_as_a_warning(tiny: "TinyWorld", local: Any, tmp_path: Path):
    given = (tiny.good, tiny.model, tiny.texts)
    _judged(*given, **SHARDS, run_dir=tmp_path)
    for shard in (tmp_path / "shards").iterdir():
        shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.warns(UserWarning, match=r"\d damaged shards in .* measured again"):
        found = _judged(*given, **SHARDS, run_dir=tmp_path)
    assert found == local


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"workers": 0}, "--sae-workers must be 1 or more"),
        ({"engine": "rya"}, "did you mean 'ray'"),
        ({"rerun": "failed"}, "of which run"),
        ({"run_dir": "x", "stop_early": True}, "give one or the other"),
    ],
)
def test_what_cannot_be_is_refused(tiny: "TinyWorld", options: dict[str, Any], told: str):
    with pytest.raises(OptionError, match=told):
        _judged(tiny.good, tiny.model, tiny.texts, **options)


def test_an_unknown_option_is_told_with_the_nearest(tiny: "TinyWorld"):
    with pytest.raises(TypeError, match="did you mean 'shard_sequences'"):
        _judged(tiny.good, tiny.model, tiny.texts, shard_sequence=5)
