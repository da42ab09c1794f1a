"""Reports as JSON and back. The keys are the names of the dataclasses' fields; nothing else decides them."""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxslim.model import Placement, writing
from onnxslim.pipeline.records import Report
from onnxslim.printable import json_safe


def to_json(record: Any) -> Any:
    """Return a report, or any record of `onnxslim.report`, as what `json.dumps` takes.

    A field whose default is None and that is None (a reason that nobody needed) is left out; every other key is there.
    """
    if dataclasses.is_dataclass(record):
        return {
            field.name: to_json(getattr(record, field.name))
            for field in dataclasses.fields(record)
            if not (field.default is None and getattr(record, field.name) is None)
        }
    if isinstance(record, Mapping):
        return {str(key): to_json(value) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [to_json(each) for each in record]
    return record.value if isinstance(record, enum.Enum) else record


def from_json(data: Mapping[str, Any]) -> Report:
    """Return the report that `to_json` was given. Keys that nobody knows (of a later version) are passed over.

    Raises:
        ValueError: A key is missing, or a null has no reason beside it: this is no report.
    """
    report = _read(Report, data, "report")
    assert isinstance(report, Report)
    return report


def dumps(record: Any) -> str:
    """Return a record as JSON text that ends in a line feed."""
    return json_safe(json.dumps(to_json(record), indent=2, ensure_ascii=False, allow_nan=False)) + "\n"


def write_json(record: Any, path: str | os.PathLike[str], placement: Placement | None = None) -> None:
    """Write a record to `path`, whole or not at all; with a `placement` when that renames its files into place.

    Raises:
        OutputError: Nothing can be written there.
    """
    with writing(Path(path), placement) as file:
        file.write_text(dumps(record), encoding="utf-8")


def _read(kind: Any, data: Any, place: str) -> Any:
    """Return `data` as a value of type `kind`; `place` names it in errors."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _read_record(kind, data, place)
    if origin in (typing.Union, types.UnionType):
        inner = next(each for each in arguments if each is not type(None))
        return None if data is None else _read(inner, data, place)
    if origin is tuple:
        kinds = [arguments[0]] * len(data) if arguments[-1] is Ellipsis else arguments
        return tuple(_read(each, item, place) for each, item in zip(kinds, data, strict=True))
    return kind(data) if kind is float or (isinstance(kind, type) and issubclass(kind, enum.Enum)) else data


def _read_record(kind: Any, data: Any, place: str) -> Any:
    if not isinstance(data, Mapping):
        raise ValueError(f"{place} must be an object")
    hints = typing.get_type_hints(kind)
    values = {}
    for field in dataclasses.fields(kind):
        if field.name in data:
            values[field.name] = _read(hints[field.name], data[field.name], f"{place}.{field.name}")
        elif field.default is dataclasses.MISSING:
            raise ValueError(f"{place} has no key {field.name!r}")
    return kind(**values)
