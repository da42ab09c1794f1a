"""Where reports go, and in which form: the suffix says it. All of them are written, or none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxslim.commands.output_paths import check_places, places_read, places_written
from onnxslim.errors import UsageError
from onnxslim.model import Placement, open_model, placing, writing
from onnxslim.report.json import dumps
from onnxslim.report.page.document import page_of
from onnxslim.report.page.rendering import need_libraries

JSON, PAGE = ".json", ".html"


def check_destinations(paths: Sequence[Path]) -> None:
    """Check that reports can be made in the forms that `paths` ask for, before there is anything to report.

    Raises:
        UsageError: A suffix is neither .json nor .html.
        OutputError: What a page needs is not installed.
    """
    for path in paths:
        if path.suffix.lower() not in (JSON, PAGE):
            hint = f"end the name in {JSON} for programs, or in {PAGE} for people"
            raise UsageError("a report has no such form", where=f"--report {path}", hint=hint)
        if is_page(path):
            need_libraries(f"--report {path}")


def check_reports(paths: Sequence[Path], models: Sequence[Path], **sources: object) -> None:
    """Check, before any work, that reports can be written at `paths`, over nothing that the run reads.

    That are `models`, and `sources` by the names of their options (see `places_read`).

    Raises:
        ModelError: A model cannot be opened.
        UsageError, OutputError: As `check_places` and `check_destinations` do.
    """
    if not paths:
        return
    read = [place for model in models for place in places_read(open_model(model), model, **sources)]
    check_places(read, places_written(None, paths))
    check_destinations(paths)


def save_report(record: Any, *paths: str | os.PathLike[str]) -> None:
    """Write a report as JSON (.json) or as a page (.html), all of them or none.

    Args:
        record: A `Report` (of `optimize`), a `Benchmark` or a `Comparison`.
        paths: Where to.

    Raises:
        UsageError: A suffix is neither .json nor .html.
        OutputError: Nothing can be written there, or what a page needs is not installed.
    """
    places = [Path(path) for path in paths]
    check_destinations(places)
    with placing() as placement:
        stage_reports(record, places, placement)


def stage_reports(record: Any, paths: Sequence[Path], placement: Placement) -> None:
    """Write a report as JSON or as a page, for `placement` to rename into place.

    Raises:
        OutputError: Nothing can be written there.
    """
    for path in paths:
        text = page_of(record) if is_page(path) else dumps(record)
        with writing(path, placement) as file:
            file.write_text(text, encoding="utf-8")


def is_page(path: Path) -> bool:
    """Whether a report at `path` is a page."""
    return path.suffix.lower() == PAGE
