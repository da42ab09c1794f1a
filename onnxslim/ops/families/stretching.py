"""Ops that make axes longer or shorter: Expand, Tile, Pad, Resize."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.ops.arithmetic import broadcast_shapes, floordiv, never_equal
from onnxslim.ops.cut import Cut
from onnxslim.ops.fact import Element, Fact, NodeFacts, Unknowable, axis_of, elements_of
from onnxslim.ops.families.elementwise import aligned
from onnxslim.ops.families.movement import freeze_computed
from onnxslim.ops.op import Constancy, Op, all_axes
from onnxslim.ops.parameters import NodeReader, attribute, entries, integers, read
from onnxslim.ops.relations import Equal, Factor, Factored, FreezeCode, NodeAxes, Pairs, Relation
from onnxslim.ops.symbols import Expression, Size

MOST_REPEATED = 64
"""Elements of a small vector that is repeated are known up to here."""

INTERPOLATIONS = ("nearest", "linear")
"""Whose weights add up to 1 and are never negative."""

# Expand and Tile


def expand(site: NodeFacts) -> Fact:
    """Expand: the shape of the data and the one that is told broadcast."""
    (dtype, shape, elements, _), target = site.fact(0), site.elements(1)
    if target is None:
        raise Unknowable
    if shape is None:
        return Fact(dtype)
    known = tuple(size if isinstance(size, (int, Expression)) else 1 for size in target)
    sizes = list(broadcast_shapes([shape, known]))
    for axis, size in enumerate(target, start=len(sizes) - len(target)):
        if size is None and not never_equal(sizes[axis], 1):
            sizes[axis] = site.unknown(axis)
    result = tuple(sizes)
    if elements is not None and result != shape:
        length = result[0] if len(result) == 1 else None
        repeats = len(elements) == 1 and isinstance(length, int) and length <= MOST_REPEATED
        elements = elements * length if repeats else None  # type: ignore[operator]  # an int
    return Fact(dtype, result, elements)


def relate_expand(site: NodeAxes) -> Iterator[Relation]:
    """Yield that the data broadcast to the result, and which lengths are computed."""
    yield from site.freeze_settings()
    yield from aligned(site, site.node.inputs[0], site.node.outputs[0])
    yield from freeze_computed(site, 1)


def tile(site: NodeFacts) -> Fact:
    """Tile: each axis as often as told."""
    first, shape = site.fact(0), site.shape()
    repeats = site.elements(1)
    if repeats is None or site.version < 6:
        return Fact(first.dtype, site.unknowns(len(shape)))
    sizes = tuple(
        site.unknown(axis) if times is None or isinstance(times, float) else size * times
        for axis, (size, times) in enumerate(zip(shape, repeats, strict=True))
    )
    return Fact(first.dtype, sizes)


def relate_tile(site: NodeAxes) -> Iterator[Relation]:
    """Yield which axes are repeated, and how often."""
    source, result = site.source_and_result()
    yield from site.freeze_settings()
    repeats = site.elements(1)
    if repeats is None or len(repeats) != len(source) or not all(isinstance(times, int) for times in repeats):
        yield from site.freeze((*source, *result), FreezeCode.COMPUTED_REPEATS)
        return
    for left, right, number in zip(source, result, repeats, strict=True):
        if number == 1:
            yield Equal(left, right)
        elif isinstance(number, int) and number > 1:
            times = Factor("repeats", left.position, number)
            yield from site.freeze((times,), FreezeCode.REPEATED)
            yield Factored(right, (times, left))


# Pad


def pad_widths(site: NodeReader, rank: int) -> dict[int, tuple[Element, Element]] | None:
    """Return {axis: (before, after)} of a Pad, for the axes that it names; None where they are computed.

    Raises:
        Unknowable: It is not known which axes these are.
    """
    axes = integers(site, "axes", 3)
    pads = entries(site, "pads", 1) or entries(site, "paddings", 1)
    if pads is None:
        return None
    named = range(rank) if not axes else [axis_of(axis, rank) for axis in axes]
    return {axis: (pads[index], pads[index + len(named)]) for index, axis in enumerate(named)}


def known_pads(site: NodeReader, rank: int) -> dict[int, tuple[int, int]] | None:
    """Return {axis: (before, after)} of a Pad, for the axes that it names; None where any of it is computed."""
    try:
        pads = pad_widths(site, rank)
    except Unknowable:
        return None
    if pads is None or not all(isinstance(width, int) for widths in pads.values() for width in widths):
        return None
    return pads  # type: ignore[return-value]  # checked one line up


def pad(site: NodeFacts) -> Fact:
    """Pad: each axis grows by what is put before and after it, or shrinks by what is cut off."""
    first, shape = site.fact(0), list(site.shape())
    try:
        pads = pad_widths(site, len(shape))
    except Unknowable:
        return Fact(first.dtype, site.unknowns(len(shape)))
    for axis, (before, after) in (pads or dict.fromkeys(range(len(shape)), (None, None))).items():
        if isinstance(before, (int, Expression)) and isinstance(after, (int, Expression)):
            shape[axis] = shape[axis] + (before + after)
        else:
            shape[axis] = site.unknown(axis)
    return Fact(first.dtype, tuple(shape))


def relate_pad(site: NodeAxes) -> Iterator[Relation]:
    """Yield where the data lie in the result."""
    source, result = site.source_and_result()
    yield from site.freeze_settings()
    pads = known_pads(site, len(source))
    fills = read(site, "mode") == "constant"
    for left, right in zip(source, result, strict=True):
        size = site.size(left)
        before, after = (-1, -1) if pads is None else pads.get(left.position, (0, 0))
        if (before, after) == (0, 0):
            yield Equal(left, right)
        elif fills and min(before, after) >= 0 and size is not None and site.size(right) == before + size + after:
            yield Pairs(left, np.arange(size), right, before + np.arange(size))
        else:
            yield from site.freeze((left, right), FreezeCode.PADDED)


def pad_fill(node: ir.Node) -> float | None:
    """Return the number that a Pad puts around the data; NaN: computed when the model runs; None: no number."""
    if attribute(node, "mode") != "constant":
        return None
    site = NodeAxes(node)
    numbers = site.elements(2) if site.has(2) else (attribute(node, "value") or 0,)
    number = numbers[0] if numbers else None
    return float(number) if isinstance(number, (int, float)) else math.nan


def resize_pad(cut: Cut, node: ir.Node) -> None:
    """Write how much is put around what stays: places that are put there may go, too."""
    site = NodeAxes(node)
    pads = known_pads(site, len(site.shape(node.inputs[0])))
    if pads is None:
        return
    for axis, (before, after) in pads.items():
        stays = cut.stays(node.outputs[0], axis)
        if stays is not None and before >= 0 and after >= 0:
            pads[axis] = (int(stays[:before].sum()), int(stays[len(stays) - after :].sum()))
    cut.write(node, "pads", 1, [before for before, _ in pads.values()] + [after for _, after in pads.values()])


def largest_pad(arrays: Sequence[npt.NDArray[Any]]) -> float:
    """Return the elements where the widest padding were on both ends of all axes."""
    widest = float(np.maximum(arrays[1].reshape(-1).astype(np.float64), 0).max(initial=0))
    return math.prod(float(size) + 2 * widest for size in arrays[0].shape)


# Resize


def resize_scales(site: NodeReader) -> tuple[Element, ...] | None:
    """Return the scales of a Resize or Upsample, one for each axis that it names; None where they are not known.

    Upsample and the first Resize have (x, scales), later (x, region of interest, scales, sizes).
    """
    if "scales" in site.node.attributes:
        return elements_of(np.array(read(site, "scales"), np.float64))
    index = 2 if len(site.node.inputs) > 2 else 1
    return site.elements(index) or None


def resize_axes(site: NodeReader, rank: int) -> tuple[int, ...]:
    """Return the axes that a Resize is told scales or sizes of."""
    return tuple(axis_of(axis, rank) for axis in read(site, "axes") or range(rank))


def resize(site: NodeFacts) -> Fact:
    """Resize, Upsample: the sizes that are told, or the old ones times the scales, rounded down."""
    first, shape = site.fact(0), list(site.shape())
    axes = resize_axes(site, len(shape))
    sizes = site.elements(3) if site.has(3) else None
    policy = read(site, "keep_aspect_ratio_policy", "stretch")
    if (sizes is not None and policy != "stretch") or (sizes and len(sizes) != len(axes)):
        return Fact(first.dtype, site.unknowns(len(shape)))
    factors = None if sizes else resize_scales(site)
    for index, axis in enumerate(axes):
        size = sizes[index] if sizes else None
        factor = factors[index] if factors and index < len(factors) else None
        if isinstance(size, (int, Expression)):
            shape[axis] = size
        elif factor is not None and not site.has(3):
            shape[axis] = _scaled(shape[axis], factor, site.unknown(axis))
        else:
            shape[axis] = site.unknown(axis)
    return Fact(first.dtype, tuple(shape))


def _scaled(size: Size, factor: Element, unknown: Size) -> Size:
    """Return a size times a scale, rounded down, where floats cannot make another number of it."""
    if isinstance(factor, int):
        return size * factor
    if isinstance(factor, float):
        exact = Fraction(factor)
        if exact.denominator <= 64 and exact > 0:  # a power of two: the product of small numbers is exact
            return floordiv(size * exact.numerator, exact.denominator)
        if isinstance(size, int):
            scaled = size * factor
            if abs(scaled - round(scaled)) > 1e-3:
                return int(scaled)
    return unknown


def relate_resize(site: NodeAxes) -> Iterator[Relation]:
    """Yield which axes keep their places: those that are scaled by 1; the others are frozen."""
    source, result = site.source_and_result()
    yield from site.freeze_settings()
    node = site.node
    cropped = read(site, "coordinate_transformation_mode") == "tf_crop_and_resize"
    numbers = site.elements(len(node.inputs) - 1)
    constant = numbers is not None and None not in numbers
    factors = dict(zip(resize_axes(site, len(source)), resize_scales(site) or (), strict=False))
    for left, right in zip(source, result, strict=True):
        size = site.size(left)
        same = factors.get(left.position) == 1 or (constant and size is not None and size == site.size(right))
        if same and not cropped:
            yield Equal(left, right)
        else:
            yield from site.freeze((left, right), FreezeCode.RESIZED)


def resize_constancy(node: ir.Node) -> Constancy:
    """Resize: a constant is kept where it is not cropped, and the weights add up to 1 and are never negative."""
    if attribute(node, "coordinate_transformation_mode") == "tf_crop_and_resize":
        return Constancy.LOST  # what lies outside of the image is another number
    return Constancy.KEPT if attribute(node, "mode") in INTERPOLATIONS else Constancy.ZERO_KEPT


def resize_resize(cut: Cut, node: ir.Node) -> None:
    """Write the new sizes where they are told."""
    site = NodeAxes(node)
    sizes, result = site.elements(3), node.outputs[0]
    if sizes and "axes" in node.attributes and result.shape is not None and None not in sizes:
        axes = resize_axes(site, len(result.shape))
        lengths = [cut.length(result, axis) for axis in axes]
        left = [size if length is None else length for size, length in zip(sizes, lengths, strict=True)]
        cut.write(node, "sizes", 3, [size for size in left if isinstance(size, int)])
    elif sizes:
        cut.write_shape(node, "sizes", 3)


def largest_resize(arrays: Sequence[npt.NDArray[Any]]) -> float:
    """Return the elements by the sizes, or the scales, which come last."""
    product = math.prod(map(float, arrays[-1].reshape(-1).tolist()))
    return product if arrays[-1].dtype.kind == "i" else arrays[0].size * product


OPS = {
    ("", "Expand"): Op(expand, relate_expand, shape_input=1),
    ("", "Tile"): Op(tile, relate_tile),
    ("", "Pad"): Op(
        pad, relate_pad, resize_pad, largest=largest_pad, constancy=lambda _: Constancy.KEPT, fill=pad_fill
    ),
    ("", "Resize"): Op(
        resize, relate_resize, resize_resize, {"axes": all_axes}, largest_resize, constancy=resize_constancy
    ),
    ("", "Upsample"): Op(resize, relate_resize, resize_resize, largest=largest_resize, constancy=resize_constancy),
}
