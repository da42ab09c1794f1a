"""Escapes text from models, files and foreign code for the terminal.

Escape sequences in a name can recolour, retitle or clear a terminal, direction overrides make a name look like another
one, and line feeds forge lines of output. All of them are written as in Python: ``\\x1b``, ``\\u202e``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, TypeVar

HARMFUL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
"""Control characters, what turns the direction of writing or is not seen, line ends, halves of surrogate pairs."""

Record = TypeVar("Record")


def printable(text: str) -> str:
    """Return `text` on one line, with what terminals obey written out. Twice is as good as once."""
    return HARMFUL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def json_safe(text: str) -> str:
    """Return JSON `text` with the same characters as JSON writes them; line feeds and blanks between values stay."""
    return HARMFUL.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def printable_record(record: Record) -> Record:
    """Return a record (dataclass, tuple, list, mapping) with every text in it printable."""
    return _printable(record)  # type: ignore[no-any-return]  # of the type that came in


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(value, **{name: _printable(getattr(value, name)) for name in names})
    if isinstance(value, tuple | list):
        return type(value)(map(_printable, value)) if not hasattr(value, "_fields") else value
    if isinstance(value, Mapping):
        return {_printable(key): _printable(item) for key, item in value.items()}
    return value
