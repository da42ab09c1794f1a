"""Groups of channels, and what cannot be cut, as tables."""

from __future__ import annotations

from rich.console import Console

from onnxslim.commands.channel_groups import Grouping
from onnxslim.report.terminal import line, print_table
from onnxslim.units import in_thousands

MEANING = """\
MACs and parameters: what goes with all channels of a group but one, the other groups left alone.
8 x 4: each of the 8 takes 4 places with it. ~: an op mixes along them, as a norm does."""


def print_groups(grouping: Grouping, console: Console) -> None:
    """Print the groups and what is frozen."""
    line(
        console,
        f"{grouping.path}: {len(grouping.groups)} groups of channels, {in_thousands(grouping.macs)} MACs, "
        f"{in_thousands(grouping.parameters)} parameters",
    )
    rows = (
        (
            group.name,
            f"{group.channels:,}" + (f" x {group.width}" if group.width > 1 else "") + " ~" * group.mixed,
            f"{group.tensors:,}",
            f"{group.weights:,}",
            in_thousands(group.macs),
            f"{group.macs / grouping.macs:.1%}" if grouping.macs else "",
            in_thousands(group.parameters),
        )
        for group in grouping.groups
    )
    print_table(console, ("group", "channels", "tensors", "weights", "MACs", "share", "parameters"), rows)
    if grouping.groups:
        line(console, MEANING)
    frozen = (
        (
            axes.reason,
            f"{axes.axes:,}",
            f"{axes.channels:,}",
            ", ".join(axes.examples) + (", ..." if axes.axes > len(axes.examples) else ""),
        )
        for axes in grouping.frozen
    )
    print_table(console, ("cannot be cut", "axes", "channels", "for example"), frozen)
