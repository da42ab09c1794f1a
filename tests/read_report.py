"""Reads a report in JSON back, by the types of its records: what is written can be read."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from typing import Any

from onnxslim.pipeline.records import Report


def from_json(data: Mapping[str, Any]) -> Report:
    """Return the report that `to_json` was given. Keys that nobody knows (of a later version) are passed over.

    Raises:
        ValueError: A key is missing, or a null has no reason beside it: this is no report.
    """
    report = _read(Report, data, "report")
    assert isinstance(report, Report)
    return report


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
