"""Text of others made visible: names in a model may hold characters that hide, reorder or break what stands around."""

from __future__ import annotations

import unicodedata

HIDDEN = frozenset({"Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp"})
"""Unicode categories that draw nothing, or draw elsewhere: controls, joiners and bidirectional marks, line separators,
surrogates, and code points that mean nothing."""
MARKS = frozenset({"Mn", "Me"})
MOST_MARKS = 2
"""Marks that may be stacked on one letter; more of them grow out of their line."""


def visible(text: str) -> str:
    """Return `text` with every character that hides, moves others or breaks lines written as ``U+202E`` in brackets."""
    if text.isascii() and text.isprintable():
        return text
    shown: list[str] = []
    marks = 0
    for character in text:
        category = unicodedata.category(character)
        marks = marks + 1 if category in MARKS else 0
        hidden = category in HIDDEN or marks > MOST_MARKS
        shown.append(f"[U+{ord(character):04X}]" if hidden else character)
    return "".join(shown)


def shortened(text: str, most: int) -> str:
    """Return `text` made visible, at most `most` characters of it: names differ at both ends, so the middle goes."""
    shown = visible(text)
    if len(shown) <= most:
        return shown
    head = (most - 1) // 3
    return f"{shown[:head]}…{shown[len(shown) - (most - 1 - head) :]}"
