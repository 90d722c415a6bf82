"""Names, directories and one-line descriptions of the zoo's SAEs."""

from __future__ import annotations

from pathlib import Path

from saebench.errors import SubjectError, nearest
from saebench.zoo.recipe import SAES

WEIGHTS = Path(__file__).parent / "weights"


def names() -> tuple[str, ...]:
    """Return the names of the zoo's SAEs, in the order of the listing."""
    return tuple(recipe.name for recipe in SAES)


def model_path() -> Path:
    """Return the directory of the host model and its tokenizer, in Hugging Face format."""
    return WEIGHTS / "model"


def sae_path(name: str) -> Path:
    """Return the SAELens directory of the SAE `name`.

    Raises:
        SubjectError: The zoo has no SAE of this name.

    >>> sae_path("l2-topk").name
    'l2-topk'
    """
    _check(name)
    return WEIGHTS / "saes" / name


def describe(name: str) -> str:
    """Return one line on the SAE `name`: its hook and what it demonstrates."""
    _check(name)
    recipe = next(recipe for recipe in SAES if recipe.name == name)
    return f"{recipe.hook_name}: {recipe.summary}"


def _check(name: str) -> None:
    if name not in names():
        raise SubjectError(f"demo:{name}: the zoo has no such SAE{nearest(name, names())}")
