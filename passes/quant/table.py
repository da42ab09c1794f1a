"""Which ops a provider runs in int8: reads `targets/<provider>.toml`, where the columns are explained."""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib.resources
import math
import sys
from collections.abc import Mapping
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Role(enum.Enum):
    """What an op does, as far as quantization is concerned."""

    CONTRACTION = "contraction"
    """Sums of products: int8 pays."""
    ARITHMETIC = "arithmetic"
    """Makes new values, which get a scale of their own."""
    MOVEMENT = "movement"
    """Passes its input's values on: both sides share one scale."""


@dataclasses.dataclass(frozen=True)
class Row:
    """What a provider asks of an op that it shall run in int8. The columns are explained in `targets/cpu.toml`."""

    op_type: str
    role: Role
    becomes: str
    data: tuple[int, ...] | None = None
    weight: int | None = None
    bias: int | None = None
    rank: int | None = None
    required: bool = False
    zero_point: bool = False
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    outputs: int = 1
    packing: str | None = None
    joins: bool = False
    scores: bool = False
    depthwise: str = ""


@dataclasses.dataclass(frozen=True)
class Clamp:
    """An op that cuts off what lies outside an interval."""

    op_type: str
    low: float = -math.inf
    high: float = math.inf
    low_input: int | None = None
    """The input that holds `low`, where it is no fixed number."""
    high_input: int | None = None


@dataclasses.dataclass(frozen=True)
class Int8Table:
    """What a provider runs in int8."""

    provider: str
    reason: str
    """Why it runs nothing in int8; empty where it does."""
    activations: str
    """The element type of activations that its kernels like best."""
    rows: Mapping[str, Row]
    clamps: Mapping[str, Clamp]


@functools.cache
def load_table(provider: str) -> Int8Table:
    """Return the table of `provider`; one that has no file runs nothing in int8."""
    file = importlib.resources.files(__package__) / "targets" / f"{provider}.toml"
    if not file.is_file():
        return Int8Table(provider, f"nobody has said yet which ops {provider} runs in int8", "uint8", {}, {})
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    rows = {op_type: _row(op_type, columns) for op_type, columns in content.get("ops", {}).items()}
    clamps = {op_type: Clamp(op_type, **columns) for op_type, columns in content.get("clamps", {}).items()}
    return Int8Table(provider, content.get("reason", ""), content.get("activations", "uint8"), rows, clamps)


def _row(op_type: str, columns: Mapping[str, Any]) -> Row:
    data = columns.get("data")
    typed = {"role": Role(columns["role"]), "data": None if data is None else tuple(data)}
    return Row(op_type, **{**columns, **typed})
