"""The examples in the docstrings run, and say what they say."""

import doctest
import importlib
import pkgutil

import pytest

import saebench

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(saebench.__path__, "saebench.")
    if "_shipped" not in module.name
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_give_what_they_show(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0
