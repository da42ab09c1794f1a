"""What differs between two models, in the manner of ``diff -u``."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from onnxslim.commands.difference import Difference


def print_difference(difference: Difference, console: Console) -> None:
    """Print a difference in the manner of ``diff -u``: header, regions, ``-`` and ``+`` lines."""

    def put(text: str, style: str = "") -> None:
        console.print(Text(text, style), soft_wrap=True)

    put(f"--- {difference.before}", "bold")
    put(f"+++ {difference.after}", "bold")
    for number, region in enumerate(difference.regions, 1):
        again = "once" if region.times == 2 else f"{region.times - 1:,} times"
        more = f", the same {again} more" if region.times > 1 else ""
        put(f"@@ region {number} of {len(difference.regions)}{more} @@", "cyan")
        for text in region.before:
            put(f"- {text}", "red")
        for text in region.after:
            put(f"+ {text}", "green")
        if region.constants:
            put(f"# other numbers in {', '.join(region.constants)}", "dim")
