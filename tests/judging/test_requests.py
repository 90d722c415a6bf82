"""Which cases the given SAEs have: one each, pairs in the model's order, peers of one model."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saebench.errors import OptionError
from saebench.experiments.base import SEQUENCES
from saebench.judging.cases import Given, Requests, case_request, fingerprint
from saebench.properties import find_property
from saebench.records.inputs import DatasetRecord, ModelRecord, SubjectRecord

HOOKS = ("hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_mlp_out")
places = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(HOOKS)), max_size=6)


def _at(*hooks: str, model: str | None = "m") -> list[Given]:
    return [Given(f"sae{i}", model, f"blocks.{hook}") for i, hook in enumerate(hooks)]


@given(places)
@settings(deadline=None)  # the first call imports the properties
def test_every_two_saes_at_different_places_are_one_pair_the_earlier_first(drawn):
    saes = _at(*(f"{layer}.{name}" for layer, name in drawn))
    rank = {sae.id: (layer, HOOKS.index(n)) for sae, (layer, n) in zip(saes, drawn, strict=True)}
    expected = {
        (a, b) if rank[a] < rank[b] else (b, a)
        for a, b in itertools.combinations(rank, 2)
        if rank[a] != rank[b]
    }
    found = [each for each in Requests(saes).subjects("propagation") if len(each) == 2]
    assert set(found) == expected
    assert len(found) == len(expected)


def test_an_sae_that_is_in_no_pair_has_a_case_by_itself():
    saes = [*_at("0.hook_resid_pre", "1.hook_resid_pre"), Given("lone", "other", "blocks.5.hook_z")]
    assert Requests(saes).subjects("propagation") == [("sae0", "sae1"), ("lone",)]


def test_saes_at_one_place_are_no_pairs():
    saes = _at("1.hook_resid_pre", "0.hook_resid_post")
    assert Requests(saes).subjects("propagation") == [("sae0",), ("sae1",)]


def test_where_the_order_is_not_known_it_is_that_of_the_command_line():
    saes = [Given("hub", None, None), *_at("0.hook_resid_pre")]
    assert Requests(saes).subjects("propagation") == [("hub", "sae0")]


def test_other_properties_have_one_case_for_each_sae_as_before():
    saes = _at("0.hook_resid_pre", "1.hook_resid_pre")
    for name in ("fidelity", "hard_tokens", "a property of one's own"):
        assert Requests(saes).subjects(name) == [("sae0",), ("sae1",)]


def test_a_property_that_reads_others_measurements_needs_those_at_other_places():
    saes = [*_at("0.hook_resid_pre", "0.hook_resid_pre", "1.hook_mlp_out"), Given("hub", "m", None)]
    requests = Requests([*saes, Given("other", "another model", "blocks.1.hook_mlp_out")])
    assert requests.request("sae0", "hard_tokens").needs == ("sae0", "sae2", "hub")
    assert requests.request("sae0", "fidelity").needs == ("sae0",)


def test_a_pair_is_asked_for_by_its_name():
    saes = _at("1.hook_resid_pre", "0.hook_resid_pre")
    request = Requests(saes).request("sae1→sae0", "propagation")
    assert request.subjects == request.needs == ("sae1", "sae0")
    assert request.id == "propagation@sae1→sae0"
    assert request.recorded_params == {"first": "sae1", "second": "sae0"}


def test_all_cases_are_those_of_each_sae_then_the_pairs():
    saes = _at("0.hook_resid_pre", "1.hook_resid_pre")
    found = [r.id for r in Requests(saes).every(["propagation", "fidelity"])]
    assert found == ["fidelity@sae0", "fidelity@sae1", "propagation@sae0→sae1"]
    alone = [r.id for r in Requests(saes[:1]).every(["propagation", "fidelity"])]
    assert alone == ["propagation@sae0", "fidelity@sae0"]


def test_a_pair_is_refused_where_one_sae_is_meant():
    with pytest.raises(OptionError, match="fidelity is about one SAE, found the pair a→b"):
        case_request(("a", "b"), "fidelity")


SAE = SubjectRecord("sae", "here", "ab", "cd", "standard", "hook", "resumed", 4, 8, 16)
MODEL = ModelRecord("model", None, "ef", "float32", "cpu")
DATA = DatasetRecord("texts", None, None, "d", 6, 16, "documents", 6, 0, {})


def _fingerprint(*others: SubjectRecord, name: str = "fidelity") -> str:
    return fingerprint(
        find_property(name),
        {},
        seed=0,
        sae=SAE,
        model=MODEL,
        data=DATA,
        others=others,
        experiment=SEQUENCES,
    )


def test_the_fingerprint_tells_which_other_saes_were_read_and_in_which_order():
    one = SubjectRecord("one", "", "12", "cd", "standard", "hook", "", 4, 8, 16)
    two = SubjectRecord("two", "", "34", "cd", "standard", "hook", "", 4, 8, 16)
    found = [_fingerprint(), _fingerprint(one), _fingerprint(one, two), _fingerprint(two, one)]
    assert len(set(found)) == 4


def test_the_fingerprint_of_a_case_of_one_sae_is_what_it_was():
    """Stored baselines carry it; the parts are written out here as they were first released."""
    import hashlib
    import json

    specs = find_property("shrinkage").metrics
    parts = {
        "metrics": sorted((s.name, s.version) for s in specs), "params": [], "seed": 0,
        "sae": ("ab", "cd"), "model": ("ef", "float32"), "tokens": "d",
    }  # fmt: skip
    expected = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    assert _fingerprint(name="shrinkage") == expected
