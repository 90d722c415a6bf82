"""Parts of a run, measured apart and put together, are the run."""

from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from numpy.testing import assert_allclose

from saebench.errors import NonFiniteValue, NotApplicable
from saebench.experiments.base import (
    CONTROLS,
    EXPERIMENTS,
    PAIRS,
    SEQUENCES,
    AlignmentTax,
    ClozePrompts,
    Experiment,
    LongTexts,
    ManyDraws,
    OneToken,
    Results,
    Target,
)
from saebench.experiments.bench import Bench
from saebench.experiments.codec import decode, encode
from saebench.experiments.in_order import AT_ONCE, InOrder
from saebench.experiments.prepare import prepare
from saebench.measures.names import INTERVENTIONS
from saebench.measures.state import WithPeers
from saebench.options import Overrides, Settings
from saebench.progress import no_progress
from saebench.subjects.host_loading import FILE, patched_host, write_patch
from saebench.subjects.made_controls import CONTROLS as MADE_CONTROLS
from saebench.subjects.references import find_subjects
from saebench.substitution.measurement import Measurement

if TYPE_CHECKING:
    from tiny import TinyWorld

N = 9


@pytest.fixture(scope="module")
def bench(tiny: "TinyWorld", tmp_path_factory: pytest.TempPathFactory) -> Bench:
    prompts = tmp_path_factory.mktemp("cloze") / "prompts.jsonl"
    texts = Path(tiny.texts).read_text().splitlines()
    prompts.write_text("\n".join(texts[:7]))
    settings = Settings(
        model=tiny.model,
        dataset=tiny.texts,
        sequences=N,
        cloze=str(prompts),
        prompts=7,
        context=12,
        overrides=Overrides(training_context=3),
    )
    early = tiny.early(tmp_path_factory.mktemp("early") / "early")
    (found,) = prepare(settings, find_subjects([tiny.good, tiny.bad, early]))
    return found


def _targets(bench: Bench, names: tuple[str, ...], keep: tuple[str, ...] = ()) -> list[Target]:
    return [Target((subject,), names, keep) for subject in bench.subjects]


def _run(bench: Bench, experiment: Experiment, targets: list[Target]) -> Results:
    return experiment.on(bench).measure(targets, progress=no_progress)


def _whole(
    bench: Bench,
    experiment: Experiment,
    names: tuple[str, ...] = (),
    keep: tuple[str, ...] = (),
) -> dict[str, Any]:
    results = _run(bench, experiment, _targets(bench, names, keep))
    assert not results.failures
    return results.measurements


def _parts(
    bench: Bench,
    experiment: Experiment,
    names: tuple[str, ...] = (),
    keep: tuple[str, ...] = (),
) -> dict[str, Any]:
    targets = _targets(bench, names, keep)
    count = experiment.on(bench).extent(targets).count
    ranges = (slice(0, 2), slice(2, 3), slice(3, count))
    parts = (_run(bench.within(rows), experiment, targets) for rows in ranges)
    return InOrder(parts).whole().measurements


def _is_moved_later(table: str, channel: str) -> bool:
    """Only whole sequences' squared deviations are taken from the run's own mean."""
    own = table == "by_sequence" and "@" not in channel
    return channel.startswith("squared_deviation") and not own


@pytest.mark.parametrize("experiment", [SEQUENCES, LongTexts()])
def test_every_channel_is_that_of_the_whole_run(bench: Bench, experiment: Experiment):
    whole = _whole(bench, experiment, INTERVENTIONS, ("sae.kl",))
    parts = _parts(bench, experiment, INTERVENTIONS, ("sae.kl",))
    for name, expected in whole.items():
        found = parts[name]
        assert found.interventions == expected.interventions
        assert set(found.sums.by_sequence) == set(expected.sums.by_sequence)
        for table in ("by_sequence", "by_position", "by_token"):
            mine, theirs = getattr(found.sums, table), getattr(expected.sums, table)
            for channel, values in theirs.items():
                if _is_moved_later(table, channel):
                    continue
                # What is stacked in a pass differs, and with it the last bits of fp32.
                assert_allclose(mine[channel], values, rtol=2e-4, atol=2e-6, err_msg=channel)
        assert (found.fired == expected.fired).all()
        kl = found.sums.histograms["sae.kl"].counts.sum()
        assert kl == expected.sums.histograms["sae.kl"].counts.sum()


def test_single_tokens_draws_and_prompts_too(bench: Bench):
    one = OneToken(position=5, offsets=3)
    whole, parts = (
        _whole(bench, one, ("sae", "eps_random")),
        _parts(bench, one, ("sae", "eps_random")),
    )
    for name, expected in whole.items():
        for channel, values in expected.table().items():
            assert_allclose(parts[name].table()[channel], values, rtol=2e-4, atol=2e-6)
        assert 0 < len(parts[name].examples) <= 5
    many = ManyDraws(position=5, draws=4, sequences=4)
    whole, parts = _whole(bench, many), _parts(bench, many)
    for name, expected in whole.items():
        assert parts[name].sequences == 4
        assert parts[name].sequence.tolist() == expected.sequence.tolist()
        assert_allclose(parts[name].draws, expected.draws, rtol=1e-3, atol=1e-7)
    whole, parts = _whole(bench, ClozePrompts()), _parts(bench, ClozePrompts())
    for name, expected in whole.items():
        for channel, values in expected.table().items():
            assert_allclose(parts[name].table()[channel], values, rtol=2e-4, atol=2e-5)


def _assert_equal_sums(found: Any, expected: Any) -> None:
    assert set(found.table()) == set(expected.table())
    for channel, values in expected.table().items():
        # What is stacked in a pass differs, and with it the last bits of fp32.
        assert_allclose(found.table()[channel], values, rtol=2e-4, atol=2e-6, err_msg=channel)


def test_controls_too(bench: Bench):
    names = ("sae", "zero", "eps_random", "error_shuffled")
    whole, parts = _whole(bench, CONTROLS, names), _parts(bench, CONTROLS, names)
    for name, expected in whole.items():
        found = parts[name]
        _assert_equal_sums(found.own, expected.own)
        assert list(found.others) == list(expected.others) != []
        for control, values in expected.others.items():
            _assert_equal_sums(found.others[control], values)
        assert dict(found.left_out) == dict(expected.left_out)


def test_a_control_that_one_part_lacks_is_left_out_of_the_whole(bench: Bench):
    targets = [Target((bench.subjects[0],), ("sae",))]
    part = _run(bench.within(slice(0, 2)), CONTROLS, targets)
    ((name, whole),) = part.measurements.items()
    assert isinstance(whole, WithPeers)
    others = {n: m for n, m in whole.others.items() if n != "scaled"}
    lacking = Results({name: WithPeers(whole.own, others, {"scaled": "not here"})})
    found = Results.merged([part, lacking, part])[name]
    assert isinstance(found, WithPeers)
    assert found.left_out == {"scaled": "not here"}
    assert set(found.others) == set(others)
    assert found.own.sums.sequences == 3 * whole.own.sums.sequences


def test_controls_are_counted_with_the_sae_that_they_are_made_of():
    assert CONTROLS.saes_for_each == 1 + len(MADE_CONTROLS)


def test_what_a_patch_costs_too(bench: Bench, tmp_path: Path):
    weights = dict(bench.host.model.named_parameters())
    name = next(n for n in weights if n.endswith("o_proj.weight"))
    write_patch(tmp_path, {name: weights[name].detach() * 1.1}, host=bench.host)
    patched = copy(bench)
    patched.host = patched_host(bench.host, tmp_path / FILE)
    whole, parts = _whole(patched, AlignmentTax()), _parts(patched, AlignmentTax())
    assert whole.keys() == parts.keys() != set()
    for sae, expected in whole.items():
        _assert_equal_sums(parts[sae], expected)
        assert (expected.table()["tax.kl"] > 0).all()
    assert decode(encode(parts)).keys() == parts.keys()
    assert not AlignmentTax().on(bench).extent([]).is_divided  # a model as it came has none


def test_pairs_too(bench: Bench):
    pair = [Target((bench.subjects[2], bench.subjects[0]))]
    whole: Any = _run(bench, PAIRS, pair).measurements
    parts = (_run(bench.within(rows), PAIRS, pair) for rows in (slice(0, 4), slice(4, N)))
    together: Any = InOrder(parts).whole()
    ((name, expected),) = whole.items()
    for channel, values in expected.table().items():
        found = together[name].table()[channel]
        assert_allclose(found, values, rtol=2e-4, atol=2e-6, err_msg=channel)


def test_the_same_parts_give_the_same_bits_and_few_are_in_memory(bench: Bench):
    part = _run(bench.within(slice(0, 1)), SEQUENCES, [Target((bench.subjects[0],), ("sae",))])
    count = 3 * AT_ONCE + 2
    ordered = InOrder([part] * count)
    assert sum(map(len, ordered._levels)) <= 5
    (found,) = ordered.whole().measurements.values()
    (own,) = part.measurements.values()
    assert isinstance(found, Measurement)
    assert isinstance(own, Measurement)
    assert_allclose(found.sums.by_position["sae.kl"], count * own.sums.by_position["sae.kl"])
    assert found.sums.sequences == count


def test_the_first_parts_error_is_the_runs():
    errors = (NonFiniteValue("second"), NonFiniteValue("third"), NotApplicable("no"))
    parts = [Results.of({"sae": error}) for error in errors]
    assert str(InOrder(parts).whole().failures["sae"]) == "second"


def test_error_of_a_part_wins_over_numbers(bench: Bench):
    part = _run(bench.within(slice(0, 2)), SEQUENCES, [Target((bench.subjects[0],), ("sae",))])
    late = Results(failures=dict.fromkeys(part.measurements, NonFiniteValue("late")))
    whole = InOrder([part, late]).whole()
    assert not whole.measurements
    assert isinstance(whole.failures[bench.subjects[0].id], NonFiniteValue)


def test_of_one_name_the_later_results_count():
    first, error = Results({"a": WithPeers(None)}), NonFiniteValue("late")
    assert (first | Results(failures={"a": error})).names() == ["a"]
    assert (first | Results(failures={"a": error}))["a"] is error


@pytest.mark.parametrize("kind", EXPERIMENTS)
def test_every_experiment_names_the_class_that_carries_it_out(kind: type[Experiment], bench: Bench):
    assert kind().on(bench).experiment == kind()
    assert str(kind()).startswith(kind.name)
