"""Standard output: tables for people, JSON for programs, and nothing else."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console


def stdout() -> Console:
    """Return a console on standard output; plain where that is no terminal, without colour where NO_COLOR is set."""
    return Console(highlight=False)


def print_json(record: Any) -> None:
    """Print a record of `onnxslim.report` as JSON."""
    from onnxslim.report.json import dumps

    sys.stdout.write(dumps(record))
