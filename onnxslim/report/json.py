"""Reports as JSON. The keys are the names of the dataclasses' fields; nothing else decides them."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping
from typing import Any

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
        return [to_json(item) for item in record]
    return record.value if isinstance(record, enum.Enum) else record


def dumps(record: Any) -> str:
    """Return a record as JSON text that ends in a line feed."""
    return json_safe(json.dumps(to_json(record), indent=2, ensure_ascii=False, allow_nan=False)) + "\n"
