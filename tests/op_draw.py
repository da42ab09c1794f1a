"""What nodes are drawn with: numbers, shapes and axes as an operator set takes them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from onnxslim.ops.signatures import OpName

f32, i64 = np.float32, np.int64
Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass
class Case:
    """A node: what it reads, and which of that is a constant of the model."""

    op: OpName
    operands: list[Array | None]
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    fixed: frozenset[int] = frozenset()
    outputs: tuple[bool, ...] = (True,)
    """Whether each output is made."""
    stored: bool = False
    """The kernel wants what is constant as initializers."""


class Draw:
    """Draws what a node of an operator set may be like."""

    def __init__(self, random: np.random.Generator, opset: int) -> None:
        self.random = random
        self.opset = opset

    def number(self, low: int, high: int) -> int:
        """Return an integer from `low` to `high`, both included."""
        return int(self.random.integers(low, high + 1))

    def chance(self, share: float = 0.5) -> bool:
        return bool(self.random.random() < share)

    def one_of(self, items: Any) -> Any:
        return items[self.number(0, len(items) - 1)]

    def shape(self, low: int = 1, high: int = 4, least: int = 1, most: int = 5) -> tuple[int, ...]:
        return tuple(self.number(least, most) for _ in range(self.number(low, high)))

    def data(self, shape: tuple[int, ...], kind: Any = f32) -> Array:
        if np.dtype(kind).kind == "f":
            return np.asarray(self.random.random(shape) * 2 + 0.25, kind)
        return np.asarray(self.random.integers(0, 2 if np.dtype(kind).kind == "b" else 7, shape), kind)

    def axis(self, rank: int, since: int = 11) -> int:
        """Return an axis; a negative one only from the operator set `since` on."""
        axis = self.number(0, rank - 1)
        return axis - rank if self.opset >= since and self.chance() else axis

    def axes(self, rank: int, since: int = 11, least: int = 1) -> list[int]:
        chosen = self.random.permutation(rank)[: self.number(least, rank)].tolist()
        return [axis - rank if self.opset >= since and self.chance() else axis for axis in chosen]

    def vector(self, *numbers: int) -> Array:
        return np.array(numbers, i64)

    def shape_like(self) -> Array:
        """Return a vector of small integers, as a shape is."""
        return np.asarray(self.random.integers(1, 9, self.number(1, 5)), i64)


def attribute_or_input(
    draw: Draw, since: int, name: str, numbers: list[int]
) -> tuple[dict[str, Any], list[Array | None]]:
    """Return integers as an attribute before the operator set `since`, from then on as an input."""
    return ({}, [draw.vector(*numbers)]) if draw.opset >= since else ({name: numbers}, [])
