"""The exception tree. Every error names the thing, what was expected, what was found, what to do.

SaebenchError
├── UsageError              the run cannot start: exit code 4, and nothing is written
│   ├── OptionError         an option's value, or a name that does not exist
│   ├── SubjectError        the SAE: its directory, weights, metadata
│   ├── HostError           the language model
│   ├── HookError           the hook at which the SAE is substituted
│   ├── DataError           the texts or cloze prompts
│   └── ThresholdError      thresholds.toml or a rule
├── MeasurementError        one case cannot be measured: its verdict is ERROR
│   ├── UndefinedDirection  a vector of length zero has no direction
│   └── NonFiniteValue      NaN or infinity where a number is needed
├── NotApplicable           the property does not apply to this SAE: its verdict is SKIPPED
└── StoreError              a result cannot be stored, or read again
    └── NotWritten          a file cannot be written: exit code 3, and the older file stays
"""

from collections.abc import Iterable


class SaebenchError(Exception):
    """Base of all errors that saebench raises on purpose."""


class UsageError(SaebenchError):
    """The run cannot start; nothing has been written."""


class OptionError(UsageError):
    """An option has a value that cannot be used, or names something that does not exist."""


class SubjectError(UsageError):
    """The SAE cannot be judged as given."""


class HostError(UsageError):
    """The language model cannot be loaded or does not fit the SAE."""


class HookError(UsageError):
    """This model has no such hook, or no SAE can be substituted at it."""


class DataError(UsageError):
    """The texts cannot be read, or there are too few of them."""


class ThresholdError(UsageError):
    """A threshold file or a rule cannot be understood."""


class MeasurementError(SaebenchError):
    """One case cannot be measured."""


class UndefinedDirection(MeasurementError):
    """A vector of length zero has no direction."""


class NonFiniteValue(MeasurementError):
    """A value is NaN or infinite where a finite number is needed."""


class NotApplicable(SaebenchError):
    """A property that does not apply here; the message names the option that would change it."""


class StoreError(SaebenchError):
    """A result cannot be stored, or read again."""


class NotWritten(StoreError):
    """A file cannot be written: the disk is full, or the directory is read-only."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known name, or the list of all.

    Example:
        >>> nearest("eps_randm", ["zero", "eps_random"])
        "; did you mean 'eps_random'?"
    """
    import difflib  # here, as every pytest run of the environment imports this module

    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
