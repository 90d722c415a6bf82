"""Data inside a page: JSON, compressed, in letters that no parser of HTML stumbles over."""

import base64
import gzip
import json
import math
from typing import Any

from saebench.report.page.markup import Markup, tag, visible

DIGITS = 4


def packed(content: bytes) -> str:
    """Return bytes compressed, as base64: the page's script unpacks them."""
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()


def block(id: str, content: str) -> Markup:
    """Return packed content as an element that a browser does not look into."""
    return tag("script", Markup(content), id=id, type="application/octet-stream")


def packed_json(content: Any) -> str:
    """Return content as packed JSON, its numbers to four digits and its texts visible."""
    said = json.dumps(_rounded(content), separators=(",", ":"), allow_nan=False)
    return packed(said.encode())


def _rounded(content: Any) -> Any:
    if isinstance(content, float):
        return float(f"{content:.{DIGITS}g}") if math.isfinite(content) else None
    if isinstance(content, str):
        return visible(content)
    if isinstance(content, dict):
        return {key: _rounded(value) for key, value in content.items()}
    if isinstance(content, list | tuple | range):
        return [_rounded(value) for value in content]
    return content
