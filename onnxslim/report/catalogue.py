"""The passes that are installed, as tables."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from onnxslim.commands.catalogue import PassEntry
from onnxslim.report.terminal import line, print_table


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
    rows = ((entry.name, entry.kind, entry.summary) for entry in entries)
    print_table(console, ("pass", "kind", "what it does"), rows)
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
    rows = ((option.name, shown(option.default), option.type, option.help) for option in entry.options)
    print_table(console, ("option", "default", "value", "what it means"), rows)
    example = next((option for option in entry.options if option.default not in (None, [], "")), None)
    written = f":{example.name}={shown(example.default)}" if example else ""
    line(console, f"Use: onnxslim optimize model.onnx -p {entry.name}{written}")
