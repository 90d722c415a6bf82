"""What libraries warn of while they load SAEs and models: a note or a refusal, never swallowed."""

import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from saebench.errors import SubjectError
from saebench.formats.foreign import CROSS_LAYER
from saebench.text import plain_text

LIBRARIES = ("sae_lens", "transformers", "huggingface_hub", "transformer_lens", "safetensors")
LONGEST = 400  # characters of a note
# About the libraries' own code, for those who write it: they change no number.
ABOUT_CODE = (
    DeprecationWarning,
    PendingDeprecationWarning,
    FutureWarning,
    ImportWarning,
    ResourceWarning,
)
HARMLESS = (
    # SAELens, of every SAE with such arguments: saebench centres activations itself, and notes
    # what else it does not honour (metadata.py).
    r"non-empty model_from_pretrained_kwargs",
    # SAELens, where a trained Matryoshka SAE is loaded: a level more or less changes its loss
    # alone; the inference form uses all features.
    r"final matryoshka level|only set one matryoshka level",
    # SAELens sets what its training of a matching pursuit SAE begins with.
    r"decoder_init_norm must be set",
    # The hub's client: about speed, tokens and links of its cache.
    r"unauthenticated requests|HF_TOKEN|Xet Storage|hf_xet|symlinks|Rate limited|Retrying in",
    # transformers' table of weights that were missing or left over: host_loading.py names them.
    r"LOAD REPORT",
    # The model's card or its generation, of which nothing is used.
    r"generation flags|GenerationConfig|generation_config|loss_type=None",
)
"""What is known to change no number, each with its reason."""

MEANINGLESS = {r"not for reconstruction": f"one layer of {CROSS_LAYER}"}
"""What says that numbers would mean nothing, and why."""


@dataclass
class Heard:
    """What was warned of; complete once the listening has ended."""

    messages: list[str] = field(default_factory=list)

    def add(self, message: object) -> None:
        """Take a message, once, unless it is known to change no number."""
        text = plain_text(" ".join(str(message).split()))
        if text and text not in self.messages and not _is_any(text, HARMLESS):
            self.messages.append(text)

    def notes(self, *, source: str) -> tuple[str, ...]:
        """Return the messages as notes of a result.

        Raises:
            SubjectError: where one says that numbers would mean nothing.
        """
        for text in self.messages:
            for pattern, why in MEANINGLESS.items():
                if re.search(pattern, text, re.IGNORECASE):
                    raise SubjectError(f"{source}: {why} (warned while loading: {text})")
        return tuple(f"warned while loading: {_cut(text)}" for text in self.messages)


@contextmanager
def listening() -> Iterator[Heard]:
    """Collect what is warned of and logged as a warning; nothing of it reaches the terminal."""
    heard = Heard()
    with _logs_to(heard), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield heard
        finally:
            for warning in caught:
                if not issubclass(warning.category, ABOUT_CODE):
                    heard.add(warning.message)


@contextmanager
def without_harmless() -> Iterator[None]:
    """Drop warnings that change no number; the others are given once more afterwards."""
    with listening() as heard:
        yield
    for text in heard.messages:
        warnings.warn(text, stacklevel=3)


class _Handler(logging.Handler):
    def __init__(self, heard: Heard) -> None:
        super().__init__(logging.WARNING)
        self.heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.add(record.getMessage())


@contextmanager
def _logs_to(heard: Heard) -> Iterator[None]:
    """Hand over what the libraries log as a warning, whatever level they were set to."""
    handler = _Handler(heard)
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    before = [(each, each.level, each.propagate, each.handlers[:]) for each in loggers]
    for each in loggers:
        each.setLevel(logging.WARNING)
        each.propagate, each.handlers = False, [handler]
    try:
        yield
    finally:
        for each, level, propagate, handlers in before:
            each.setLevel(level)
            each.propagate, each.handlers = propagate, handlers


def _is_any(text: str, patterns: Iterable[str]) -> bool:
    return any(re.search(pattern, text, re.IGNORECASE) for pattern in patterns)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
