"""Ops that rename, order, join and part axes: Reshape and its kin, Transpose, Concat, Split, blocks of space."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.ops.arithmetic import floordiv, is_nonnegative, is_positive
from onnxslim.ops.cut import Cut
from onnxslim.ops.fact import Element, Fact, NodeFacts, Unknowable, axis_of
from onnxslim.ops.families.elementwise import unary
from onnxslim.ops.op import Op, shape_of_input
from onnxslim.ops.parameters import NodeReader, entries, integers, opset_of, read
from onnxslim.ops.relations import Axis, Equal, FreezeCode, Frozen, NodeAxes, Pairs, Relation, SameElements, equal_axes
from onnxslim.ops.symbols import Size, exact_quotient, is_unknown, product

SPLIT_AS_INPUT = 13
"""Since this operator set, Split takes its sizes as an input."""
AXES_AS_INPUT = 13
"""Since this operator set, Squeeze takes its axes as an input."""
UNEVEN_SPLIT = 18
"""Since this operator set, the last part of a Split may be smaller than the others."""

# Reshape


def reshape(site: NodeFacts) -> Fact:
    """Reshape: 0 copies, -1 is what is left over."""
    first = site.fact(0)
    target = entries(site, "shape", 1)
    if target is None:
        length = site.shape(1)[0]
        return Fact(first.dtype, site.unknowns(length) if isinstance(length, int) else None)
    source, keep_zero = first.shape, bool(read(site, "allowzero", 0))
    result: list[Size | None] = []
    rest: int | None = None
    for place, size in enumerate(target):
        if size == -1:
            rest = place
            result.append(None)
        elif size == 0 and not keep_zero:
            result.append(source[place] if source is not None and place < len(source) else site.unknown(place))
        elif size is None or isinstance(size, float) or not _is_size(size, target, place, source, keep_zero):
            result.append(site.unknown(place))
        else:
            result.append(size)
    if rest is not None:
        known = product([size for size in result if size is not None])
        left_over = source is not None and known != 0
        result[rest] = floordiv(product(source or ()), known) if left_over else site.unknown(rest)
    shape = tuple(size for size in result if size is not None)
    if source is not None and product(shape) != product(source):
        shape = _complete(site, source, shape)
    return Fact(first.dtype, shape, first.elements if len(shape) < 2 else None)


def _is_size(
    size: Size, target: Sequence[Size | float | None], place: int, source: tuple[Size, ...] | None, keep_zero: bool
) -> bool:
    """Whether an element of a target is the size that results: no -1, and no 0 that copies another size.

    A size that may be 0 at run time copies what the input has at that place. That is 0, too, if the input has a
    multiple of the size there. Elsewhere the model does not run, or another size is 0 (two at once are not thought of),
    if the input has as many elements as a multiple of the size, and no -1 takes what is left over.
    """
    if is_positive(size):
        return True
    if not is_nonnegative(size):
        return False
    if keep_zero or source is None:
        return keep_zero
    held = product(source) if -1 not in target else source[place] if place < len(source) else None
    return held is not None and exact_quotient(held, size) is not None


def _complete(site: NodeFacts, source: tuple[Size, ...], shape: tuple[Size, ...]) -> tuple[Size, ...]:
    """Find the one size that is not known from those that are, for the elements are as many as before."""
    mine = [place for place in range(len(shape)) if shape[place] == site.unknown(place)]
    if len(mine) != 1:
        return shape
    known = product([size for place, size in enumerate(shape) if place != mine[0]])
    if not is_positive(known):
        return shape
    quotient = exact_quotient(product(source), known)
    return shape if quotient is None else tuple(quotient if p == mine[0] else s for p, s in enumerate(shape))


def relate_reshape(site: NodeAxes) -> Iterator[Relation]:
    """Yield that data and result hold the same elements in the same order, and which lengths are computed."""
    yield from relate_elements(site)
    yield from freeze_computed(site, 1)


def freeze_computed(site: NodeAxes, index: int) -> Iterator[Frozen]:
    """Return that the axes of a result whose lengths are computed must stay: numbers among them can be rewritten.

    0 and -1 (Reshape) and 1 (Expand) follow by themselves.
    """
    result = site.axes(site.node.outputs[0])
    lengths = entries(site, "shape", index)
    if lengths is None:
        return site.freeze(result, FreezeCode.COMPUTED_SHAPE)
    named = zip(result[len(result) - len(lengths) :], lengths, strict=True)
    computed = (axis for axis, length in named if not isinstance(length, int))
    return site.freeze(computed, FreezeCode.COMPUTED_SHAPE)


def relate_elements(site: NodeAxes) -> Iterator[Relation]:
    """Yield which runs of axes hold the same elements in the same order: between symbolic sizes that are the same."""
    left, right = map(list, site.source_and_result())
    yield from site.freeze_settings()
    # What is before the first symbolic dimension, between two of them, and after the last is aligned by itself.
    (left_runs, left_names), (right_runs, right_names) = _runs(site, left), _runs(site, right)
    if left_names == right_names or len(left_names) == len(right_names) == 1:
        for first, second in zip(left_runs, right_runs, strict=True):
            yield SameElements(tuple(first), tuple(second))
        return
    # Only what is equal at either end is known to be the same.
    while left and right and site.size(left[0]) == site.size(right[0]) is not None:
        yield Equal(left.pop(0), right.pop(0))
    while left and right and site.size(left[-1]) == site.size(right[-1]) is not None:
        yield Equal(left.pop(), right.pop())
    yield from site.freeze((*left, *right), FreezeCode.UNKNOWN_SIZE)


def _runs(site: NodeAxes, axes: Iterable[Axis]) -> tuple[list[list[Axis]], list[str]]:
    """Return the runs of axes before, between and behind those of symbolic sizes, and the names of these sizes."""
    runs: list[list[Axis]] = [[]]
    names: list[str] = []
    for axis in axes:
        if site.size(axis) is None:
            runs.append([])
            names.append(_name_of(axis))
        else:
            runs[-1].append(axis)
    return runs, names


def _name_of(axis: Axis) -> str:
    """Return a symbolic size as text; one without a name is equal to no other."""
    assert axis.value.shape is not None
    size = axis.value.shape[axis.position]
    return str(size) if isinstance(size, int) else size.value or f"?{id(axis.value)}.{axis.position}"


def flatten(site: NodeFacts) -> Fact:
    """Flatten: two axes, all before `axis` and all from it on."""
    shape = site.shape()
    axis = read(site, "axis")
    axis = axis + len(shape) if axis < 0 else axis
    return Fact(site.fact(0).dtype, (product(shape[:axis]), product(shape[axis:])))


def squeeze(site: NodeFacts) -> Fact:
    """Squeeze: the axes that are named go, or all of size 1."""
    shape = site.shape()
    axes = integers(site, "axes", 1)
    if axes is not None and not axes:
        # ONNX Runtime takes no axes for all of size 1, the reference implementation for none: not even onnx is asked.
        return Fact(site.fact(0).dtype)
    if axes is None:
        if not all(isinstance(size, int) for size in shape):
            raise Unknowable
        dropped = {axis for axis, size in enumerate(shape) if size == 1}
    else:
        dropped = {axis_of(axis, len(shape)) for axis in axes}
    rest = tuple(size for axis, size in enumerate(shape) if axis not in dropped)
    return Fact(site.fact(0).dtype, rest, site.fact(0).elements)


def resize_squeeze(cut: Cut, node: ir.Node) -> None:
    """Write which axes go: an axis that has one place left must stay, where all of size 1 go."""
    axes = _axes_of_size_1(node)
    if axes is None or entries(NodeAxes(node), "axes", 1):
        return
    if not axes:  # no axes would mean all of size 1
        node.op_type = "Identity"
        node.resize_inputs(1)
        node.attributes.clear()
        return
    if opset_of(node) < AXES_AS_INPUT:
        node.attributes["axes"] = ir.AttrInt64s("axes", axes)
    cut.write(node, "axes", 1, axes)


def _axes_of_size_1(node: ir.Node) -> tuple[int, ...] | None:
    shape = shape_of_input(node, 0)
    return None if shape is None or None in shape else tuple(axis for axis, size in enumerate(shape) if size == 1)


def unsqueeze(site: NodeFacts) -> Fact:
    """Unsqueeze: ones at the places that are named."""
    shape, axes = list(site.shape()), integers(site, "axes", 1)
    if axes is None:
        raise Unknowable
    rank = len(shape) + len(axes)
    for axis in sorted(axis_of(axis, rank) for axis in axes):
        shape.insert(axis, 1)
    return Fact(site.fact(0).dtype, tuple(shape), site.fact(0).elements if rank < 2 else None)


# Transpose


def permutation(site: NodeReader, rank: int) -> tuple[int, ...]:
    """Return which axis of the data each axis of the result of a Transpose is.

    Raises:
        Unknowable: The attribute is a parameter of the local function that the node is in.
    """
    return tuple(read(site, "perm", ()) or range(rank - 1, -1, -1))


def transpose(site: NodeFacts) -> Fact:
    """Transpose: the axes in another order."""
    first, shape = site.fact(0), site.shape()
    return Fact(first.dtype, tuple(shape[axis] for axis in permutation(site, len(shape))), first.elements)


def relate_transpose(site: NodeAxes) -> Iterator[Relation]:
    """Return which axes are one."""
    source, result = site.source_and_result()
    return equal_axes((source[axis] for axis in permutation(site, len(source))), result)


def _reversed_axes(node: ir.Node) -> tuple[int, ...] | None:
    shape = shape_of_input(node, 0)
    return None if shape is None else tuple(range(len(shape) - 1, -1, -1))


# Concat and Split


def concat(site: NodeFacts) -> Fact:
    """Concat: sizes add up along the axis; the others are those of any input."""
    kind = next((fact.dtype for fact in site.facts if fact is not None and fact.dtype is not None), None)
    known = [fact.shape for fact in site.facts if fact is not None and fact.shape is not None]
    if not known:
        return Fact(kind)
    rank, axis = len(known[0]), axis_of(read(site, "axis", 1), len(known[0]))
    result: list[Size] = []
    for place in range(rank):
        sizes = [shape[place] for shape in known]
        if place != axis:
            result.append(min(sizes, key=lambda size: 0 if isinstance(size, int) else 1 + is_unknown(size)))
        elif len(known) == len(site.facts):
            result.append(functools.reduce(operator.add, sizes))
        else:
            result.append(site.unknown(place))
    elements: tuple[Element, ...] | None = None
    if rank == 1 and any(fact is not None and fact.elements is not None for fact in site.facts):
        parts = [site.elements(index) for index in range(len(site.facts))]
        elements = None if None in parts else tuple(element for part in parts for element in part or ())
    return Fact(kind, tuple(result), elements)


def relate_concat(site: NodeAxes) -> Iterator[Relation]:
    """Yield that the inputs lie one after the other in the result."""
    return relate_joined(site, site.node.outputs[0], [value for value in site.node.inputs if value is not None])


def relate_joined(site: NodeAxes, whole: ir.Value | None, parts: list[ir.Value]) -> Iterator[Relation]:
    """Yield that `parts` lie one after the other in `whole`."""
    whole_axes, part_axes = site.axes(whole), [site.axes(part) for part in parts]
    where = read(site, "axis", None) % len(whole_axes)
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


def split_lengths(site: NodeReader) -> tuple[Element, ...] | None:
    """Return how long the parts of a Split are told to be; None where they are as long as each other, or not known.

    Raises:
        Unknowable: The attribute is a parameter of the local function that the node is in.
    """
    return entries(site, "split", 1)


def split(site: NodeFacts) -> tuple[Fact, ...]:
    """Split: equal parts, the last of which may be smaller, or parts as long as told."""
    first, count = site.fact(0), len(site.node.outputs)
    shape = site.shape()
    axis = axis_of(read(site, "axis", 0), len(shape))
    lengths = split_lengths(site)
    if lengths is None and not site.has(1):
        whole = shape[axis]
        pieces = read(site, "num_outputs", count)
        uneven = site.version >= UNEVEN_SPLIT
        length = floordiv(whole + (pieces - 1), pieces) if uneven else floordiv(whole, pieces)
        exact = exact_quotient(whole, pieces) is not None or not uneven
        last = length if exact else (whole - length * (pieces - 1) if isinstance(whole, int) else None)
        lengths = (*[length] * (count - 1), last)
    facts: list[Fact] = []
    start: Size = 0
    for output in range(count):
        part = lengths[output] if lengths is not None and output < len(lengths) else None
        size = site.unknown(axis, output) if part is None or isinstance(part, float) else part
        elements = None
        if first.elements is not None and isinstance(start, int) and isinstance(size, int):
            elements = first.elements[start : start + size]
        start = start + size
        facts.append(Fact(first.dtype, (*shape[:axis], size, *shape[axis + 1 :]), elements))
    return tuple(facts)


def relate_split(site: NodeAxes) -> Iterator[Relation]:
    """Yield that the outputs lie one after the other in the data."""
    yield from site.freeze_settings()
    yield from relate_joined(site, site.node.inputs[0], [value for value in site.node.outputs if value.name])
    lengths = split_lengths(site)
    if site.has(1) and (lengths is None or None in lengths):
        yield from site.freeze_node(FreezeCode.COMPUTED_SIZES)


def resize_split(cut: Cut, node: ir.Node) -> None:
    """Write how long the parts are now; parts that were equal may be so no more."""
    axis = read(NodeAxes(node), "axis", 0)
    known = [cut.length(value, axis % len(value.shape or ())) for value in node.outputs]
    lengths = [length for length in known if length is not None]
    if len(lengths) < len(known):
        return
    if len(node.inputs) > 1 or "split" in node.attributes or len(set(lengths)) > 1:
        node.attributes.pop("num_outputs", None)
        if opset_of(node) < SPLIT_AS_INPUT:
            node.attributes["split"] = ir.AttrInt64s("split", lengths)
        cut.write(node, "split", 1, lengths)


# Blocks of space and depth


def depth_to_space(site: NodeFacts) -> Fact:
    """DepthToSpace: blocks of channels become blocks of space."""
    batch, channels, height, width = site.shape()
    block = read(site, "blocksize")
    return Fact(site.fact(0).dtype, (batch, floordiv(channels, block * block), height * block, width * block))


def space_to_depth(site: NodeFacts) -> Fact:
    """SpaceToDepth: blocks of space become blocks of channels."""
    batch, channels, height, width = site.shape()
    block = read(site, "blocksize")
    sizes = (batch, channels * (block * block), floordiv(height, block), floordiv(width, block))
    return Fact(site.fact(0).dtype, sizes)


OPS = {
    ("", "Reshape"): Op(reshape, relate_reshape, shape_input=1),
    ("", "Flatten"): Op(flatten, relate_elements),
    ("", "Squeeze"): Op(squeeze, relate_elements, resize_squeeze, defaults={"axes": _axes_of_size_1}),
    ("", "Unsqueeze"): Op(unsqueeze, relate_elements),
    ("", "Transpose"): Op(transpose, relate_transpose, defaults={"perm": _reversed_axes}),
    ("", "Concat"): Op(concat, relate_concat),
    ("", "Split"): Op(split, relate_split, resize_split),
    ("", "DepthToSpace"): Op(depth_to_space),
    ("", "SpaceToDepth"): Op(space_to_depth),
    ("", "ReverseSequence"): Op(unary()),
    ("", "Trilu"): Op(unary(), carried=(0,)),
}
