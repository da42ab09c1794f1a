"""The passes that are installed, with their options, read off their declarations."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Annotated, Any

from rich.console import Console

from onnxslim.pipeline.discovery import find_pass, pass_names
from onnxslim.pipeline.recipe import options_of
from onnxslim.report.terminal import line, plain_table


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
    """
    found = find_pass(name)
    summary, _, description = inspect.cleandoc(found.__doc__ or "").partition("\n\n")
    options = tuple(
        OptionEntry(option.name, option.type_name, option.default, option.help, option.choices)
        for option in options_of(found)
    )
    summary = " ".join(summary.split())
    return PassEntry(found.name, found.kind.value, summary, description.strip(), found.needs, found.after, options)


def all_passes() -> tuple[PassEntry, ...]:
    """Return every pass that is installed, by name."""
    return tuple(describe_pass(name) for name in pass_names())


def shown(default: Any) -> str:
    """Return a default as one would type it behind an equals sign."""
    if default is None:
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, list):
        return "+".join(default) or "(empty)"
    return str(default) or "(empty)"


def print_catalogue(entries: tuple[PassEntry, ...], console: Console) -> None:
    """Print one line a pass."""
    table = plain_table("pass", "kind", "what it does")
    for entry in entries:
        table.add_row(entry.name, entry.kind, entry.summary)
    console.print(table)
    line(console, "Exact passes keep the outputs but for rounding; lossy ones are measured against the budget.")
    line(console, "Options of one pass: onnxslim passes NAME")


def print_pass(entry: PassEntry, console: Console) -> None:
    """Print a pass with its options."""
    line(console, f"{entry.name} ({entry.kind}): {entry.summary}")
    if entry.description:
        line(console, f"\n{entry.description}")
    if entry.needs or entry.after:
        line(console, f"\nRuns after: {', '.join(dict.fromkeys((*entry.needs, *entry.after)))}")
    if not entry.options:
        line(console, "\nIt has no options.")
        return
    table = plain_table("option", "default", "value", "what it means")
    for option in entry.options:
        table.add_row(option.name, shown(option.default), option.type, option.help)
    console.print(table)
    example = next((option for option in entry.options if option.default not in (None, [], "")), None)
    written = f":{example.name}={shown(example.default)}" if example else ""
    line(console, f"Use: onnxslim optimize model.onnx -p {entry.name}{written}")
