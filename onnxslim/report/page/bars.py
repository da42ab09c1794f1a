"""Bars that a page draws without a figure: two lengths, and what is written behind them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Bars:
    """A quantity before and after; lengths as shares of the longest in their table."""

    before: float
    after: float
    before_text: str
    after_text: str

    @classmethod
    def of(cls, before: float | None, after: float | None, longest: float, show: Callable[[float | None], str]) -> Bars:
        """Return the bars of two amounts beside the longest; None is not known, and has no length."""
        one, other = ((amount or 0.0) / longest if longest > 0 else 0.0 for amount in (before, after))
        return cls(one, other, show(before), show(after))
