"""Where an SAE's promises are found, and which of several counts."""

import pytest

from saebench.errors import SubjectError
from saebench.formats.promises import Promise, promised
from saebench.subjects.hub import names_of, registry_figures
from saebench.subjects.references import SubjectReference

GEMMA = "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"
BATCHTOPK = {
    "architecture": "jumprelu",
    "metadata": {
        "training_architecture": "batchtopk",
        "training_architecture_details": {"k": 40},
    },
}


@pytest.mark.parametrize(
    ("config", "names", "expected"),
    [
        ({"metadata": {"l0": 12.5}}, (), Promise(12.5, "metadata.l0")),
        ({"hook_name": "x", "l0": 9}, (), Promise(9.0, "metadata.l0")),  # before SAELens 6
        ({"l0": 9, "metadata": {}}, (), Promise(9.0, "l0 of its configuration")),
        ({"k": 32, "metadata": {"l0": 31.5}}, (), Promise(31.5, "metadata.l0")),
        ({"architecture": "topk", "k": 32}, (), Promise(32.0, "k of its configuration")),
        (BATCHTOPK, (), Promise(40.0, "k of its training")),
        ({}, (GEMMA,), Promise(71.0, "average_l0_71 in its path")),
        ({"metadata": {"l0": 0.0}, "k": 8}, (), Promise(8.0, "k of its configuration")),
    ],
)
def test_the_first_figure_that_there_is_counts(config, names, expected):
    assert promised(config, where="cfg.json", names=names) == {"l0": expected}


def test_nothing_is_promised_where_nothing_is_stated():
    stated = {"training_architecture": "jumprelu", "training_architecture_details": {"k": 40}}
    for config in ({}, {"metadata": {}}, {"metadata": {"l0": float("nan")}}, {"metadata": stated}):
        assert promised(config, where="cfg.json") == {}


def test_both_figures_may_be_stated():
    config = {"metadata": {"l0": 3, "explained_variance": 0.8}}
    found = promised(config, where="cfg.json", registry={"l0": 5, "explained_variance": 0.9})
    assert {name: promise.value for name, promise in found.items()} == {
        "l0": 3.0, "explained_variance": 0.8,
    }  # fmt: skip


def test_the_registrys_figures_fill_in_what_the_files_lack():
    found = promised({}, where="cfg.json", registry={"l0": 5, "explained_variance": 0.9})
    assert {promise.source for promise in found.values()} == {"SAELens' registry"}


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"l0": "many"}, "metadata.l0 must be a number, found str"),
        ({"l0": True}, "metadata.l0 must be a number, found bool"),
        ({"explained_variance": 98.5}, "is a share of at most 1, found 98.5"),
    ],
)
def test_a_figure_that_is_none_is_refused(stated, message):
    with pytest.raises(SubjectError, match=message):
        promised({"metadata": stated}, where="cfg.json")


def test_saelens_registry_is_read_and_its_placeholders_are_not():
    jb = SubjectReference("x", "x", repository="gpt2-small-res-jb", path="blocks.8.hook_resid_pre")
    figures = registry_figures(jb)
    assert figures["l0"] > 1
    assert 0.5 < figures["explained_variance"] < 1
    canonical = SubjectReference(
        "x", "x", repository="gemma-scope-2b-pt-res-canonical", path="layer_0/width_16k/canonical"
    )
    assert registry_figures(canonical) == {}
    found = promised({}, where="x", names=names_of(canonical))
    assert found["l0"] == Promise(105.0, "average_l0_105 in its path")
