"""The passes that are installed, as tables."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from onnxslim.commands.catalogue import PassEntry
from onnxslim.report.terminal import line, plain_table


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
