"""Ops that make one number of many: reductions, and the places of extremes."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator

import onnx_ir as ir

from onnxslim.ops.arithmetic import maximum, minimum
from onnxslim.ops.fact import Fact, NodeFacts, Unknowable, axis_of
from onnxslim.ops.op import Op, all_axes
from onnxslim.ops.parameters import NodeReader, integers, read
from onnxslim.ops.relations import AddsUp, FreezeCode, Mixes, NodeAxes, Relation, equal_axes
from onnxslim.ops.symbols import Expression, Size

ADDING = frozenset({"ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare"})
"""Reductions to which 0 adds nothing."""


def reduced_axes(site: NodeReader, rank: int) -> set[int]:
    """Return the axes that a reduction leaves out, or makes 1.

    Raises:
        Unknowable: They are computed when the model runs.
    """
    axes = integers(site, "axes", 1)
    if not axes:
        return set() if read(site, "noop_with_empty_axes", 0) else set(range(rank))
    return {axis_of(axis, rank) for axis in axes}


def _left(shape: tuple[Size, ...], axes: set[int], keep: bool) -> tuple[Size, ...]:
    if keep:
        return tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)


def reduce(site: NodeFacts) -> Fact:
    """Reduce*: the axes that are named become 1, or go."""
    first, shape, keep = site.fact(0), site.shape(), bool(read(site, "keepdims", 1))
    try:
        axes = reduced_axes(site, len(shape))
    except Unknowable:
        if not keep:
            raise
        return Fact(first.dtype, site.unknowns(len(shape)))
    elements = None
    combine = COMBINED.get(site.node.op_type)
    if combine is not None and first.elements and axes and None not in first.elements:
        sizes = [number for number in first.elements if isinstance(number, (int, Expression))]
        elements = (functools.reduce(combine, sizes),) if len(sizes) == len(first.elements) else None
    return Fact(first.dtype, _left(shape, axes, keep), elements)


COMBINED: dict[str, Callable[[Size, Size], Size]] = {
    "ReduceSum": operator.add,
    "ReduceProd": lambda first, second: second * first,
    "ReduceMax": maximum,
    "ReduceMin": minimum,
}
"""What some of them make of small integers."""


def argument(site: NodeFacts) -> Fact:
    """ArgMax, ArgMin: the axis becomes 1, or goes."""
    shape = site.shape()
    axis = axis_of(read(site, "axis"), len(shape))
    return Fact(ir.DataType.INT64, _left(shape, {axis}, bool(read(site, "keepdims"))))


def relate_reduce(site: NodeAxes) -> Iterator[Relation]:
    """Yield which axes stay, and which the op mixes along: sums of zeros and others are no mixtures."""
    source, _ = site.source_and_result()
    yield from site.freeze_settings()
    try:
        gone = reduced_axes(site, len(source))
    except Unknowable:
        yield from site.freeze_node(FreezeCode.COMPUTED_AXES)
        return
    adds_up = site.node.op_type in ADDING
    yield from (AddsUp(source[index]) if adds_up else Mixes(source[index]) for index in gone)
    yield from _rest(site, gone)


def relate_argument(site: NodeAxes) -> Iterator[Relation]:
    """Yield which axes stay; of the other, the answer is a place."""
    source, _ = site.source_and_result()
    gone = axis_of(read(site, "axis"), len(source))
    yield from site.freeze((source[gone],), FreezeCode.ANSWERED)
    yield from _rest(site, {gone})


def _rest(site: NodeAxes, gone: set[int]) -> Iterator[Relation]:
    source, result = site.source_and_result()
    kept = [axis for axis in source if axis.position not in gone]
    rest = [axis for axis in result if axis.position not in gone] if len(result) == len(source) else result
    return equal_axes(kept, rest)


OPS = {
    **{
        ("", f"Reduce{name}"): Op(reduce, relate_reduce, defaults={"axes": all_axes})
        for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
    },
    ("", "ArgMax"): Op(argument, relate_argument),
    ("", "ArgMin"): Op(argument, relate_argument),
}
