"""Formats of other distributions, installed with an entry point."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributions import Site, empty_site
from safetensors.torch import save_file

import saebench
from saebench.errors import SubjectError
from saebench.formats.layouts import GROUP, OLD_GROUP, installed_formats
from saebench.options import Overrides
from saebench.subjects.loading import load_subject
from saebench.subjects.references import find_subjects

DOCUMENTATION = Path(__file__).resolve().parents[2] / "docs" / "loaders.md"
D, FEATURES = 16, 24
MODULE = """
import torch
from distributions import Site, empty_site
from safetensors.torch import load_file

class MyLabSAE(torch.nn.Module):
    @classmethod
    def load(cls, directory):
        sae = cls()
        for name, tensor in load_file(directory / "mylab.safetensors").items():
            sae.register_parameter(name, torch.nn.Parameter(tensor))
        return sae

    def encode(self, x):
        return (x @ self.up).relu()

    def decode(self, features):
        return features @ self.down
"""


def _block(language: str) -> str:
    [found] = re.findall(rf"```{language}\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)
    return found


@pytest.fixture
def site(tmp_path: Path, monkeypatch):
    with empty_site(tmp_path, monkeypatch) as site:
        yield site


def _install(site: Site, name: str, value: str, *, groups=(GROUP,), **modules: str) -> None:
    site.install(name, dict.fromkeys(groups, value), **modules)


@pytest.fixture
def mylab(site: Site) -> Site:
    """The documentation's example, installed as the documentation says."""
    value = re.search(r'mylab = "(.*?)"', _block("toml"))
    assert value
    _install(site, "mylab", value[1], saebench_loader=_block("python"), sae=MODULE)
    return site


def _directory(root: Path, **config) -> Path:
    path = root / "theirs"
    path.mkdir()
    config_file = {"d_in": D, "d_sae": FEATURES, "architecture": "mylab",
            "metadata": {"hook_name": "blocks.1.hook_resid_pre", "context_size": 12}}  # fmt: skip
    (path / "mylab.json").write_text(json.dumps(config_file | config))
    generator = torch.Generator().manual_seed(0)
    up, down = torch.randn(D, FEATURES, generator=generator), torch.randn(FEATURES, D)
    save_file({"up": up, "down": down}, path / "mylab.safetensors")
    return path


def _load(path: Path):
    [reference] = find_subjects([str(path)])
    return load_subject(reference, overrides=Overrides(), device="cpu")


def test_the_documentations_example_is_ten_lines_long():
    assert len([line for line in _block("python").splitlines() if line.strip()]) <= 10


def test_the_documentations_example_is_judged(mylab, tiny, tmp_path: Path):
    path = _directory(tmp_path)
    run = saebench.judge(str(path), tiny.model, tiny.texts, properties=["fidelity"], sequences=4)
    sae = run.saes[0]
    assert (sae.architecture, sae.hook, sae.training_context) == (
        "mylab", "blocks.1.hook_resid_pre", 12,
    )  # fmt: skip
    assert (sae.d_in, sae.d_sae) == (D, FEATURES)
    assert run.cases[0].metrics


def test_their_module_reconstructs_as_it_says(mylab, tmp_path: Path):
    subject = _load(_directory(tmp_path))
    x = torch.randn(9, D, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(subject.reconstruct(x).x_hat, (x @ subject.sae.up).relu()
                               @ subject.sae.down)  # fmt: skip


def test_its_torch_is_not_imported_to_find_it(mylab, tmp_path: Path):
    code = (
        "import sys; from saebench.subjects.references import find_subjects;"
        f"print(find_subjects([{str(_directory(tmp_path))!r}])[0].config['architecture'],"
        "'torch' in sys.modules)"
    )
    path = f"import sys; sys.path.insert(0, {str(mylab.root)!r});"
    done = subprocess.run(
        [sys.executable, "-c", path + code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["mylab", "False"]


def test_a_hook_that_it_does_not_say_comes_from_the_option(mylab, tmp_path: Path):
    path = _directory(tmp_path, metadata={})
    with pytest.raises(SubjectError, match="theirs: metadata has no hook_name.*--sae-hook"):
        _load(path)


def test_our_own_formats_are_ours(mylab, tiny):
    (Path(tiny.good) / "mylab.json").write_text("{}")
    try:
        [reference] = find_subjects([tiny.good])
    finally:
        (Path(tiny.good) / "mylab.json").unlink()
    assert reference.loader is not None
    assert reference.loader.name == "SAELens"


def test_a_broken_distribution_does_not_disturb_our_own_formats(site, tiny):
    _install(site, "mylab", "mylab.gone:Loader")
    assert find_subjects([tiny.good])


BROKEN = {
    "gone": ("mylab.gone:Loader", "", r"mylab' \(mylab.gone:Loader of mylab\) cannot be imported"),
    "raises": ("mylab.code:L", "raise OSError('no')", "cannot be imported: OSError"),
    "unmade": ("mylab.code:L", "class L:\n  def __init__(self, x): ...", "cannot be created"),
    "no loader": ("mylab.code:L", "class L: ...", "has no method 'matches'; see docs/loaders.md"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_format_that_is_none_is_named_with_its_distribution(case, site, tmp_path: Path):
    value, code, said = BROKEN[case]
    _install(site, "mylab", value, code=code)
    with pytest.raises(SubjectError, match=said):
        find_subjects([str(tmp_path)])


LOADER = """
from saebench.errors import SubjectError
class L:
    def matches(self, directory): return {matches}
    def config(self, directory): return {config}
    def load(self, directory, config): return {load}
"""
GOOD = {"matches": "True", "config": "{'metadata': {'hook_name': 'h'}}", "load": "3"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"matches": "1 / 0"}, "SAE format 'mylab' of mylab: matches failed: ZeroDivisionError"),
        ({"config": "1 / 0"}, "config failed: ZeroDivisionError"),
        ({"config": "[]"}, r"config gives \[\], expected a dict with metadata"),
        ({"config": "{'metadata': 3}"}, "expected a dict with metadata"),
        ({"load": "1 / 0"}, "load failed: ZeroDivisionError"),
        ({"load": "3"}, "load gives int, expected a module with encode, decode"),
    ],
)
def test_errors_of_a_format_name_its_distribution(change, said, site, tmp_path: Path):
    _install(site, "mylab", "mylab.code:L", code=LOADER.format(**(GOOD | change)))
    with pytest.raises(SubjectError, match=said):
        _load(tmp_path)


def test_two_formats_that_match_one_directory_are_both_named(site, tmp_path: Path):
    for name in ("mylab", "other"):
        _install(site, name, f"{name}.code:L", code=LOADER.format(**GOOD))
    with pytest.raises(SubjectError, match=r"several.*'mylab' of mylab, 'other' of other"):
        find_subjects([str(tmp_path)])


def test_the_old_group_is_read_with_a_warning_that_names_the_new_one(site, tmp_path: Path):
    _install(site, "mylab", "mylab.code:L", groups=(OLD_GROUP,), code=LOADER.format(**GOOD))
    with pytest.warns(DeprecationWarning, match=rf"^mylab declares.*the group is '{GROUP}' now"):
        [reference] = find_subjects([str(tmp_path)])
    assert reference.config == {"metadata": {"hook_name": "h"}}


def test_a_format_in_both_groups_is_loaded_once_without_a_warning(site, tmp_path: Path):
    _install(site, "mylab", "mylab.code:L", groups=(GROUP, OLD_GROUP), code=LOADER.format(**GOOD))
    assert find_subjects([str(tmp_path)])
    assert [each.name for each in installed_formats()] == ["mylab"]


def test_the_name_of_one_of_our_own_formats_is_refused(site, tmp_path: Path):
    _install(site, "sparsify", "sparsify.code:L", code=LOADER.format(**GOOD))
    with pytest.raises(SubjectError, match="'sparsify' .* has the name of one of saebench's own"):
        find_subjects([str(tmp_path)])
