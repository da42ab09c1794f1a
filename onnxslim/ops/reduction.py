"""Ops that make one number of many: reductions, the places of extremes, the largest few."""

from __future__ import annotations

import functools

import onnx_ir as ir

from onnxslim.ops.arithmetic import maximum, minimum
from onnxslim.ops.fact import Element, Fact, NodeFacts, ShapeRule, Unknowable, axis_of
from onnxslim.ops.symbols import Size


def _reduced(shape: tuple[Size, ...], axes: set[int], keep: bool) -> tuple[Size, ...]:
    if keep:
        return tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)


def reduce(site: NodeFacts) -> Fact:
    """Reduce*: the axes that are named become 1, or go."""
    first, keep = site.fact(0), bool(site.attribute("keepdims", 1))
    if first.shape is None:
        raise Unknowable
    rank = len(first.shape)
    try:
        axes = site.integers("axes", 1)
    except Unknowable:
        if not keep:
            raise
        return Fact(first.dtype, site.unknowns(rank))
    if not axes:
        dropped = set() if site.attribute("noop_with_empty_axes", 0) else set(range(rank))
    else:
        dropped = {axis_of(axis, rank) for axis in axes}
    elements = None
    combine = COMBINED.get(site.node.op_type)
    if combine is not None and first.elements and dropped and None not in first.elements:
        numbers: tuple[Element, ...] = first.elements
        if not any(isinstance(each, float) for each in numbers):
            elements = (functools.reduce(combine, numbers),)
    return Fact(first.dtype, _reduced(first.shape, dropped, keep), elements)


COMBINED = {
    "ReduceSum": lambda first, second: first + second,
    "ReduceProd": lambda first, second: second * first,
    "ReduceMax": maximum,
    "ReduceMin": minimum,
}
"""What some of them make of small integers."""


def argument(site: NodeFacts) -> Fact:
    """ArgMax, ArgMin: the axis becomes 1, or goes."""
    shape = site.shape()
    axis = axis_of(site.attribute("axis", 0), len(shape))
    return Fact(ir.DataType.INT64, _reduced(shape, {axis}, bool(site.attribute("keepdims", 1))))


def top_k(site: NodeFacts) -> tuple[Fact, ...]:
    """TopK: the axis becomes as long as k."""
    first, shape = site.fact(0), site.shape()
    axis = axis_of(site.attribute("axis", -1), len(shape))
    told = (site.attribute("k"),) if site.version < 10 else site.elements(1)
    count: Element = told[0] if told is not None and len(told) == 1 else None
    if count is None or isinstance(count, float):
        sizes = [(*shape[:axis], site.unknown(axis, output), *shape[axis + 1 :]) for output in range(2)]
    else:
        sizes = [(*shape[:axis], count, *shape[axis + 1 :])] * 2
    return (Fact(first.dtype, sizes[0]), Fact(ir.DataType.INT64, sizes[1]))


RULES: dict[tuple[str, str], ShapeRule] = {
    ("", "ArgMax"): argument,
    ("", "ArgMin"): argument,
    ("", "TopK"): top_k,
}
"""The rules of this theme, by domain and op; all that ops.axes calls a reduction is one, too."""
