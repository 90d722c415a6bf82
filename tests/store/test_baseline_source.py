"""Where a run's baselines come from: files, directories, git refs."""

import subprocess
from dataclasses import replace

import pytest
from stored import MODEL, make_subject, store

from saebench.errors import OptionError
from saebench.store.baseline_source import open_baselines
from saebench.store.baselines import read_baseline


def _git(directory, *arguments):
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(directory), *who, *arguments]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    """A repository whose branch ``released`` has a baseline that the working tree has not."""
    _git(tmp_path, "init", "-q", "-b", "released")
    path = store(tmp_path / "baselines", "small", kl=0.1)
    _git(tmp_path, "add", "-A")
    _git(tmp_path, "commit", "-q", "-m", "released")
    _git(tmp_path, "checkout", "-q", "-b", "work")
    for file in path.parent.iterdir():
        file.unlink()
    return tmp_path


def test_a_directory_gives_each_sae_its_own_file(tmp_path):
    one, two = (store(tmp_path, id) for id in ("one", "two"))
    source = open_baselines(str(tmp_path), directory=tmp_path)
    assert source.of(make_subject("one"), MODEL) == one
    assert source.of(make_subject("two"), MODEL) == two


def test_a_retrained_sae_is_held_against_the_one_stored_under_its_name(tmp_path):
    stored = store(tmp_path, "one")
    source = open_baselines(str(tmp_path), directory=tmp_path)
    retrained = replace(make_subject("one"), weights_sha256="a" * 64)
    assert source.of(retrained, MODEL) == stored
    store(tmp_path / "other", "one")


def test_of_several_stored_under_one_name_the_newest_is_chosen(tmp_path):
    store(tmp_path, "one")
    newest = store(tmp_path, "one", weights="f" * 64)
    source = open_baselines(str(tmp_path), directory=tmp_path)
    retrained = replace(make_subject("one"), weights_sha256="a" * 64)
    assert source.of(retrained, MODEL) == newest


def test_an_sae_stored_under_another_name_is_found_by_its_weights(tmp_path):
    stored = store(tmp_path, "sae")
    renamed = replace(make_subject("sae"), id="mine/sae")
    assert open_baselines(str(tmp_path), directory=tmp_path).of(renamed, MODEL) == stored


def test_another_sae_whose_name_becomes_the_same_file_name_is_never_held_against(tmp_path):
    store(tmp_path, "a_b")
    other = replace(make_subject("a_b"), id="a/b", weights_sha256="a" * 64)
    with pytest.raises(OptionError, match="no baseline of a/b"):
        open_baselines(str(tmp_path), directory=tmp_path).of(other, MODEL)


def test_two_names_that_become_the_same_file_name_are_stored_apart(tmp_path):
    weights = "c" * 64
    one, two = (store(tmp_path, id, weights=weights) for id in ("a_b", "a/b"))
    assert one == two  # where it would lie
    (apart,) = (path for path in one.parent.glob("*.json") if path != one)
    assert (read_baseline(one)["sae"]["id"], read_baseline(apart)["sae"]["id"]) == ("a_b", "a/b")
    source = open_baselines(str(tmp_path), directory=tmp_path)
    for id, path in (("a_b", one), ("a/b", apart)):
        sae = replace(make_subject(id), weights_sha256=weights)
        assert source.of(sae, MODEL) == path


def test_where_none_says_that_it_is_the_newest_none_is_chosen(tmp_path):
    path = store(tmp_path, "one")
    (path.parent / "one@ffffffff.json").write_bytes(path.read_bytes())
    source = open_baselines(str(tmp_path), directory=tmp_path)
    assert source.of(make_subject("one"), MODEL) == path
    with pytest.raises(OptionError, match=r"several SAEs.*one@ffffffff\.json"):
        source.of(replace(make_subject("one"), weights_sha256="a" * 64), MODEL)


def test_what_was_written_below_pytests_root_is_found_from_elsewhere(tmp_path):
    path = store(tmp_path / "baselines", "one")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    source = open_baselines("baselines", directory=elsewhere, project=tmp_path)
    assert source.of(make_subject("one"), MODEL) == path


def test_a_file_is_every_saes_baseline(tmp_path):
    path = store(tmp_path, "one")
    source = open_baselines(str(path), directory=tmp_path)
    assert source.of(make_subject("another"), MODEL) == path


def test_an_sae_that_is_not_stored_is_named(tmp_path):
    store(tmp_path, "one")
    source = open_baselines(str(tmp_path), directory=tmp_path)
    with pytest.raises(OptionError, match="no baseline of two at"):
        source.of(make_subject("two"), MODEL)


@pytest.mark.parametrize("given", ["released", "released:baselines", "HEAD"])
def test_a_git_ref_gives_what_was_committed_and_not_what_lies_there(repository, given):
    with open_baselines(given, directory=repository) as source:
        path = source.of(make_subject("small"), MODEL)
        assert not path.is_relative_to(repository)
        assert read_baseline(path)["sae"]["id"] == "small"
    assert not path.exists()


def test_a_ref_is_found_from_below_the_repository(repository):
    below = repository / "a"
    below.mkdir()
    with open_baselines("released", directory=below) as source:
        assert source.of(make_subject("small"), MODEL).is_file()


@pytest.mark.parametrize("given", ["no-such-ref", "--upload-pack=x", "", "released:nowhere"])
def test_what_is_neither_path_nor_ref_is_an_error_that_says_so(repository, given):
    with pytest.raises(OptionError, match="--sae-baseline"):
        open_baselines(given or "\t", directory=repository)


def test_outside_a_repository_a_ref_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(OptionError, match="no git ref"):
        open_baselines("main", directory=tmp_path)
