"""The words in which a data set's record says in which order its documents were taken."""

ORDER = "order"
"""The key of the record's policies."""
IN_FILE = "in the file's order"
GENERATED = "as generated, each independently of the others"
DRAWN = "drawn by seed"  # followed by the seed, and what was drawn from


def seed_of(order: str) -> int | None:
    """Return the seed by which documents were drawn; None for another order.

    Example:
        >>> seed_of("drawn by seed 7 from all documents"), seed_of("in the file's order")
        (7, None)
    """
    words = order.removeprefix(f"{DRAWN} ").split()
    return int(words[0]) if order.startswith(DRAWN) and words[0].isdecimal() else None
