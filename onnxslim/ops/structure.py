"""What the ops of a structure (`broadcast`, `reshape`, `concat`: the kinds of `ops.axes`) say about axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.ops.binding import BoundSignature, FactorKey, attribute, bind
from onnxslim.ops.indexing import PICKING
from onnxslim.ops.parameters import computed, pieces, reduced, slices
from onnxslim.ops.relations import (
    Axis,
    Equal,
    Factor,
    Factored,
    FreezeCode,
    Frozen,
    Mixes,
    NodeAxes,
    Pairs,
    Relate,
    Relation,
    SameElements,
    UnknownShape,
)

SOFTMAX_ALONG_ONE = 13
"""Since this operator set, Softmax works along one axis alone."""


def relations_of(site: NodeAxes) -> tuple[BoundSignature | None, Sequence[Relation]]:
    """Return the row of the table that holds for a node, None where none does, and the relations between its axes.

    What is not known of a node freezes the axes of all its operands.
    """
    found = bind(site.node)
    if found is None:
        return None, list(site.freeze_node(FreezeCode.NO_SIGNATURE))
    try:
        relate = HANDLERS[found.signature.kind] if found.signature.kind else None
        return found, list(relate_row(site, found) if relate is None else relate(site))
    except UnknownShape:
        return found, list(site.freeze_node(FreezeCode.UNKNOWN_SHAPE))


def relate_row(site: NodeAxes, bound: BoundSignature) -> Iterator[Relation]:
    """Yield what a row of the table says about the operands of its node: equal letters are one factor."""
    signature = bound.signature
    seen: dict[FactorKey, Factor] = {}
    for operand, value in bound.operands():
        if operand.ignored:
            yield from site.freeze_values((value,), FreezeCode.READ_AS_WHOLE)
            continue
        shape = site.shape(value)
        for position, ((dimension, place), length) in enumerate(zip(operand.axes(len(shape)), shape, strict=True)):
            if length == 1 and (operand.broadcasts or dimension.ellipsis):
                continue
            axis = Axis(value, position)
            for letter in dimension.factors:
                if (letter, place) not in seen:
                    size = int(letter) if letter.isdigit() else bound.sizes.get((letter, place))
                    seen[letter, place] = Factor(letter, place, size)
                    if letter in signature.fixed:
                        yield from site.freeze((seen[letter, place],), FreezeCode.FIXED_FACTOR)
            factors = tuple(seen[letter, place] for letter in dimension.factors)
            yield Equal(factors[0], axis) if len(factors) == 1 else Factored(axis, factors)
    for (letter, _), factor in seen.items():
        if letter in signature.mixed:
            yield Mixes(factor)


def aligned(site: NodeAxes, source: ir.Value, result: ir.Value) -> Iterator[Relation]:
    """Yield that `source` broadcasts to `result`: axes aligned at the right are one, but for those of size 1."""
    left, right = site.shape_of(source), site.shape_of(result)
    if left is None or right is None or len(left) > len(right):
        yield from site.freeze_values((source, result), FreezeCode.UNKNOWN_SHAPE)
        return
    for place in range(1, len(left) + 1):
        if left[-place] != 1:
            yield Equal(Axis(source, len(left) - place), Axis(result, len(right) - place))


def _broadcast(site: NodeAxes) -> Iterator[Relation]:
    node = site.node
    for result in node.outputs:
        for source in node.inputs:
            if source is not None and result.name and (result is node.outputs[0] or site.shape_of(result)):
                yield from aligned(site, source, result)


def _mixing(site: NodeAxes) -> Iterator[Relation]:
    yield from _broadcast(site)
    node = site.node
    source = node.inputs[0]
    rank = 0 if source is None else len(site.shape_of(source) or ())
    axis, axes = attribute(node, "axis"), attribute(node, "axes")
    mixed: Sequence[int] = range(rank)
    if isinstance(axes, tuple):
        mixed = axes
    elif isinstance(axis, int):
        # Before operator set 13, Softmax took all axes from this one on for one.
        opset = node.graph.opset_imports.get("", SOFTMAX_ALONG_ONE) if node.graph is not None else SOFTMAX_ALONG_ONE
        mixed = [axis] if opset >= SOFTMAX_ALONG_ONE else range(min(axis, 1) if axis >= 0 else 0, rank)
    for index in mixed:
        if source is not None and -rank <= index < rank:
            yield Mixes(Axis(source, index % rank))


def _like_first(site: NodeAxes) -> Iterator[Relation]:
    source = site.node.inputs[0]
    assert source is not None
    for result in site.node.outputs:
        if result.name:
            yield from aligned(site, source, result)


def _frozen(site: NodeAxes) -> Iterator[Relation]:
    found = bind(site.node)
    assert found is not None
    return site.freeze_node(FreezeCode.UNFOLLOWED, found.signature.reason)


def _quantize(site: NodeAxes) -> Iterator[Relation]:
    node = site.node
    source = node.inputs[0]
    assert source is not None
    yield from aligned(site, source, node.outputs[0])
    shape = site.shape_of(source)
    axis = attribute(node, "axis")
    for scale in node.inputs[1:]:
        own = None if scale is None else site.shape_of(scale)
        if scale is None or own == ():
            continue
        if shape is not None and own is not None and len(own) == 1 and isinstance(axis, int):
            if own[0] != 1:
                yield Equal(Axis(scale, 0), Axis(source, axis % len(shape)))
        else:
            yield from site.freeze_node(FreezeCode.BLOCKS)


def _transpose(site: NodeAxes) -> Iterator[Relation]:
    source, result = site.source_and_result()
    permutation = attribute(site.node, "perm") or tuple(reversed(range(len(source))))
    assert isinstance(permutation, tuple)
    for axis, place in zip(result, permutation, strict=True):
        yield Equal(source[place], axis)


def _flatten(site: NodeAxes) -> Iterator[Relation]:
    source, result = site.source_and_result()
    yield from site.freeze_settings()
    left, right = list(source), list(result)
    names = _names(site.node.inputs[0]), _names(site.node.outputs[0])
    # What is before the first symbolic dimension, between two of them, and after the last is aligned by itself.
    symbols = [[index for index, axis in enumerate(side) if site.size(axis) is None] for side in (left, right)]
    same = len(symbols[0]) == len(symbols[1]) and (
        len(symbols[0]) <= 1 or [names[0][index] for index in symbols[0]] == [names[1][index] for index in symbols[1]]
    )
    if same:
        bounds = [[-1, *symbols[side], len((left, right)[side])] for side in (0, 1)]
        for part in range(len(bounds[0]) - 1):
            yield SameElements(
                tuple(left[bounds[0][part] + 1 : bounds[0][part + 1]]),
                tuple(right[bounds[1][part] + 1 : bounds[1][part + 1]]),
            )
    else:
        # Only what is equal at either end is known to be the same.
        while left and right and site.size(left[0]) == site.size(right[0]) is not None:
            yield Equal(left.pop(0), right.pop(0))
        while left and right and site.size(left[-1]) == site.size(right[-1]) is not None:
            yield Equal(left.pop(), right.pop())
        yield from site.freeze((*left, *right), FreezeCode.UNKNOWN_SIZE)


def _reshape(site: NodeAxes) -> Iterator[Relation]:
    yield from _flatten(site)
    yield from _freeze_computed(site, 1)


def _expand(site: NodeAxes) -> Iterator[Relation]:
    source, result = site.node.inputs[0], site.node.outputs[0]
    assert source is not None
    yield from site.freeze_settings()
    yield from aligned(site, source, result)
    yield from _freeze_computed(site, 1)


def _filled(site: NodeAxes) -> Iterator[Relation]:
    yield from site.freeze_settings(0)
    if site.shape_of(site.node.outputs[0]) is not None:
        yield from _freeze_computed(site, 0)


def _freeze_computed(site: NodeAxes, index: int) -> Iterator[Frozen]:
    """Freeze the axes of a result whose lengths are computed: the numbers among them can be rewritten, no others.

    0 and -1 (Reshape) and 1 (Expand) follow by themselves.
    """
    if computed(site.node, index):
        result = site.axes(site.node.outputs[0])
        entries = pieces(site.node.inputs[index])
        missing = len(result) - (0 if entries is None else len(entries))
        unknown = (
            axis
            for axis in result
            if entries is None or (axis.position >= missing and entries[axis.position - missing] is None)
        )
        yield from site.freeze(unknown, FreezeCode.COMPUTED_SHAPE)


def _concat(site: NodeAxes) -> Iterator[Relation]:
    return _joined(site, site.node.outputs[0], [value for value in site.node.inputs if value is not None])


def _quantized_concat(site: NodeAxes) -> Iterator[Relation]:
    # (scale, zero point of the result), then (data, scale, zero point) of each part.
    return _joined(site, site.node.outputs[0], [value for value in site.node.inputs[2::3] if value is not None])


def _split(site: NodeAxes) -> Iterator[Relation]:
    yield from site.freeze_settings()
    source = site.node.inputs[0]
    assert source is not None
    yield from _joined(site, source, [value for value in site.node.outputs if value.name])
    if computed(site.node, 1):
        yield from site.freeze_node(FreezeCode.COMPUTED_SIZES)


def _joined(site: NodeAxes, whole: ir.Value, parts: list[ir.Value]) -> Iterator[Relation]:
    """Yield that `parts` lie one after the other in `whole`."""
    where = attribute(site.node, "axis")
    assert isinstance(where, int)
    whole_axes, part_axes = site.axes(whole), [site.axes(part) for part in parts]
    where %= len(whole_axes)
    begin = 0
    sizes = [site.size(axes[where]) for axes in part_axes]
    known = None not in sizes and sum(size or 0 for size in sizes) == site.size(whole_axes[where])
    for axes, size in zip(part_axes, sizes, strict=True):
        for part, axis in zip(axes, whole_axes, strict=True):
            if axis.position != where:
                yield Equal(part, axis)
            elif known and size is not None:
                yield Pairs(part, np.arange(size), axis, begin + np.arange(size))
                begin += size
            else:
                yield from site.freeze((part, axis), FreezeCode.UNKNOWN_SIZE)


def _reduce(site: NodeAxes) -> Iterator[Relation]:
    source, result = site.source_and_result()
    yield from site.freeze_settings()
    gone = reduced(site.node, len(source))
    if gone is None:
        yield from site.freeze_node(FreezeCode.COMPUTED_AXES)
        return
    if fit_kind(site.node) == "reduce":
        for index in gone:
            yield Mixes(source[index])
    kept = [axis for axis in source if axis.position not in gone]
    rest = [axis for axis in result if axis.position not in gone] if len(result) == len(source) else result
    for left, right in zip(kept, rest, strict=True):
        yield Equal(left, right)


def _argument(site: NodeAxes) -> Iterator[Relation]:
    source, _ = site.source_and_result()
    gone = reduced(site.node, len(source)) or ()
    yield from site.freeze((source[index] for index in gone), FreezeCode.ANSWERED)
    yield from _reduce(site)


def _shape(site: NodeAxes) -> Iterator[Relation]:
    """Freeze what is read of a shape: a size that flows into arithmetic must stay what it was."""
    node = site.node
    source, result = node.inputs[0], node.outputs[0]
    yield from site.freeze_values((result,), FreezeCode.PLACES_IN_SHAPE)
    if source is None or site.shape_of(source) is None:
        return
    axes = site.axes(source)
    start, end = attribute(node, "start"), attribute(node, "end")
    entries = list(range(len(axes)))[start if isinstance(start, int) else None : end if isinstance(end, int) else None]
    read: set[int] = set()
    for use in result.uses():
        read |= _entries_read(use.node, use.idx, entries)
    if result.is_graph_output():
        read = set(range(len(axes)))
    yield from site.freeze((axes[index] for index in read), FreezeCode.SIZE_READ)


def _entries_read(node: ir.Node, index: int, entries: list[int]) -> set[int]:
    kind = fit_kind(node)
    if kind == "gather" and index == 0:
        places = constant(node.inputs[1])
        if places is not None:
            return {entries[int(place)] for place in places.ravel()}
    if kind == "slice" and index == 0:
        taken = slices(node, 1)
        if taken is not None:
            return set(entries[slice(*taken.get(0, (0, None, 1)))])
    return set(entries)


def fit_kind(node: ir.Node) -> str:
    """Return the word of the structure of `node`, empty where it has none."""
    found = bind(node)
    return "" if found is None else found.signature.kind


def _names(value: ir.Value | None) -> list[str]:
    """Return the dimensions of `value` as text; those without a name are equal to no other."""
    assert value is not None
    assert value.shape is not None
    return [
        str(size) if isinstance(size, int) else size.value or f"?{id(value)}.{index}"
        for index, size in enumerate(value.shape)
    ]


HANDLERS: Mapping[str, Relate] = {
    "broadcast": _broadcast,
    "first": _like_first,
    "mixing": _mixing,
    "quantize": _quantize,
    "transpose": _transpose,
    "reshape": _reshape,
    "flatten": _flatten,
    "expand": _expand,
    "filled": _filled,
    "concat": _concat,
    "qconcat": _quantized_concat,
    "split": _split,
    "reduce": _reduce,
    "sum": _reduce,
    "argument": _argument,
    "shape": _shape,
    "frozen": _frozen,
    **PICKING,
}
"""The kinds of `ops.axes` and what they say."""
