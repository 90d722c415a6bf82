"""Published figures: our schema, their numbers."""

import json
import shutil
from pathlib import Path

import pytest

from saebench.errors import StoreError
from saebench.properties import metric_names
from saebench.store.environment import baselines_dir
from saebench.store.leaderboard import read_published

ALL = read_published(baselines_dir())


def _figures(model, sae):
    rows = [row for each in ALL if each.model == model for row in each.rows if row.sae == sae]
    return {figure.name: figure for row in rows for figure in row.figures}


def test_every_source_is_named_with_authors_year_and_title():
    assert len(ALL) == 3
    assert all(
        each.source.authors and each.source.year > 2020 and each.source.title for each in ALL
    )


def test_every_figure_has_a_number_a_range_or_words():
    for figure in (f for each in ALL for row in each.rows for f in row.figures):
        assert (figure.value is not None) + (figure.low is not None) + (
            figure.says is not None
        ) == 1
        assert (figure.low is None) == (figure.high is None)


def test_what_a_figure_is_like_is_a_metric_of_ours():
    named = {f.like for each in ALL for row in each.rows for f in row.figures if f.like}
    assert named <= metric_names()


def _numbers(content):
    """Give every number of a JSON document, wherever in it."""
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        return [n for each in content for n in _numbers(each)]
    return [content] if isinstance(content, int | float) else []


@pytest.mark.parametrize(
    "name", ["gpt2-small-kl-gap", "gpt2-small-res-jb", "pythia-70m-feature-suppression"]
)
def test_every_figure_of_the_source_is_there(real_data, name):
    ours = _numbers(json.loads((baselines_dir() / "published" / f"{name}.json").read_text()))
    theirs = json.loads((real_data.root / "published" / f"{name}.json").read_text())
    places = {"layer", "d_in", "d_sae", "training_context", "tokens", "context"}
    assert set(_numbers(_without(theirs, places))) <= set(ours)


def _without(content, keys):
    if isinstance(content, dict):
        return {k: _without(v, keys) for k, v in content.items() if k not in keys}
    return [_without(v, keys) for v in content] if isinstance(content, list) else content


def test_a_layers_figures_are_that_layers(real_data):
    source = json.loads((real_data.root / "published" / "gpt2-small-res-jb.json").read_text())
    for layer in source["layers"]:
        found = _figures("gpt2", f"gpt2-small-res-jb, layer {layer['layer']}")
        for positions, told in layer["context_length"].items():
            assert found[f"CE increase, positions {positions}"].value == told["ce_increase"]
            assert found[f"L0, positions {positions}"].value == told["l0"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "not valid JSON"),
        ('{"schema_version": 1, "rows": Infinity}', "Infinity is no number of JSON"),
        ("[]", "schema_version is None"),
        ('{"schema_version": 2}', "schema_version is 2"),
        ('{"schema_version": 1, "model": "m"}', "no published figures: source"),
    ],
)
def test_a_file_that_holds_no_figures_is_refused_by_name(tmp_path, text, expected):
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "odd.json").write_text(text)
    with pytest.raises(StoreError, match=expected) as caught:
        read_published(tmp_path)
    assert "odd.json" in str(caught.value)


def test_a_directory_without_published_figures_has_none(tmp_path):
    assert read_published(tmp_path) == ()


def test_published_files_are_never_taken_for_baselines(tmp_path):
    from saebench.store.leaderboard import baseline_paths

    shutil.copytree(baselines_dir() / "published", tmp_path / "published" / "deep" / "er")
    shutil.copytree(baselines_dir() / "published", tmp_path / "published", dirs_exist_ok=True)
    assert baseline_paths(Path(tmp_path)) == []
