"""Entry points by which other distributions add SAE formats and properties."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from saebench.errors import UsageError


@dataclass(frozen=True)
class Extension:
    """An entry point that an installed distribution declares; nothing of it is imported yet.

    Attributes:
        point: the entry point.
        kind: what it adds, for error messages: ``"SAE format"``.
        error: the class of its errors.
    """

    point: EntryPoint
    kind: str
    error: type[UsageError]

    @property
    def name(self) -> str:
        """The entry point's name."""
        return self.point.name

    @property
    def distribution(self) -> str:
        """The distribution that declares it."""
        return self.point.dist.name if self.point.dist is not None else "an unknown distribution"

    def load(self) -> Any:
        """Import the object that the entry point names.

        Raises:
            UsageError: of the class ``error``, where it cannot be imported.
        """
        try:
            return self.point.load()
        except Exception as error:
            # Importing runs the distribution's own code.
            raise self.failure(
                f"cannot be imported: {error!r}; repair or uninstall {self.distribution}"
            ) from error

    def failure(self, what: str) -> UsageError:
        """Return an error that names the entry point and its distribution."""
        return self.error(
            f"{self.kind} {self.name!r} ({self.point.value} of {self.distribution}) {what}"
        )


def installed_extensions(
    group: str, *, kind: str, error: type[UsageError], reserved: Iterable[str] = ()
) -> tuple[Extension, ...]:
    """Return the extensions of an entry-point group, sorted by name.

    Args:
        group: the entry-point group.
        kind: what they add, for error messages.
        error: the class of their errors.
        reserved: saebench's own names, which no extension may take.

    Raises:
        UsageError: of the class ``error``, for a name that saebench or a second distribution uses.
    """
    declared = [Extension(point, kind, error) for point in entry_points(group=group)]
    extensions = tuple(sorted(declared, key=lambda each: (each.name, each.distribution)))
    count = Counter(extension.name for extension in extensions)
    for extension in extensions:
        if extension.name in reserved:
            raise extension.failure("has the name of one of saebench's own; rename it")
        if count[extension.name] > 1:
            both = ", ".join(e.distribution for e in extensions if e.name == extension.name)
            raise extension.failure(f"is declared more than once ({both}); uninstall one")
    return extensions
