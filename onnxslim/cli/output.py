"""Standard output: tables for people, JSON for programs, and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console

from onnxslim.printable import Record, printable_record


def console(*, stderr: bool = False) -> Console:
    """Return a console on standard output, or on standard error where standard output carries something else.

    It is plain where that is no terminal, without colour where NO_COLOR is set; brackets in names are no markup. What
    is printed is made printable first (`onnxslim.printable`).
    """
    return Console(highlight=False, markup=False, emoji=False, stderr=stderr)


def warn(what: str, hint: str | None) -> None:
    """Print a warning on standard error, in one colour; `what` and `hint` are printable."""
    text = f"warning: {what}" + (f"\n\nhint: {hint}" if hint else "")
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False).print(text, style="yellow")


def show(record: Record, json: bool, print_record: Callable[[Record, Console], None]) -> None:
    """Print a record on standard output: as JSON, or as `print_record` does, with every text in it printable."""
    if json:
        print_json(record)
    else:
        print_record(printable_record(record), console())


def print_json(record: Any, **more: Any) -> None:
    """Print a record of `onnxslim.report` as JSON, with further records under keys of their own."""
    from onnxslim.report.json import dumps, to_json

    sys.stdout.write(dumps({**to_json(record), **more} if more else record))
