"""What ops are told besides their data: lengths, places and axes, as attributes in old ops and as inputs in newer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.ops.binding import attribute, bind, dimensions


def numbers(node: ir.Node, name: str, index: int) -> list[int] | None:
    """Return integers that are an attribute in older operator sets and the input `index` in newer ones.

    Returns:
        The integers; None where there are none, or where they are computed when the model runs.
    """
    if name in node.attributes:
        value = attribute(node, name)
        return None if value is None else [int(each) for each in np.ravel(value)]
    array = constant(node.inputs[index]) if index < len(node.inputs) else None
    return None if array is None else [int(each) for each in array.ravel()]


def computed(node: ir.Node, index: int) -> bool:
    """Whether the input `index` is there and is computed when the model runs."""
    return index < len(node.inputs) and node.inputs[index] is not None and constant(node.inputs[index]) is None


def slices(node: ir.Node, rank: int) -> dict[int, tuple[int, int, int]] | None:
    """Return {axis: (start, end, step)} of a Slice, as written; None where it is computed when the model runs."""
    starts, ends = numbers(node, "starts", 1), numbers(node, "ends", 2)
    if starts is None or ends is None or computed(node, 3) or computed(node, 4):
        return None
    axes = numbers(node, "axes", 3) or list(range(len(starts)))
    steps = numbers(node, "steps", 4) or [1] * len(starts)
    return {axis % rank: each for axis, *each in zip(axes, starts, ends, steps, strict=True)}  # type: ignore[misc]


def sliced(size: int, start: int, end: int, step: int) -> npt.NDArray[np.int64]:
    """Return the places that a Slice takes of an axis of this size; its numbers are clamped, not wrapped twice."""
    if step > 0:
        return np.arange(size)[slice(start, end, step)]
    # Backwards, a negative end counts from the right, and anything below that means: through to the first.
    first = min(start + size if start < 0 else start, size - 1)
    last = -1 if end < -size else end + size if end < 0 else min(end, size - 1)
    return np.arange(first, last, step)


def padding(node: ir.Node, rank: int) -> list[tuple[int, int]] | None:
    """Return (before, after) for each axis of a Pad; None where it is computed when the model runs."""
    pads = numbers(node, "pads", 1)
    if pads is None or computed(node, 3):
        return None
    axes = [axis % rank for axis in numbers(node, "axes", 3) or range(rank)]
    result = [(0, 0)] * rank
    for at, axis in enumerate(axes):
        result[axis] = (pads[at], pads[at + len(axes)])
    return result


def scales(node: ir.Node, rank: int) -> list[float]:
    """Return the scales of a Resize or Upsample for each axis, 0 where they are not known."""
    result = [0.0] * rank
    held = attribute(node, "scales")
    # Upsample and the first Resize: (x, scales); later (x, region of interest, scales, sizes).
    index = 2 if len(node.inputs) > 2 else 1
    array = np.asarray(held) if held is not None else constant(node.inputs[index]) if index < len(node.inputs) else None
    if array is not None and array.size:
        axes = numbers(node, "axes", len(node.inputs)) or list(range(rank))
        for axis, scale in zip(axes, array.ravel(), strict=False):
            result[axis] = float(scale)
    return result


def reduced(node: ir.Node, rank: int) -> set[int] | None:
    """Return the axes that a reduction sums over; None where they are computed when the model runs."""
    axis = attribute(node, "axis")
    if isinstance(axis, int):
        return {axis % rank}
    axes = numbers(node, "axes", 1)
    if axes is None and computed(node, 1):
        return None
    if not axes:
        return set() if attribute(node, "noop_with_empty_axes") else set(range(rank))
    return {each % rank for each in axes}


def pieces(value: ir.Value | None) -> list[int | None] | None:
    """Return what is known of the elements of a vector of integers that is computed out of constants and others.

    Returns:
        None for each element that is not known; None where not even their number is.
    """
    array = constant(value)
    if array is not None:
        return [int(each) for each in array.ravel()]
    if value is None:
        return None
    node = value.producer()
    fitted = None if node is None else bind(node)
    if node is not None and fitted is not None and fitted.signature.kind == "concat":
        parts = [pieces(each) for each in node.inputs]
        return None if None in parts else [each for part in parts for each in part or ()]
    shape = dimensions(value)
    return None if shape is None or len(shape) != 1 or shape[0] is None else [None] * shape[0]
