"""What ops of a structure (the kinds of `ops.axes`) make of constant and of equal channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.ops.binding import attribute, dimensions
from onnxslim.ops.parameters import padding, reduced, slices

from .channel_values import ABSORBING, AxisValues, Numbers, Sameness, classify, run_on

MEANS = frozenset({"ReduceMean", "ReduceMax", "ReduceMin"})
"""Reductions that keep a constant."""
SUMS = frozenset({"ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"})
"""Reductions that keep 0, and to which it adds nothing."""
SMOOTH = ("nearest", "linear")
"""Interpolations whose weights add up to 1 and are never negative."""
ELEMENTS = 1 << 22
"""Reshapes of more elements than this are not followed."""


def _axes(known: Sameness, value: ir.Value) -> list[tuple[int, int]]:
    """Return (axis, size) for those axes of `value` that hold channels."""
    shape = dimensions(value) or ()
    return [(axis, size) for axis, size in enumerate(shape) if size is not None and known.is_prunable(value, axis)]


def _elementwise(known: Sameness, node: ir.Node) -> None:
    result = node.outputs[0]
    shape = dimensions(result)
    for axis, size in _axes(known, result):
        said = [
            None if value is None else _aligned(known, value, axis - len(shape or ()), size) for value in node.inputs
        ]
        known.record(
            result,
            axis,
            AxisValues(_together([each for each in said if each is not None], size), _made(known, node, said)),
        )


def _aligned(known: Sameness, value: ir.Value, from_right: int, size: int) -> AxisValues:
    """Return what an operand says of the places of an axis, counted from the right, that it may be broadcast along."""
    shape = dimensions(value)
    if shape is not None and len(shape) >= -from_right and shape[from_right] == size:
        along = known.of(value, len(shape) + from_right)
        if along is not None:
            return along
    same = np.zeros(size, np.int64)
    held = constant(value)
    if held is not None and held.dtype.kind in "fiub" and held.size and (held == held.ravel()[0]).all():
        return AxisValues(same, np.full(size, float(held.ravel()[0])))
    if shape is None or (len(shape) >= -from_right and shape[from_right] != 1):
        return AxisValues(np.arange(size), np.full(size, np.nan))
    return AxisValues(same, np.full(size, np.nan))


def _together(said: list[AxisValues], size: int) -> npt.NDArray[np.int64]:
    return classify(np.stack([each.classes for each in said], axis=1)) if said else np.zeros(size, np.int64)


def _made(known: Sameness, node: ir.Node, said: list[AxisValues | None]) -> Numbers:
    """Return what an elementwise op makes of constants; it tells itself."""
    there = np.stack([each.constant for each in said if each is not None])
    result = np.full(there.shape[1], np.nan)
    fixed = ~np.isnan(there).any(axis=0)
    if fixed.any():
        arrays: list[npt.NDArray[np.generic] | None] = []
        for value, each in zip(node.inputs, said, strict=True):
            held = constant(value)
            single = held is not None and held.size == 1
            arrays.append(held if single else None if each is None else each.constant[fixed])
        made = run_on(node, arrays, known.opsets)
        if made is not None and made.size in (1, int(fixed.sum())):
            result[fixed] = made.ravel()
    if not node.domain and node.op_type in ABSORBING:
        result[(there == 0).any(axis=0)] = 0
    return result


def _mixing(known: Sameness, node: ir.Node) -> None:
    source, result = node.inputs[0], node.outputs[0]
    mixed = mixed_axes(node, known.opsets.get("", 13))
    for axis, size in _axes(known, result):
        along = None if source is None or axis in mixed else known.of(source, axis)
        if along is not None and len(along.classes) == size:
            known.record(result, axis, AxisValues(along.classes, np.full(size, np.nan)))


def mixed_axes(node: ir.Node, opset: int) -> set[int]:
    """Return the axes along which an op of the kind ``mixing`` mixes."""
    rank = len(dimensions(node.outputs[0]) or ())
    axis = attribute(node, "axis")
    if not isinstance(axis, int):
        return set(range(rank))
    # Up to operator set 12 Softmax and its kin flatten: all axes from this one on are one.
    return set(range(axis % max(rank, 1), rank)) if opset < 13 else {axis % max(rank, 1)}


def _transpose(known: Sameness, node: ir.Node) -> None:
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    order = attribute(node, "perm") or tuple(reversed(range(len(dimensions(result) or ()))))
    assert isinstance(order, tuple)
    for axis, _ in _axes(known, result):
        _copy(known, source, order[axis], result, axis)


def _copy(known: Sameness, source: ir.Value, from_axis: int, result: ir.Value, axis: int) -> None:
    along = known.of(source, from_axis)
    if along is not None and len(along.classes) == (dimensions(result) or ())[axis]:
        known.record(result, axis, along)


def _reshape(known: Sameness, node: ir.Node) -> None:
    source, result = node.inputs[0], node.outputs[0]
    left, right = None if source is None else dimensions(source), dimensions(result)
    if source is None or left is None or right is None:
        return
    for (begin, end), (first, last) in _runs(left, right):
        sizes, targets = [left[at] or 0 for at in range(begin, end)], [right[at] or 0 for at in range(first, last)]
        is_prunable = [at for at in range(len(targets)) if known.is_prunable(result, first + at)]
        if not is_prunable or math.prod(sizes) > ELEMENTS:
            continue
        elements = np.zeros(sizes, np.int64)
        number = np.full(sizes, np.nan)
        for at, size in enumerate(sizes):
            along = known.of(source, begin + at) if known.is_prunable(source, begin + at) else None
            there = [size if other == at else 1 for other in range(len(sizes))]
            classes = np.arange(size) if along is None else along.classes
            elements = elements * (int(classes.max(initial=0)) + 1) + classes.reshape(there)
            if along is not None:
                number = np.where(np.isnan(number), along.constant.reshape(there), number)
        for at in is_prunable:
            rows, fixed = (
                np.moveaxis(each.reshape(targets), at, 0).reshape(targets[at], -1) for each in (elements, number)
            )
            same = (fixed == fixed[:, :1]).all(axis=1)
            known.record(result, first + at, AxisValues(classify(rows), np.where(same, fixed[:, 0], np.nan)))


def _runs(left: tuple[int | None, ...], right: tuple[int | None, ...]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return the runs of known sizes between symbolic ones that hold as many elements on either side."""
    bounds = [[-1, *(at for at, size in enumerate(side) if size is None), len(side)] for side in (left, right)]
    if len(bounds[0]) != len(bounds[1]):
        return []
    runs = [
        ((bounds[0][at] + 1, bounds[0][at + 1]), (bounds[1][at] + 1, bounds[1][at + 1]))
        for at in range(len(bounds[0]) - 1)
    ]
    return [
        (one, other)
        for one, other in runs
        if math.prod(size or 0 for size in left[slice(*one)]) == math.prod(size or 0 for size in right[slice(*other)])
        and other[1] > other[0]
        and one[1] > one[0]
    ]


def _expand(known: Sameness, node: ir.Node) -> None:
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    for axis, size in _axes(known, result):
        known.record(result, axis, _aligned(known, source, axis - len(dimensions(result) or ()), size))


def _filled(known: Sameness, node: ir.Node) -> None:
    held = node.attributes.get("value")
    number = 0.0 if held is None else float(held.as_tensor().numpy().ravel()[0])
    for axis, size in _axes(known, node.outputs[0]):
        known.record(node.outputs[0], axis, AxisValues(np.zeros(size, np.int64), np.full(size, number)))


def _concat(known: Sameness, node: ir.Node) -> None:
    result, along_axis = node.outputs[0], attribute(node, "axis")
    assert isinstance(along_axis, int)
    rank = len(dimensions(result) or ())
    for axis, size in _axes(known, result):
        parts = [None if value is None else known.of(value, axis) for value in node.inputs]
        if not all(parts):
            continue
        held = [each for each in parts if each is not None]
        if axis != along_axis % rank:
            if all(len(each.classes) == size for each in held):
                fixed = np.stack([each.constant for each in held])
                same = (fixed == fixed[:1]).all(axis=0)
                known.record(result, axis, AxisValues(_together(held, size), np.where(same, fixed[0], np.nan)))
        elif sum(len(each.classes) for each in held) == size:
            values = [value for value in node.inputs if value is not None]
            offset = 1 + max(int(each.classes.max(initial=0)) for each in held)
            # The same value twice holds the same; of different values nothing is known.
            classes = [each.classes + offset * values.index(value) for each, value in zip(held, values, strict=True)]
            known.record(
                result, axis, AxisValues(np.concatenate(classes), np.concatenate([each.constant for each in held]))
            )


def _split(known: Sameness, node: ir.Node) -> None:
    source, along_axis = node.inputs[0], attribute(node, "axis")
    assert source is not None
    assert isinstance(along_axis, int)
    begin = 0
    for result in node.outputs:
        shape = dimensions(result)
        if shape is None or shape[along_axis] is None:
            return
        length = shape[along_axis] or 0
        for axis, _ in _axes(known, result):
            if axis != along_axis % len(shape):
                _copy(known, source, axis, result, axis)
            elif (along := known.of(source, axis)) is not None and begin + length <= len(along.classes):
                known.record(result, axis, along.take(np.arange(begin, begin + length)))
        begin += length


def _slice(known: Sameness, node: ir.Node) -> None:
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    taken = slices(node, len(dimensions(result) or ()))
    for axis, size in _axes(known, result):
        along = None if taken is None else known.of(source, axis)
        if along is None or taken is None:
            continue
        places = np.arange(len(along.classes))[slice(*taken[axis])] if axis in taken else np.arange(size)
        if len(places) == size:
            known.record(result, axis, along.take(places))


def _gather(known: Sameness, node: ir.Node) -> None:
    source, result, axis = node.inputs[0], node.outputs[0], attribute(node, "axis")
    places = constant(node.inputs[1])
    assert source is not None
    assert isinstance(axis, int)
    shape, picked = dimensions(source), None if node.inputs[1] is None else dimensions(node.inputs[1])
    if shape is None or picked is None:
        return
    axis %= len(shape)
    for at, size in _axes(known, result):
        if axis <= at < axis + len(picked):
            along = known.of(source, axis)
            if places is not None and places.ndim == 1 and along is not None:
                known.record(result, at, along.take(places.astype(np.int64) % len(along.classes)))
        else:
            along = known.of(source, at if at < axis else at - len(picked) + 1)
            if along is not None and len(along.classes) == size:
                known.record(result, at, along)


def _pad(known: Sameness, node: ir.Node) -> None:
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    shape = dimensions(source)
    pads = None if shape is None else padding(node, len(shape))
    if shape is None or pads is None or attribute(node, "mode") != "constant":
        return
    given = node.inputs[2] if len(node.inputs) > 2 else None
    held = constant(given)
    number = attribute(node, "value") if given is None else None if held is None else float(held.ravel()[0])
    fill = float(number) if isinstance(number, (int, float)) else np.nan if given is not None else 0.0
    for axis, size in _axes(known, result):
        along = known.of(source, axis)
        before, after = pads[axis]
        if along is None or min(before, after) < 0 or before + len(along.classes) + after != size:
            continue
        others = any(pad != (0, 0) for at, pad in enumerate(pads) if at != axis)
        inner = np.where(along.constant == fill, fill, np.nan) if others else along.constant
        numbers_along = np.concatenate([np.full(before, fill), inner, np.full(after, fill)])
        outer = int(along.classes.max(initial=0)) + 1
        classes = np.concatenate([np.full(before, outer), along.classes, np.full(after, outer)])
        known.record(result, axis, AxisValues(classes, numbers_along))


def _resize(known: Sameness, node: ir.Node) -> None:
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    smooth = (
        attribute(node, "mode") in SMOOTH and attribute(node, "coordinate_transformation_mode") != "tf_crop_and_resize"
    )
    for axis, size in _axes(known, result):
        along = known.of(source, axis)
        if along is not None and len(along.classes) == size:
            zero = np.where(along.constant == 0, 0.0, np.nan)
            known.record(result, axis, AxisValues(along.classes, along.constant if smooth else zero))


def _reduce(known: Sameness, node: ir.Node) -> None:
    source, result = node.inputs[0], node.outputs[0]
    shape = None if source is None else dimensions(source)
    gone = None if shape is None else reduced(node, len(shape))
    if source is None or shape is None or gone is None:
        return
    left = [axis for axis in range(len(shape)) if axis not in gone]
    keeps = len(dimensions(result) or ()) == len(shape)
    for axis, size in _axes(known, result):
        if keeps and axis in gone:
            continue
        along = known.of(source, axis if keeps else left[axis])
        if along is not None and len(along.classes) == size:
            zero = np.where(along.constant == 0, 0.0, np.nan)
            fixed = along.constant if node.op_type in MEANS else zero if node.op_type in SUMS else np.full(size, np.nan)
            known.record(result, axis, AxisValues(along.classes, fixed))


STRUCTURES: Mapping[str, Callable[[Sameness, ir.Node], None]] = {
    "broadcast": _elementwise,
    "mixing": _mixing,
    "transpose": _transpose,
    "reshape": _reshape,
    "flatten": _reshape,
    "expand": _expand,
    "filled": _filled,
    "concat": _concat,
    "split": _split,
    "slice": _slice,
    "gather": _gather,
    "pad": _pad,
    "resize": _resize,
    "reduce": _reduce,
    "sum": _reduce,
}
"""The kinds of `ops.axes` that leave something to be known, and what it is."""
