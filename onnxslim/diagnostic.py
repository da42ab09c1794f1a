"""Diagnostics, and codes: what is told to the user, as words that stay the same for programs."""

from __future__ import annotations

import dataclasses
import enum
from typing import Annotated


class Code(enum.Enum):
    """A code of a reason; the value says it in words, with figures and names put in."""

    @property
    def word(self) -> str:
        """The code as reports have it, which stays the same from version to version: few-samples."""
        return self.name.lower().replace("_", "-")


@dataclasses.dataclass(frozen=True)
class Diagnostic:
    """A warning. It stops nothing; it says what was found, and what to do about it."""

    code: Annotated[str, "what kind it is, in words joined by hyphens: few-samples"]
    message: Annotated[str, "what was found, with the figures that show it"]
    hint: Annotated[str, "what to do about it; empty where nothing can be done"] = ""
