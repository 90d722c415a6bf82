"""The formats that a run can be exported to: saebench's own and those of installed distributions.

A distribution adds one by an entry point of the group ``saebench.renderers``: its name is the
format's, its value a callable that takes a :class:`saebench.records.run.Run` and returns a string.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from saebench.errors import OptionError, nearest
from saebench.extensions import Extension, installed_extensions
from saebench.records.run import Run
from saebench.report.exports.junit import to_junit
from saebench.report.exports.measurements import to_csv
from saebench.report.exports.model_card import to_model_card
from saebench.report.exports.sae_bench import to_sae_bench
from saebench.report.exports.sae_lens import to_sae_lens
from saebench.report.markdown import to_markdown

Renderer = Callable[[Run], str]
GROUP = "saebench.renderers"
SAE_BENCH = "sae_bench"


def strict_json(value: Any) -> str:
    """Return a value as indented JSON; NaN and infinities are errors."""
    return json.dumps(value, allow_nan=False, indent=2, ensure_ascii=False) + "\n"


BUILT_IN: Mapping[str, Renderer] = {
    "csv": to_csv,
    "junit": to_junit,
    "markdown": to_markdown,
    "model-card": to_model_card,
    "sae_lens": lambda run: strict_json(to_sae_lens(run)),
    SAE_BENCH: lambda run: strict_json(to_sae_bench(run, run.saes[0])),
}


def renderer_names() -> list[str]:
    """Return the names of all formats, saebench's own first."""
    return [*BUILT_IN, *(each.name for each in _installed())]


def find_renderer(name: str) -> Renderer:
    """Return a format's renderer; a distribution is imported only for its own.

    Raises:
        OptionError: for an unknown name, with the nearest known one, or where a distribution's
            renderer cannot be used.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    extension = next((each for each in _installed() if each.name == name), None)
    if extension is None:
        raise OptionError(f"unknown format {name!r}{nearest(name, renderer_names())}")
    return _checked(extension)


def _installed() -> tuple[Extension, ...]:
    return installed_extensions(GROUP, kind="renderer", error=OptionError, reserved=BUILT_IN)


def _checked(extension: Extension) -> Renderer:
    """Return a distribution's renderer, whose every error is one that names the distribution."""
    render = extension.load()
    if not callable(render):
        raise extension.failure("is not callable; it takes a run and returns a string")

    def checked(run: Run) -> str:
        try:
            text = render(run)
        except Exception as error:
            # The renderer is the distribution's own code: it may raise anything.
            raise extension.failure(f"failed: {error!r}") from error
        if not isinstance(text, str):
            raise extension.failure(f"returned a {type(text).__name__}, expected a string")
        return text

    return checked
