"""Untrusted files are read or refused, and never crash."""

import warnings
from pathlib import Path

import pytest
from fuzz_targets import Target, room, survives, targets
from hypothesis import HealthCheck, Verbosity, given, settings

CORPUS = Path(__file__).parent / "corpus"
FOUND = sorted(CORPUS.glob("*/*"))
# Those of the corpus that are right, if odd; all others are damaged.
RIGHT = {
    "baseline/whole.json", "leaderboard/no-rows.json", "leaderboard/whole.json",
    "repair/whole.json", "result/name.json", "result/pair.json", "result/whole.json",
    "rule/7.txt", "saelens-cfg.json/whole.json", "thresholds/whole.toml",
}  # fmt: skip
FULL = 20_000
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
NAMES = list(targets())


@pytest.fixture(scope="module", autouse=True)
def _cleared():
    import shutil

    yield
    shutil.rmtree(room(), ignore_errors=True)


def _fuzzed(target: Target, examples: int) -> tuple[int, int]:
    """Return how many inputs were tried, and how many of them were taken."""
    counts = [0, 0]

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=QUIET,
              derandomize=True, verbosity=Verbosity.quiet)  # fmt: skip
    @given(target.inputs)
    def run(content: bytes) -> None:
        counts[0] += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            counts[1] += survives(target, content)

    run()
    return counts[0], counts[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_few_inputs_are_read_or_refused(name):
    tried, _ = _fuzzed(targets()[name], 8)
    assert tried


@pytest.mark.slow
def test_twenty_thousand_inputs_are_read_or_refused():
    tried = {name: _fuzzed(t, round(1000 * t.share)) for name, t in targets().items()}
    for name, (inputs, taken) in tried.items():
        print(f"{name:32} {inputs:6} inputs, {taken:6} taken")  # noqa: T201
    assert sum(inputs for inputs, _ in tried.values()) >= FULL


@pytest.mark.parametrize("path", FOUND, ids=[f"{p.parent.name}/{p.name}" for p in FOUND])
def test_what_once_hurt_is_refused_or_where_it_is_right_read(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        taken = survives(targets()[path.parent.name], path.read_bytes())
    assert taken is (f"{path.parent.name}/{path.name}" in RIGHT)


# Gemma Scope's widths follow from its path: no tiny SAE is one.
@pytest.mark.parametrize("name", [n for n in NAMES if "-" in n and "gemma" not in n])
def test_an_sae_that_nobody_changed_is_taken(name):
    from fuzz_targets import sae_files

    layout = name.partition("-")[0]
    whole = {f"{layout}-{file.replace('/', '-')}": b for file, b in sae_files(layout).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert survives(targets()[name], whole[name])
