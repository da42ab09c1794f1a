"""The passes that are installed, with their options, read off their declarations."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Annotated, Any

from onnxslim.errors import ExtensionError
from onnxslim.pipeline.discovery import find_pass, pass_names
from onnxslim.pipeline.options import options_of


@dataclasses.dataclass(frozen=True)
class OptionEntry:
    """One option of a pass."""

    name: Annotated[str, "what stands before the equals sign"]
    type: Annotated[str, "what its value is, in words"]
    default: Annotated[Any, "the value without the option"]
    help: Annotated[str, "what it means"]
    choices: Annotated[tuple[str, ...], "the values that there are, where they can be listed"]


@dataclasses.dataclass(frozen=True)
class PassEntry:
    """One pass."""

    name: Annotated[str, "the word after -p"]
    kind: Annotated[str, "exact: outputs stay the same but for rounding; lossy: fidelity and budget decide"]
    summary: Annotated[str, "what it does, in one sentence"]
    description: Annotated[str, "the rest of what it says about itself"]
    needs: Annotated[tuple[str, ...], "passes that are added before it"]
    after: Annotated[tuple[str, ...], "passes that run before it where both are asked for"]
    options: Annotated[tuple[OptionEntry, ...], "in the order in which they are declared"]


def describe_pass(name: str) -> PassEntry:
    """Return what the pass `name` declares.

    Raises:
        UnknownPass: Nothing of that name is installed.
        ExtensionError: It comes from another distribution, and cannot be used.
    """
    found = find_pass(name)
    summary, _, description = inspect.cleandoc(found.__doc__ or "").partition("\n\n")
    options = tuple(
        OptionEntry(option.name, option.type_name, option.default, option.help, option.choices)
        for option in options_of(found)
    )
    summary = " ".join(summary.split())
    return PassEntry(found.name, found.kind.value, summary, description.strip(), found.needs, found.after, options)


def all_passes() -> tuple[tuple[PassEntry, ...], tuple[ExtensionError, ...]]:
    """Return every pass that is installed, by name, and why others cannot be used."""
    found = [_described(name) for name in pass_names()]
    entries = tuple(entry for entry in found if isinstance(entry, PassEntry))
    return entries, tuple(entry for entry in found if isinstance(entry, ExtensionError))


def _described(name: str) -> PassEntry | ExtensionError:
    try:
        return describe_pass(name)
    except ExtensionError as error:
        return error
