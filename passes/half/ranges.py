"""What was seen of values on the samples, and whether half precision holds it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.linear_layer import label
from onnxslim.arrays import Array, Floats
from onnxslim.model.constants import constant
from onnxslim.observe.statistics import Query, Statistic
from onnxslim.ops.parameters import op_of
from onnxslim.ops.traits import Trait, has
from onnxslim.pipeline.reasons import Reason

from .codes import HalfCode
from .formats import BLOCK, HalfFormat, as_half
from .table import OpFacts, stands_in

STATISTICS = (Statistic.MINIMUM, Statistic.MAXIMUM, Statistic.MEAN, Statistic.MEAN_SQUARE, Statistic.SIZE)


@dataclasses.dataclass(frozen=True)
class Seen:
    """The elements of a value on all samples. They may be infinite; `mean` is NaN where one of them is."""

    low: float
    high: float
    mean: float
    square: float
    """The mean square."""
    size: float
    """How many elements there were."""

    @property
    def magnitude(self) -> float:
        """The largest magnitude."""
        return max(abs(self.low), abs(self.high))


def range_queries(names: Collection[str]) -> list[Query]:
    """Return what must be known of the values of these names."""
    return [Query(name, statistic) for name in names for statistic in STATISTICS]


def seen_values(answers: Mapping[Query, Floats], names: Collection[str]) -> dict[str, Seen]:
    """Return what the answers say of the values of these names."""
    return {name: Seen(*(float(answers[Query(name, kind)]) for kind in STATISTICS)) for name in names}


def seen_constant(array: Array) -> Seen:
    """Return the same of a constant."""
    if not array.size:
        return Seen(0.0, 0.0, 0.0, 0.0, 0.0)
    flat, total, square = array.reshape(-1), 0.0, 0.0
    with np.errstate(invalid="ignore"):
        for start in range(0, flat.size, BLOCK):
            wide = flat[start : start + BLOCK].astype(np.float64)
            total += float(wide.sum())
            square += float(np.vdot(wide, wide))
    return Seen(float(flat.min()), float(flat.max()), total / flat.size, square / flat.size, flat.size)


class Fitness:
    """Whether values fit into half precision.

    Args:
        half: The format.
        headroom: How many times as large as what was seen values may be elsewhere.
        seen: What was seen of the values of the main graph, by name.
        masks: Values whose large negative numbers may be cut.
        facts: What is known of ops.
        precise: Values that must not be rounded, and why.
    """

    def __init__(
        self,
        half: HalfFormat,
        headroom: float,
        seen: Mapping[str, Seen],
        masks: Collection[ir.Value],
        facts: OpFacts,
        precise: Mapping[ir.Value, Reason] = MappingProxyType({}),
    ) -> None:
        self._half, self._headroom, self._seen = half, headroom, seen
        self._masks, self._facts = masks, facts
        self._known: dict[ir.Value, Reason | None] = dict(precise)

    def against(self, value: ir.Value) -> Reason | None:
        """Return why a value that runs through the main graph, or is an input, does not fit; None where it does."""
        if value not in self._known:
            self._known[value] = self._against(value, self._seen.get(value.name or ""))
        return self._known[value]

    def _against(self, value: ir.Value, seen: Seen | None) -> Reason | None:
        if seen is None:
            return Reason(HalfCode.IN_NESTED)
        if not seen.size:
            return None
        half, name = self._half, _called(value)
        low = 0.0 if value in self._masks else seen.low
        if math.isnan(seen.mean) or math.isinf(low) or math.isinf(seen.high):
            return Reason(HalfCode.NOT_FINITE, (name,), (name,))
        reached = max(abs(low), abs(seen.high))
        if reached * self._headroom > half.largest:
            return Reason(HalfCode.OVERFLOW, (name, reached, half.name, half.largest), (name,))
        average = math.sqrt(seen.square) if math.isfinite(seen.square) else math.inf
        if 0 < average < half.small:
            return Reason(HalfCode.UNDERFLOW, (name, average, half.name), (name,))
        uses = [(use.node, use.idx) for use in value.uses()]
        for node, index in uses:
            if stands_in(self._facts.small, node, index) and 0 < seen.low < half.small:
                return Reason(HalfCode.SMALL_DIVISOR, (name, seen.low, node.op_type), (name,), nodes=(label(node),))
            if stands_in(self._facts.angles, node, index) and seen.magnitude > half.largest_angle:
                return Reason(HalfCode.ANGLE, (name, seen.magnitude, half.name), (name,), nodes=(label(node),))
        maker = value.producer()
        counts = maker is not None and has(maker, Trait.CONVERTS) and _is_integer(maker.inputs[0])
        if counts and seen.magnitude > half.counts_to:
            return Reason(HalfCode.COUNT, (name, seen.magnitude, half.name, half.counts_to), (name,))
        return None

    def against_constant(self, value: ir.Value, node: ir.Node, index: int) -> Reason | None:
        """Return why a float32 constant does not fit as an input of a node; None where it does."""
        array = constant(value)
        assert array is not None, "it is constant"
        half, name = self._half, _called(value)
        if not array.size or value in self._masks:
            return None
        seen = seen_constant(array)
        finite = seen.magnitude if math.isfinite(seen.magnitude) else _largest(array)
        if finite > half.largest and not stands_in(self._facts.limits, node, index):
            return Reason(HalfCode.OVERFLOW, (name, finite, half.name, half.largest), (name,))
        if has(node, Trait.ADDS):
            return None  # it is as small beside the sum as it was
        average = math.sqrt(seen.square) if math.isfinite(seen.square) else math.inf
        if 0 < average < half.small and not stands_in(self._facts.limits, node, index):
            return Reason(HalfCode.UNDERFLOW, (name, average, half.name), (name,))
        if stands_in(self._facts.small, node, index) and 0 < seen.low < half.small:
            return Reason(HalfCode.SMALL_DIVISOR, (name, seen.low, node.op_type), (name,), nodes=(label(node),))
        if half.counts_to < finite <= half.largest and _counts(array, half):
            return Reason(HalfCode.COUNT, (name, finite, half.name, half.counts_to), (name,))
        return None

    def against_sums(self, node: ir.Node) -> Reason | None:
        """Return why what a node adds up inside does not fit; who runs the model may add in half precision."""
        kind = self._facts.sums.get(op_of(node))
        if kind is None:
            return None
        data, result = (self._seen.get(_called(value)) for value in (node.inputs[0], node.outputs[0]))
        if data is None or result is None or not result.size:
            return None
        match kind:
            case "mean":
                total = data.size / result.size * result.magnitude
            case "norm":
                total = result.magnitude**2
            case _:
                shape = list(node.inputs[0].shape or ()) if node.inputs[0] is not None else []
                inner = [size for size in shape[2:] or shape[-1:] if isinstance(size, int)]
                total = math.prod(inner) * data.square
        if total * self._headroom > self._half.largest:
            return Reason(HalfCode.SUM_OVERFLOW, (total, self._half.name, self._half.largest))
        return None


def _called(value: ir.Value | None) -> str:
    return "" if value is None else value.name or ""


def _is_integer(value: ir.Value | None) -> bool:
    return value is not None and value.dtype is not None and value.dtype.is_integer()


def _largest(array: Array) -> float:
    """Return the largest finite magnitude."""
    return float(np.abs(array[np.isfinite(array)]).max(initial=0))


def _counts(array: Array, half: HalfFormat) -> bool:
    """Whether a constant holds several integers that are not exact in half precision: places, and no weights."""
    if array.size == 1:
        return False
    flat = array.reshape(-1)
    parts = [flat[start : start + BLOCK] for start in range(0, flat.size, BLOCK)]
    whole = all(bool(np.isfinite(part).all() and (part == np.rint(part)).all()) for part in parts)
    return whole and any(bool((as_half(part, half).astype(np.float32) != part).any()) for part in parts)
