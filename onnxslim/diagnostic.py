"""Diagnostics: warnings for the user, with a code for programs."""

from __future__ import annotations

import dataclasses
from typing import Annotated


@dataclasses.dataclass(frozen=True)
class Diagnostic:
    """A warning. It stops nothing; it says what was found, and what to do about it."""

    code: Annotated[str, "what kind it is, in words joined by hyphens: few-samples"]
    message: Annotated[str, "what was found, with the figures that show it"]
    hint: Annotated[str, "what to do about it; empty where nothing can be done"] = ""
