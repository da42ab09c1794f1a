"""Looks at where results shall be written before hours are spent on making them."""

from __future__ import annotations

from pathlib import Path

from onnxslim.errors import OutputError
from onnxslim.model import writing_beside


def check_places(model: Path | None, output: Path, report: Path | None = None) -> None:
    """Check that the output and the report can be written, and that neither would overwrite something else of this run.

    Args:
        model: What comes in; None: a model in memory.
        output: Where the result is to go.
        report: Where the report is to go, if anywhere.

    Files of earlier runs may be overwritten. The model that comes in may not, under whichever name.

    Raises:
        OutputError: The folder is missing or read-only, or two of the three are the same file.
    """
    places = {"the input": model, "the output": output, "the report": report}
    for name, path in (("the output", output), ("the report", report)):
        if path is None:
            continue
        for other, taken in places.items():
            if other != name and taken is not None and _same(path, taken):
                raise OutputError(f"{name} would overwrite {other}", where=path, hint="choose another name")
        if path.is_dir():
            raise OutputError(f"{name} would have the name of a folder", where=path, hint="name a file")
        with writing_beside(path):
            pass


def _same(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        return one.samefile(other)  # sees through links
    return one.resolve() == other.resolve()
