"""Reads which ops a provider runs in int8."""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from onnxslim.runtime.provider import load_provider, reading_table

from .integers import IntegerType

EIGHT_BITS = ("uint8", "int8")
"""Element types of activations and of weights that kernels take where a table does not say."""


class Role(enum.Enum):
    """How int8 concerns an op."""

    CONTRACTION = "contraction"
    """Sums of products: int8 pays."""
    ARITHMETIC = "arithmetic"
    """Makes new values, which get a scale of their own."""
    MOVEMENT = "movement"
    """Passes its input's values on: both sides share one scale."""


class Gate(enum.Enum):
    """What an op makes of a straight line between 0 and 1 that is cut off there: levels of its input are levels of it
    (`onnxslim.passes.quant.gates`)."""

    RESULT = "result"
    """It is the result, as of HardSigmoid."""
    FACTOR = "factor"
    """The input is multiplied by it, as in HardSwish."""


@dataclasses.dataclass(frozen=True)
class Row:
    """The conditions under which a provider runs an op in int8. The columns are explained in `targets/cpu.toml`."""

    op_type: str
    role: Role
    types: tuple[str, ...]
    weights: tuple[str, ...]
    stored: tuple[str, ...] = ()
    becomes: str = ""
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
    gate: Gate | None = None
    reach: float = 0.0
    depthwise: str = ""
    residual: bool = False
    accumulates: bool = False
    wide: str = ""

    def multiplies(self, integers: IntegerType) -> bool:
        """Return whether the kernel takes weights of a type as they are."""
        return integers.name in self.weights

    def reads(self, integers: IntegerType) -> bool:
        """Return whether weights may be stored in a type, be it that a Cast makes of them what the kernel takes."""
        return self.multiplies(integers) or integers.name in self.stored


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
    """The ops that a provider runs in int8."""

    provider: str
    reason: str
    """Why it runs nothing in int8; empty where it does."""
    activations: str
    """The element type of activations that its kernels like best."""
    rows: Mapping[str, Row]
    clamps: Mapping[str, Clamp]
    symmetric: bool = False
    """Zero points of activations must be zero."""
    everywhere: bool = False
    """An op that has a row is quantized wherever it stands."""
    saturates: frozenset[str] = frozenset()
    """Instruction sets on which sums of two products saturate."""
    types: tuple[str, ...] = EIGHT_BITS
    """Element types of activations that its kernels take."""
    unfused: tuple[str, ...] = ()
    """Those that it takes, and computes on in float."""

    wider: str = ""
    """The element type of activations that cost the outputs most; empty: that of all others."""
    whole: tuple[str, ...] = ()
    """Ops that are worth a newer operator set where a model spells them out."""
    rounds: frozenset[str] = frozenset()
    """Ops whose float weights it rounds by itself between a DequantizeLinear of one scale and a QuantizeLinear."""

    def fuses(self, integers: IntegerType) -> bool:
        """Return whether products of activations of a type are computed on integers."""
        return integers.kept_in.name in self.types

    def takes(self, integers: IntegerType) -> bool:
        """Return whether activations may be of a type."""
        return self.fuses(integers) or integers.name in self.unfused

    def row(self, node: ir.Node) -> Row | None:
        """Return the row of the op of `node`."""
        return None if node.domain else self.rows.get(node.op_type)

    def clamp(self, node: ir.Node) -> Clamp | None:
        """Return the clamp that the op of `node` is."""
        return None if node.domain else self.clamps.get(node.op_type)


@functools.cache
def load_table(provider: str) -> Int8Table:
    """Return the table of `provider`; one that declares none runs nothing in int8.

    Raises:
        ExtensionError: It comes from another distribution, and declares what is no table.
    """
    content = load_provider(provider).int8
    if not content:
        return Int8Table(provider, f"nobody has said yet which ops {provider} runs in int8", "uint8", {}, {})
    with reading_table(provider, "int8"):
        types = {"types": EIGHT_BITS, "weights": EIGHT_BITS, "stored": ()}
        types |= {key: tuple(content[key]) for key in types if key in content}
        rows = {
            op_type: _row(op_type, {**types, **columns})
            for op_types, columns in content.get("ops", {}).items()
            for op_type in op_types.split()
        }
        clamps = {op_type: Clamp(op_type, **columns) for op_type, columns in content.get("clamps", {}).items()}
    return Int8Table(
        provider,
        content.get("reason", ""),
        content.get("activations", "uint8"),
        rows,
        clamps,
        bool(content.get("symmetric")),
        bool(content.get("everywhere")),
        frozenset(content.get("saturates", ())),
        types["types"],
        tuple(content.get("unfused", ())),
        content.get("wider", ""),
        tuple(content.get("whole", ())),
        frozenset(content.get("rounds", ())),
    )


def _row(op_type: str, columns: Mapping[str, Any]) -> Row:
    lists = {key: tuple(columns[key]) for key in ("types", "weights", "stored", "data") if key in columns}
    gate = Gate(columns["gate"]) if "gate" in columns else None
    return Row(op_type, **{**columns, **lists, "role": Role(columns["role"]), "gate": gate})
