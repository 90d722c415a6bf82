"""Warnings of libraries while they load SAEs and models: each becomes a note or a refusal."""

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
# Meant for the libraries' developers: they change no number.
ABOUT_CODE = (
    DeprecationWarning,
    PendingDeprecationWarning,
    FutureWarning,
    ImportWarning,
    ResourceWarning,
)
HARMLESS = (
    # SAELens, for every SAE with such arguments: saebench centres activations itself, and notes
    # the other arguments (metadata.py).
    r"non-empty model_from_pretrained_kwargs",
    # SAELens, for a trained Matryoshka SAE: levels matter to its training loss alone; the
    # inference form uses all features.
    r"final matryoshka level|only set one matryoshka level",
    # SAELens, for a matching pursuit SAE: a setting of its initialisation before training.
    r"decoder_init_norm must be set",
    # The hub's client, about speed, access tokens and symbolic links in its cache.
    r"unauthenticated requests|HF_TOKEN|Xet Storage|hf_xet|symlinks|Rate limited|Retrying in",
    # transformers' table of missing and unexpected weights: host_loading.py reports them.
    r"LOAD REPORT",
    # The model's generation settings, which are not used.
    r"generation flags|GenerationConfig|generation_config|loss_type=None",
)
"""Warnings that are known to change no number, each with its reason."""

MEANINGLESS = {r"not for reconstruction": f"one layer of {CROSS_LAYER}"}
"""Warnings that make the numbers meaningless, and why."""


@dataclass
class Collected:
    """The warnings of a :func:`listening` context, complete once it has ended."""

    messages: list[str] = field(default_factory=list)

    def add(self, message: object) -> None:
        """Add a message once, unless it is known to change no number."""
        text = plain_text(" ".join(str(message).split()))
        if text and text not in self.messages and not _is_any(text, HARMLESS):
            self.messages.append(text)

    def notes(self, *, source: str) -> tuple[str, ...]:
        """Return the messages as notes of a result.

        Raises:
            SubjectError: for a warning that makes the numbers meaningless.
        """
        for text in self.messages:
            for pattern, why in MEANINGLESS.items():
                if re.search(pattern, text, re.IGNORECASE):
                    raise SubjectError(f"{source}: {why} (warned while loading: {text})")
        return tuple(f"warned while loading: {_cut(text)}" for text in self.messages)


@contextmanager
def listening() -> Iterator[Collected]:
    """Collect warnings and log records of level WARNING; none of them reaches the terminal."""
    collected = Collected()
    with _logs_to(collected), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield collected
        finally:
            for warning in caught:
                if not issubclass(warning.category, ABOUT_CODE):
                    collected.add(warning.message)


@contextmanager
def without_harmless() -> Iterator[None]:
    """Drop warnings that change no number; the others are issued again afterwards."""
    with listening() as collected:
        yield
    for text in collected.messages:
        warnings.warn(text, stacklevel=3)


class _Handler(logging.Handler):
    def __init__(self, collected: Collected) -> None:
        super().__init__(logging.WARNING)
        self.collected = collected

    def emit(self, record: logging.LogRecord) -> None:
        self.collected.add(record.getMessage())


@contextmanager
def _logs_to(collected: Collected) -> Iterator[None]:
    """Collect the libraries' log records of level WARNING, whatever level they are set to."""
    handler = _Handler(collected)
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
