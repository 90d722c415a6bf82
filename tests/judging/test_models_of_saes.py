"""Which model an SAE is put into."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from saebench.errors import HostError
from saebench.experiments.prepare import model_of
from saebench.options import Settings
from saebench.zoo import recipe
from saebench.zoo import shelf as zoo


def _asked(named: str | None, *, given: str | None = None) -> tuple[str, str]:
    reference: Any = SimpleNamespace(model=None)
    subject: Any = SimpleNamespace(source="out", metadata=SimpleNamespace(model_name=named))
    return model_of(Settings(model=given), reference, subject)


def test_the_metadata_name_it():
    assert _asked("gpt2") == ("gpt2", "metadata.model_name of out")


def test_the_user_is_asked_first():
    assert _asked("gpt2", given="here") == ("here", "--sae-model")


def test_what_was_trained_on_the_embedded_model_goes_into_it():
    name, asked_by = _asked(recipe.MODEL_NAME)
    assert Path(name) == zoo.model_path()
    assert asked_by == "metadata.model_name of out"


def test_none_is_an_error():
    with pytest.raises(HostError, match="--sae-model"):
        _asked(None)
