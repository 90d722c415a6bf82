"""Names that become parts of paths: an SAE's, a model's or a hook's may hold anything."""

import re

LONGEST = 120  # bytes; what is appended leaves room below the 255 that file systems take
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9]|conin\$|conout\$)(\.|$)", re.IGNORECASE)


def file_part(name: str) -> str:
    r"""Return a name as one harmless part of a path, the same on every system.

    No separator, no leading or trailing dot, none of Windows' device names, not too long.

    Example:
        >>> file_part("../org/name"), file_part("NUL"), file_part("a\x00b\\c.")
        ('__org_name', '_NUL', 'a_b_c_')
    """
    clean = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:LONGEST] or "_"
    clean = re.sub(r"^\.+", "_", clean)
    clean = re.sub(r"\.+$", "_", clean)
    return f"_{clean}" if _RESERVED.match(clean) else clean
