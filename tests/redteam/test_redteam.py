"""No adversary passes unexplained, each fails by its gate, and honest SAEs pass."""

from functools import cache
from pathlib import Path

import pytest
import torch

from redteam.__main__ import PAGE
from redteam.catalogue import ADVERSARIES
from redteam.verdicts import Judged, judge_adversaries, judge_honest
from redteam.world import World, demo_world, stories_world
from saebench.records.verdict import Verdict

SHORT = (
    "principal-components", "identity-in-both-signs", "shrunken-identity", "part-of-the-identity",
    "quantised-identity", "random-rotation", "whole-random-basis", "duplicates", "sign-codes",
    "memorised-texts", "half-memorised", "nothing-active", "always-the-mean",
    "dense-at-nine-tokens-in-ten", "skip-path", "remembers-the-activation", "numbers-in-digits",
    "shrunken-by-a-third", "half-of-the-features", "all-features-alike", "idle-features",
    "offset-on-the-shrunken", "rare-tokens-confused",
    "late-positions-confused", "one-frequent-token-confused", "half-of-the-texts",
    "next-layers-weights", "previous-layers-weights", "previous-layers-encoder",
    "permuted-decoder", "rotated-basis", "random-directions", "random-encoder", "table-of-tokens",
    "half-the-l0-promised", "topk-read-as-relu", "threshold-forgotten", "mean-forgotten",
)  # fmt: skip
UNDECIDED = {"stories": {"l2-standard"}, "demo": {"l1-standard", "l1-attn-z", "l2-topk"}}
"""Honest SAEs that are too near to a limit to be decided on so few texts."""
FAILING = {"stories": {"l2-shrunken"}, "demo": {"l2-shrunken", "l2-dense", "l2-standard"}}
"""Two are bad on purpose; the demo's l2-standard is honest, and fails `kl_gap` as measured."""


@cache
def _short() -> dict[str, Judged]:
    with torch.random.fork_rng():
        return {each.name: each for each in judge_adversaries(demo_world(sequences=32), SHORT)}


@pytest.mark.parametrize("name", SHORT)
def test_an_adversary_is_kept_out(name):
    judged = _short()[name]
    assert judged.verdict in (Verdict.FAIL, Verdict.ERROR), judged
    expected = ADVERSARIES[name].caught_by
    assert expected is None or expected in judged.failed, judged.failed


def test_every_adversary_says_what_it_is_and_the_page_lists_it():
    text = PAGE.read_text(encoding="utf-8")
    assert len(ADVERSARIES) >= 30
    for adversary in ADVERSARIES.values():
        assert adversary.imitates.endswith("."), adversary.name
        assert f"| `{adversary.name}` | {adversary.imitates} |" in text


def test_what_is_refused_is_refused_for_its_way_around_the_features():
    refused = [name for name in SHORT if ADVERSARIES[name].refused]
    assert len(refused) == 3
    assert all(_short()[name].reason.startswith("refused: ") for name in refused)


@cache
def _all(world: str, data: str | None = None) -> tuple[World, list[Judged], list[Judged]]:
    built = demo_world() if data is None else stories_world(Path(data))
    assert built.name == world
    with torch.random.fork_rng():
        return built, judge_honest(built), judge_adversaries(built)


@pytest.fixture(params=["demo", "stories"])
def judged(request) -> tuple[World, list[Judged], list[Judged]]:
    """Everything that is judged on one model; skips where it is absent."""
    if request.param == "demo":
        return _all("demo")
    return _all("stories", str(request.getfixturevalue("real_data").root))


@pytest.mark.slow
def test_no_adversary_passes_unexplained_and_each_fails_by_its_gate(judged):
    _, _, adversaries = judged
    for each in adversaries:
        declared = ADVERSARIES[each.name]
        assert not each.passes or declared.passes_because, each
        assert declared.caught_by is None or declared.caught_by in each.failed, each


@pytest.mark.slow
def test_every_honest_sae_passes_and_those_bad_on_purpose_fail(judged):
    world, honest, _ = judged
    for each in honest:
        expected = {Verdict.FAIL} if each.name in FAILING[world.name] else {Verdict.PASS}
        undecided = {Verdict.INCONCLUSIVE} if each.name in UNDECIDED[world.name] else set()
        assert each.verdict in expected | undecided, each


@pytest.mark.slow
def test_what_is_said_to_get_through_does(real_data):
    runs = [_all("demo"), _all("stories", str(real_data.root))]
    passed = {each.name for _, _, found in runs for each in found if each.passes}
    assert passed == {name for name, a in ADVERSARIES.items() if a.passes_because}
