"""Figures for papers."""

import builtins
import xml.etree.ElementTree as ET

import pytest
from full_run import full_run

from saebench.errors import OptionError
from saebench.report.static_figures import write_figures


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    return write_figures(
        full_run("a", "$x$ <b> _{"), tmp_path_factory.mktemp("figures"), kind="svg"
    )


def test_every_main_figure_is_a_file_of_its_own(written):
    names = {path.name.partition("_")[0].removesuffix(".svg") for path in written}
    assert names >= {
        "kl-of-interventions",
        "kl-histogram",
        "context-all",
        "cloze-strip",
        "single-z",
    }
    assert len(set(written)) == len(written)


def test_each_is_a_drawing_that_says_n(written):
    for path in written:
        root = ET.parse(path).getroot()
        assert root.tag.endswith("svg")
        assert len([e for e in root.iter() if e.tag.endswith("path")]) > 3


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch, tmp_path):
    real = builtins.__import__

    def missing(name, *rest):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(OptionError, match=r"pytest-saebench\[figures\]"):
        write_figures(full_run("a"), tmp_path)
