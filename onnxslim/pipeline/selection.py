"""What `include=` and `exclude=` of passes choose: names, or patterns of names with ``*`` and ``?``."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable

from .interface import Note


def matches(names: Iterable[str], patterns: Collection[str]) -> bool:
    """Return whether one of `names` matches one of `patterns`; capitals count."""
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)


def excluded(names: Collection[str], include: Collection[str], exclude: Collection[str]) -> str:
    """Return why something of these names is not asked for; empty where it is. No `include` asks for everything."""
    if include and not matches(names, include):
        return "not in include"
    return "in exclude" if matches(names, exclude) else ""


def unmatched(names: Collection[str], include: Iterable[str], exclude: Iterable[str], why: str) -> list[Note]:
    """Return a note on each pattern that none of `names` matches; `why` says what these are the names of."""
    return [
        Note(option, f"{pattern!r} matches nothing", why)
        for option, patterns in (("include", include), ("exclude", exclude))
        for pattern in patterns
        if not matches(names, (pattern,))
    ]
