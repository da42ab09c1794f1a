"""How to do it again: the command line of a run, its recipe, and the versions that it ran with."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Mapping, Sequence

from onnxslim.installation import installed, version
from onnxslim.pipeline.records import Reproduction

PACKAGES = ("onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "numpy")
"""Distributions whose versions decide what comes out, and how fast."""


def reproduction(
    command: str,
    arguments: Sequence[object],
    options: Mapping[str, object],
    *,
    recipe: str | None = None,
) -> Reproduction:
    """Return how to run a command on its arguments again, and the recipe as TOML, where there is one.

    Options go by their names on the command line; those that are None or False were not given.
    """
    words = ["onnxslim", command]
    in_memory = [name for name, value in {"the model": arguments, **options}.items() if not _is_text(value)]
    words += map(_text, arguments)
    for name, value in options.items():
        if value is True:
            words.append(name)
        elif value is not None and value is not False:
            words += [name, _text(value)]
    reason = f"{in_memory[0]} was in memory" if in_memory else None
    return Reproduction(None if in_memory else shlex.join(words), versions(), recipe, reason)


def versions() -> dict[str, str]:
    """Return the versions of onnxslim, Python and the packages that decide what comes out."""
    found: dict[str, str | None] = {"onnxslim": version(), "python": platform.python_version()}
    found |= {name: installed(name) for name in PACKAGES}
    return {name: number for name, number in found.items() if number is not None}


def _is_text(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_text(item) for item in value)
    return value is None or isinstance(value, str | os.PathLike | bool | int | float)


def _text(value: object) -> str:
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
