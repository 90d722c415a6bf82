"""Conflicts of the benchmarks with a project's pytest settings, conftest files and plugins."""

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from saebench.options import OPTIONS

FIXTURES = ("measure", "gate", "workload")
FILE, FUNCTION = "test_fidelity.py", "test_fidelity"  # named as all benchmarks are


def option_conflict(error: BaseException, owner: object) -> str | None:
    """Return the sentence about an option of saebench that somebody else defines too.

    Args:
        error: what the definition raised.
        owner: the plugin or conftest module that defines it.

    Returns:
        None for an error about something else.
    """
    found = [each.flag for each in OPTIONS if f"'{each.flag}'" in str(error)]
    if not found:
        return None
    return (
        f"{place_of(owner)} defines the option {found[0]}, which is saebench's: rename it there, "
        "or judge SAEs where that file is not loaded (saebench run in another directory)"
    )


def place_of(owner: object) -> str:
    """Return the file of a plugin, or its name where it has none."""
    return str(getattr(owner, "__file__", None) or getattr(owner, "__name__", owner))


def replaced_fixture(definitions: Mapping[str, Any], *, ours: str) -> str | None:
    """Return the sentence about a fixture of the benchmarks that somebody else replaces.

    A ``gate`` that is not saebench's would let every SAE pass.

    Args:
        definitions: of a benchmark's fixtures, by name; the last of each is in force.
        ours: the module that defines saebench's.
    """
    for name in FIXTURES:
        function = definitions[name][-1].func if definitions.get(name) else None
        if function is not None and function.__module__ != ours:
            file = function.__code__.co_filename
            return (
                f"{file} defines a fixture {name!r}, which replaces saebench's in the benchmarks: "
                "rename it"
            )
    return None


def parametrised_fixture(definitions: Sequence[Any]) -> str | None:
    """Return the sentence about a parametrised fixture ``sae``, which would be there twice.

    Args:
        definitions: of the fixture; saebench itself has none.
    """
    for each in definitions:
        if each.params is not None:
            return (
                f"{each.func.__code__.co_filename} defines a fixture 'sae' with parameters, and so "
                "do the benchmarks, one for each SAE: rename it"
            )
    return None


def hiding_settings(settings: Mapping[str, Iterable[str]], *, source: str) -> str:
    """Return why pytest collected no benchmark although SAEs were given.

    Args:
        settings: pytest's ``python_files`` and ``python_functions``, each a list of patterns.
        source: the configuration file.
    """
    reasons = [*_hiding(settings)]
    if not reasons:
        return (
            "--sae is given, and pytest collected no benchmark: name the benchmarks' directory "
            "(pytest benchmarks --sae SPEC), or use saebench run --sae SPEC"
        )
    return (
        f"--sae is given, and pytest collected no benchmark, because {source} sets "
        f"{' and '.join(reasons)}; use saebench run, or add "
        "-o python_files='test_*.py' -o python_functions='test_*'"
    )


def _hiding(settings: Mapping[str, Iterable[str]]) -> Iterator[str]:
    """Give the settings by which a benchmark is none of the project's tests."""
    files, functions = list(settings["python_files"]), list(settings["python_functions"])
    if not any(fnmatch.fnmatch(FILE, pattern) for pattern in files):
        yield f"python_files = {' '.join(files)}"
    # pytest takes a pattern for a prefix too.
    if not any(fnmatch.fnmatch(FUNCTION, p) or FUNCTION.startswith(p) for p in functions):
        yield f"python_functions = {' '.join(functions)}"
