"""Looks at where results shall be written before hours are spent on making them, and at what a run reads itself."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import onnx_ir as ir

from onnxslim.data.function import module_file, names_function
from onnxslim.data.images import SUFFIXES
from onnxslim.data.opening import named_source
from onnxslim.errors import OutputError
from onnxslim.model import FORM, OriginalForm, check_place

ARRAYS = frozenset({".npz", ".npy"})


@dataclasses.dataclass(frozen=True)
class Place:
    """A file that a run reads or writes; what it reads may be a folder of samples."""

    name: str
    """What it is, for messages: ``the output``."""
    path: Path


def places_read(model: ir.Model, path: Path | None, **sources: object) -> list[Place]:
    """Return all that a run reads.

    Args:
        model: What comes in, opened; its weights may lie in files of their own.
        path: Where it lies; None: in memory.
        sources: What else is read, by the name of its option: a path, a ``module:function``, a URL; anything else
            (None, arrays in memory) lies in no file.
    """
    form: OriginalForm | None = model.graph.meta.get(FORM)
    found = [] if path is None else [Place("the input", path)]
    found += [Place("the weights of the input", file) for file in sorted(form.external if form else ())]
    for option, source in sources.items():
        if isinstance(source, str | os.PathLike):
            found += [Place(f"what --{option} reads", file) for file in _source_files(os.fspath(source))]
    return found


def _source_files(source: str) -> Iterator[Path]:
    if named := named_source(source):
        source = named[1]
    if names_function(source) and not os.path.exists(source):
        yield from filter(None, [module_file(source)])
    elif source.startswith("file://"):
        yield Path(source.removeprefix("file://"))
    elif "://" not in source:
        yield Path(source)


def places_written(output: Path | None, reports: Iterable[Path] = ()) -> list[Place]:
    """Return all that a run writes. Weights in a file of their own have a name that nothing else may have."""
    found = [] if output is None else [Place("the output", output)]
    return found + [Place("the report", path) for path in reports]


def check_places(reads: Sequence[Place], writes: Sequence[Place]) -> None:
    """Check that all can be written, and that nothing would overwrite something else of this run.

    Files of earlier runs may be overwritten. What is read may not, under whichever name.

    Raises:
        OutputError: The folder is missing or read-only, it is no file, or two places are the same file.
    """
    for index, written in enumerate(writes):
        for taken in (*reads, *writes[:index]):
            if _same(written.path, taken.path):
                raise OutputError(
                    f"{written.name} would overwrite {taken.name}", where=written.path, hint="choose another name"
                )
        check_place(written.path)


def _same(written: Path, taken: Path) -> bool:
    """Whether two paths are one file, seen through links; a folder of samples is each of the files in it."""
    try:
        if written.exists() and taken.exists() and written.samefile(taken):
            return True
        one, other = written.resolve(), taken.resolve()
    except (OSError, RuntimeError, ValueError):
        return False  # no file at all: what writes there says why
    if one == other:
        return True
    return other.is_dir() and one.is_relative_to(other) and one.exists() and one.suffix.lower() in SUFFIXES | ARRAYS
