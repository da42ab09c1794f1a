"""Groups of channels, and what cannot be cut, as tables."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from onnxslim.commands.channel_groups import Grouping
from onnxslim.report.terminal import line, plain_table
from onnxslim.units import in_thousands


def print_groups(grouping: Grouping, console: Console) -> None:
    """Print the groups and what is frozen."""
    line(
        console,
        f"{grouping.path}: {len(grouping.groups)} groups of channels, {in_thousands(grouping.macs)} MACs, "
        f"{in_thousands(grouping.parameters)} parameters",
    )
    if grouping.groups:
        table = plain_table("group", "channels", "tensors", "weights", "MACs", "share", "parameters")
        for group in grouping.groups:
            channels = f"{group.channels:,}" + (f" x {group.width}" if group.width > 1 else "")
            share = f"{group.macs / grouping.macs:.1%}" if grouping.macs else ""
            table.add_row(
                Text(group.name),
                channels + " ~" * group.mixed,
                f"{group.tensors:,}",
                f"{group.weights:,}",
                in_thousands(group.macs),
                share,
                in_thousands(group.parameters),
            )
        console.print(table)
        line(
            console, "MACs and parameters: what goes with all channels of a group but one, the other groups left alone."
        )
        line(console, "8 x 4: each of the 8 takes 4 places with it. ~: an op mixes along them, as a norm does.")
    if grouping.frozen:
        table = plain_table("cannot be cut", "axes", "channels", "for example")
        for row in grouping.frozen:
            names = ", ".join(row.examples) + (", ..." if row.axes > len(row.examples) else "")
            table.add_row(Text(row.reason), f"{row.axes:,}", f"{row.channels:,}", Text(names))
        console.print(table)
