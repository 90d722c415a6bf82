import subprocess
import sys

import pytest

from saebench.errors import SubjectError
from saebench.zoo import shelf as zoo

MAX_BYTES = 12_000_000


@pytest.mark.parametrize("name", zoo.names())
def test_every_sae_is_shipped_and_described_in_one_line(name):
    assert (zoo.sae_path(name) / "cfg.json").is_file()
    assert (zoo.sae_path(name) / "sae_weights.safetensors").is_file()
    assert "\n" not in zoo.describe(name)
    assert len(zoo.describe(name)) > 20


def test_the_model_is_shipped():
    assert (zoo.model_path() / "model.safetensors").is_file()
    assert (zoo.model_path() / "tokenizer.json").is_file()


def test_names_are_unique():
    assert len(set(zoo.names())) == len(zoo.names())


@pytest.mark.parametrize("look_up", [zoo.sae_path, zoo.describe])
def test_an_unknown_name_is_an_error_that_names_the_nearest(look_up):
    with pytest.raises(SubjectError, match="'l2-topk'"):
        look_up("l2-topq")


def test_the_weights_take_at_most_12_megabytes():
    assert sum(p.stat().st_size for p in zoo.WEIGHTS.rglob("*") if p.is_file()) <= MAX_BYTES


def test_listing_the_zoo_imports_neither_torch_nor_sae_lens():
    code = (
        "import sys; from saebench.zoo import shelf; shelf.names(); "
        "sys.exit(bool({'torch', 'sae_lens', 'transformers'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
