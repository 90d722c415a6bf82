"""The format of a directory, and what to give instead of one without an SAE."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from saebench.errors import SubjectError
from saebench.formats.layouts import MOST_NAMED, recognise
from saebench.subjects.references import find_subjects

LAYOUTS = {
    "SAELens": ("cfg.json", "sae_weights.safetensors"),
    "sparsify": ("cfg.json", "sae.safetensors"),
    "dictionary_learning": ("config.json", "ae.pt"),
    "Gemma Scope": ("params.npz",),
    "Gemma Scope 2": ("config.json", "params.safetensors"),
    "Llama Scope": ("hyperparams.json", "checkpoints/final.safetensors"),
}


def _filled(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_known_by_its_files(name: str, tmp_path: Path):
    loader = recognise(_filled(tmp_path, *LAYOUTS[name]))
    assert loader is not None
    assert loader.name == name


@pytest.mark.parametrize("name", LAYOUTS)
def test_other_files_do_not_matter(name: str, tmp_path: Path):
    more = ("README.md", "sparsity.safetensors", "optimizer.pt", "model.safetensors")
    loader = recognise(_filled(tmp_path, *LAYOUTS[name], *more))
    assert loader is not None
    assert loader.name == name


@pytest.mark.parametrize("name", ["sparsify", "dictionary_learning", "Llama Scope"])
def test_a_layout_that_lacks_its_weights_is_not_taken_for_it(name: str, tmp_path: Path):
    config, _ = LAYOUTS[name]
    loader = recognise(_filled(tmp_path, config))
    assert loader is None or loader.name == "SAELens"


@pytest.mark.parametrize("files", [(), ("model.safetensors", "config.json"), ("ae.pt",)])
def test_what_is_no_sae_is_not_recognised(files, tmp_path: Path):
    assert recognise(_filled(tmp_path, *files)) is None


def test_saelens_weights_go_over_sparsifys(tmp_path: Path):
    both = (*LAYOUTS["SAELens"], *LAYOUTS["sparsify"])
    loader = recognise(_filled(tmp_path, *both))
    assert loader is not None
    assert loader.name == "SAELens"


def test_an_empty_directory_says_what_was_expected(tmp_path: Path):
    with pytest.raises(SubjectError, match=r"no SAE in it; expected.*sparsify.*dictionary_learn"):
        find_subjects([str(tmp_path)])


@pytest.mark.parametrize(("place", "glob"), [("a", "/*"), ("run/layer_1/x", "/*/*/*")])
def test_saes_below_are_listed_with_the_glob_that_means_them(tiny, tmp_path, place, glob):
    shutil.copytree(tiny.good, tmp_path / place)
    said = rf"1 SAE lies below it \({place}\): --sae '{tmp_path}{glob}'".replace("*", r"\*")
    with pytest.raises(SubjectError, match=said):
        find_subjects([str(tmp_path)])


def test_the_glob_that_is_offered_finds_all_of_them(tiny, tmp_path: Path):
    for place in ("run/layers.1", "run/layers.2", "other/layers.1"):
        shutil.copytree(tiny.good, tmp_path / place)
    with pytest.raises(SubjectError, match="3 SAEs lie below it") as caught:
        find_subjects([str(tmp_path)])
    glob = str(caught.value).partition("--sae '")[2].partition("'")[0]
    found = {r.id for r in find_subjects([glob])}
    above = tmp_path.name  # "run" and "layers.1" are names that any training run has
    assert found == {f"{above}/run/layers.1", f"{above}/run/layers.2", "other/layers.1"}


def test_saes_at_two_depths_are_offered_two_globs(tiny, tmp_path: Path):
    for place in ("one", "deep/two"):
        shutil.copytree(tiny.good, tmp_path / place)
    with pytest.raises(SubjectError, match=r"/\*' --sae '.*/\*/\*'"):
        find_subjects([str(tmp_path)])


def test_of_many_saes_the_first_are_named(tiny, tmp_path: Path):
    for number in range(MOST_NAMED + 2):
        shutil.copytree(tiny.good, tmp_path / f"sae{number}")
    with pytest.raises(SubjectError, match=rf"{MOST_NAMED + 2} SAEs lie.*sae0.*sae4, …\)"):
        find_subjects([str(tmp_path)])


def test_links_are_followed_once_and_not_in_circles(tiny, tmp_path: Path):
    (tmp_path / "link").symlink_to(tiny.good)
    (tmp_path / "again").symlink_to(tiny.good)
    (tmp_path / "circle").symlink_to(tmp_path)
    with pytest.raises(SubjectError, match="1 SAE lies below it"):
        find_subjects([str(tmp_path)])


def test_a_directory_that_holds_neither_is_not_searched_without_end(tmp_path: Path):
    deep = tmp_path
    for _ in range(12):
        deep = deep / "d"
    deep.mkdir(parents=True)
    with pytest.raises(SubjectError, match="no SAE in it; expected"):
        find_subjects([str(tmp_path)])


@pytest.mark.parametrize("name", ["sae_weights.safetensors", "cfg.json"])
def test_a_file_that_is_read_of_an_sae_means_its_directory(name: str, tiny, tmp_path: Path):
    path = shutil.copytree(tiny.good, tmp_path / "sae")
    [reference] = find_subjects([str(path / name)])
    assert (reference.directory, reference.source) == (path, str(path))
    assert reference.id == f"{tmp_path.name}/sae"
    assert len(find_subjects([str(path), str(path / name), str(tmp_path / "*" / "*")])) == 1


def test_another_file_of_an_sae_is_answered_with_its_directory(tiny, tmp_path: Path):
    path = shutil.copytree(tiny.good, tmp_path / "sae")
    shutil.copy(path / "sae_weights.safetensors", path / "other.safetensors")
    with pytest.raises(SubjectError, match=rf"is a file of the SAELens.*--sae {path}"):
        find_subjects([str(path / "other.safetensors")])


def test_nothing_heavy_is_imported_to_recognise_any_layout(tmp_path: Path):
    for name, files in LAYOUTS.items():
        _filled(tmp_path / name, *files)
    code = (
        "import sys, pathlib\n"
        "from saebench.formats.layouts import recognise\n"
        f"found = [recognise(p).name for p in pathlib.Path({str(tmp_path)!r}).iterdir()]\n"
        "heavy = {'torch', 'sae_lens', 'numpy'} & set(sys.modules)\n"
        "print(len(found), sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(LAYOUTS)), "[]"]
