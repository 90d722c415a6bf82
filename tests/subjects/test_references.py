"""SPEC → the SAEs it names."""

import contextlib
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saebench.errors import SubjectError
from saebench.subjects.references import find_subjects


@pytest.fixture
def zoo(tiny, tmp_path):
    """Four directories: three SAEs, two of them of one name, and one that is none."""
    for name in ("a/sae", "b/sae", "b/other"):
        shutil.copytree(tiny.good, tmp_path / name)
    (tmp_path / "b" / "empty").mkdir()
    return tmp_path


def _ids(*specs):
    return [reference.id for reference in find_subjects(map(str, specs))]


def test_a_directory_is_one_sae_named_after_it(zoo):
    (reference,) = find_subjects([str(zoo / "b" / "other")])
    assert (reference.id, reference.directory) == ("other", zoo / "b" / "other")
    assert reference.config["d_in"] == 16


def test_a_glob_gives_its_saes_in_order_and_leaves_out_the_rest(zoo):
    assert _ids(zoo / "b" / "*") == ["other", _tail(zoo, "b/sae")]


def _tail(zoo, inside):
    """Folders called alike everywhere do not stand alone: ``b`` and ``sae`` are such."""
    return f"{zoo.name}/{inside}"


def test_an_id_is_the_same_whatever_else_is_in_the_run(zoo):
    alone = [_ids(zoo / name / "sae")[0] for name in ("a", "b")]
    assert _ids(zoo / "*" / "sae") == alone == ["a/sae", _tail(zoo, "b/sae")]
    assert _ids(zoo / "b" / "sae", zoo / "b" / "other", zoo / "a" / "sae")[0] == alone[1]


def test_two_saes_of_one_id_are_refused_with_both_named_and_how_to_name_them(zoo):
    other = zoo / "deep" / "other"
    shutil.copytree(zoo / "b" / "other", other)
    with pytest.raises(SubjectError, match="both be called 'other'") as caught:
        _ids(other, zoo / "b" / "other")
    assert f"--sae other-deep={other} --sae other-b={zoo}/b/other" in str(caught.value)


def test_a_name_that_is_given_is_the_id(zoo):
    specs = [f"one={zoo}/a/sae", f"two={zoo}/b/sae", "l2=demo:l2-topk"]
    assert _ids(*specs) == ["one", "two", "l2"]
    assert [r.source for r in find_subjects(specs)] == [*(s.partition("=")[2] for s in specs)]


def test_one_name_for_several_saes_is_refused(zoo):
    with pytest.raises(SubjectError, match="one name for 2 SAEs"):
        _ids(f"one={zoo}/*/sae")


def test_a_directory_whose_name_has_an_equals_sign_is_a_directory(zoo, monkeypatch):
    shutil.copytree(zoo / "a" / "sae", zoo / "lr=3")
    monkeypatch.chdir(zoo)
    assert _ids("lr=3") == [_tail(zoo, "lr=3")]


def test_one_sae_by_many_names_is_one(zoo, monkeypatch):
    monkeypatch.chdir(zoo / "b")
    (zoo / "link").symlink_to(zoo / "a" / "sae")
    specs = [zoo / "a" / "sae", f"{zoo}/a/sae/", "../a/sae", "../a/./sae", zoo / "link"]
    assert _ids(*specs) == ["a/sae"]


def test_home_is_expanded(zoo, monkeypatch):
    monkeypatch.setenv("HOME", str(zoo))
    assert _ids("~/a/sae") == ["a/sae"]
    assert _ids("~/a/*") == ["a/sae"]


@pytest.mark.parametrize("spec", ["release:blocks.0.hook_resid_pre", "org/repo:some/folder"])
def test_a_name_with_a_colon_is_a_release_or_repository(spec):
    (reference,) = find_subjects([spec])
    assert f"{reference.repository}:{reference.path}" == spec
    assert reference.directory is None


def test_two_releases_with_one_sae_id_get_two_ids():
    assert len(set(_ids("one:blocks.0", "two:blocks.0"))) == 2


def test_ids_of_the_hub_say_where_they_come_from():
    assert _ids("one:blocks.0", "two:blocks.0") == ["one:blocks.0", "two:blocks.0"]


@pytest.mark.parametrize("spec", ["", ".", "absent", "./absent:x", "/absent:x", "x*"])
def test_what_names_no_sae_is_refused(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SubjectError, match="--sae"):
        find_subjects([spec])


def test_a_broken_link_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(SubjectError, match="no such directory"):
        find_subjects([str(tmp_path / "link")])


@settings(deadline=None)  # some texts are directories, and those below them are looked through
@given(st.text(max_size=40))
def test_any_text_is_a_reference_or_an_error_of_ours(spec):
    with contextlib.suppress(SubjectError):
        assert find_subjects([spec])


def test_nothing_heavy_is_imported_to_find_saes(tiny):
    import subprocess
    import sys

    code = (
        "import sys; from saebench.subjects.references import find_subjects;"
        f"find_subjects([{tiny.good!r}]); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert Path(tiny.good).is_dir()
