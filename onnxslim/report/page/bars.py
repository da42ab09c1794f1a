"""Bars that a page draws without a figure: two lengths, and what is written behind them."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Bars:
    """A quantity before and after; lengths as shares of the longest in their table."""

    before: float
    after: float
    before_text: str
    after_text: str


def share(number: float, longest: float) -> float:
    """Return how long a bar is beside the longest."""
    return number / longest if longest > 0 else 0.0
