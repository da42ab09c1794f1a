"""How to do it again: the command line of a run, its recipe, and the versions that it ran with."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from typing import Annotated

PACKAGES = ("onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "numpy")
"""Distributions whose versions decide what comes out, and how fast."""


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """What does the same again."""

    command: Annotated[str | None, "the command line, as a POSIX shell takes it; null where something was in memory"]
    versions: Annotated[Mapping[str, str], "of onnxslim, Python and the packages that decide what comes out"]
    recipe: Annotated[str | None, "passes with all their options, budget and seed as TOML, for --recipe"] = None
    command_reason: str | None = None


def reproduction(
    command: str,
    arguments: Sequence[object],
    options: Mapping[str, object],
    *,
    recipe: str | None = None,
) -> Reproduction:
    """Return how to do it again.

    Args:
        command: The command: ``optimize``.
        arguments: Its models.
        options: Its options, by their names on the command line; those that are None or False were not given.
        recipe: The recipe as TOML, where there is one.
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
    found = {"onnxslim": installed("onnxslim-compiler"), "python": platform.python_version()}
    found |= {name: installed(name) for name in PACKAGES}
    return {name: version for name, version in found.items() if version is not None}


def installed(distribution: str) -> str | None:
    """Return the version of a distribution, or None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _is_text(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_text(each) for each in value)
    return value is None or isinstance(value, str | os.PathLike | bool | int | float)


def _text(value: object) -> str:
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
