"""Gradients of ops that rename, order, join, part, repeat and frame axes: each is another movement, or a sum."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxslim.ops.fact import Unknowable, axis_of
from onnxslim.ops.families.movement import permutation
from onnxslim.ops.gradient import Declined, Gradient, GradientSite, static_shape
from onnxslim.ops.parameters import integers, read
from onnxslim.ops.signatures import OpName

Gradients = Mapping[int, ir.Value | None]


def reshaped(site: GradientSite) -> Gradients:
    """Reshape and its kin: the elements stay in their order."""
    return {0: site.reshape(site.incoming(), site.shape())}


def transposed(site: GradientSite) -> Gradients:
    """Transpose: the axes go back."""
    order = permutation(site, len(site.shape()))
    return {0: site.transpose(site.incoming(), [order.index(axis) for axis in range(len(order))])}


def expanded(site: GradientSite) -> Gradients:
    """Expand: what came of one element is summed."""
    return {0: site.sum_to(site.incoming(), site.shape())}


def tiled(site: GradientSite) -> Gradients:
    """Tile: what came of one element lies as far apart as the axis is long."""
    shape = site.shape()
    repeats = integers(site, "repeats", 1)
    if repeats is None:
        raise Unknowable
    parts = [(count, size) if count != 1 else (size,) for count, size in zip(repeats, shape, strict=True)]
    starts = itertools.accumulate(map(len, parts), initial=0)
    axes = [start for start, part in zip(starts, parts, strict=False) if len(part) == 2]
    return {0: site.sum(site.reshape(site.incoming(), [*itertools.chain(*parts)]), axes)}


def concatenated(site: GradientSite) -> Gradients:
    """Concat: each input gets its part."""
    axis = axis_of(read(site, "axis"), len(site.result_shape()))
    lengths = [site.shape(index)[axis] for index in range(len(site.node.inputs))]
    incoming = site.incoming()
    if len(lengths) == 1:
        return {0: incoming}
    if len(site.wanted) > 1:
        return dict(enumerate(site.ops("Split", incoming, lengths, count=len(lengths), axis=axis)))
    starts = [*itertools.accumulate(lengths, initial=0)]
    return {index: site.cut(incoming, axis, starts[index], starts[index + 1]) for index in site.wanted}


def parted(site: GradientSite) -> Gradients:
    """Split: the parts one behind the other; zeros for those that nothing hangs on."""
    axis = axis_of(read(site, "axis"), len(site.shape()))
    known = [index for index, value in enumerate(site.upstream) if value is not None]
    sizes = [site.result_shape(index)[axis] for index in range(len(site.node.outputs))]
    if len(known) > 1:
        parts = [site.incoming(index) for index in range(len(site.node.outputs))]
        return {0: site.op("Concat", *parts, axis=axis)}
    before, after = ([0] * len(site.shape()) for _ in range(2))
    before[axis], after[axis] = sum(sizes[: known[0]]), sum(sizes[known[0] + 1 :])
    return {0: site.padded(site.incoming(known[0]), before, after)}


# Pad


def padded(site: GradientSite) -> Gradients:
    """Pad: the frame goes; what was copied into it comes back to where it was taken from."""
    shape = site.shape()
    axes = integers(site, "axes", 3)
    pads = integers(site, "pads", 1)
    if pads is None:
        raise Unknowable
    axes = tuple(range(len(shape))) if axes is None else tuple(axis_of(axis, len(shape)) for axis in axes)
    before, after = ([0] * len(shape) for _ in range(2))
    for place, axis in enumerate(axes):
        before[axis], after[axis] = pads[place], pads[len(axes) + place]
    mode = read(site, "mode")
    incoming = site.incoming()
    if mode != "constant":
        for axis, (first, last) in enumerate(zip(before, after, strict=True)):
            incoming = _unframed(site, incoming, axis, (first, last), str(mode))
        return {0: incoming}
    found: dict[int, ir.Value | None] = {0: _unpadded(site, incoming, before, after)}
    if 2 in site.wanted:
        frame = site.op("Pad", site.zeros(site.operand()), [*before, *after], 1.0)
        every = range(len(shape))
        found[2] = site.reshape(site.sum(site.op("Mul", incoming, frame), every), site.shape(2))
    return found


def _unpadded(site: GradientSite, value: ir.Value, before: Sequence[int], after: Sequence[int]) -> ir.Value:
    """Take away so many places before and after each axis; negative numbers add zeros."""
    if min((*before, *after), default=0) < 0:
        return site.padded(value, [-number for number in before], [-number for number in after])
    axes = [axis for axis, pads in enumerate(zip(before, after, strict=True)) if any(pads)]
    if not axes:
        return value
    shape = static_shape(value)
    starts, ends = [before[axis] for axis in axes], [shape[axis] - after[axis] for axis in axes]
    return site.op("Slice", value, starts, ends, axes)


def _unframed(site: GradientSite, value: ir.Value, axis: int, pads: tuple[int, int], mode: str) -> ir.Value:
    """Add what is in the frame along one axis to the places that it was copied from."""
    before, after = pads
    length = static_shape(value)[axis]
    size = length - before - after
    if min(pads) < 0:
        raise Declined(f"it cuts with mode {mode}, of which runtimes have different notions")
    if not any(pads):
        return value
    if mode != "edge" and max(pads) > size - (mode == "reflect"):
        raise Declined(f"it copies more of an axis than there is (mode {mode})")
    # Where the frame was copied from: (first place) of what lies before, and of what lies behind.
    sources = {"edge": (0, size - 1), "reflect": (1, size - 1 - after), "wrap": (size - before, 0)}[mode]
    parts = [site.cut(value, axis, before, before + size)]
    ends = (0, before, sources[0]), (length - after, length, sources[1])
    for start, stop, source in ends:
        if start == stop:
            continue
        part = site.cut(value, axis, start, stop)
        if mode == "edge":
            part = site.sum(part, [axis], keep=True)
        elif mode == "reflect":
            part = reversed_along(site, part, [axis])
        parts.append(site.padded(part, *_around(part, axis, source, size)))
    return site.op("Sum", *parts)


def _around(part: ir.Value, axis: int, start: int, size: int) -> tuple[list[int], list[int]]:
    """Return how far a part of an axis, from `start` on, is from the ends of that axis, and of the others: 0."""
    shape = static_shape(part)
    before, after = [0] * len(shape), [0] * len(shape)
    before[axis], after[axis] = start, size - start - shape[axis]
    return before, after


def reversed_along(site: GradientSite, value: ir.Value, axes: Sequence[int]) -> ir.Value:
    """Return a value with some of its axes backwards."""
    if not axes:
        return value
    ones = [-1] * len(axes)
    return site.op("Slice", value, ones, [-(2**63 - 1)] * len(axes), list(axes), ones)


# Blocks, orders


def depth_to_space(site: GradientSite) -> Gradients:
    """DepthToSpace: blocks become channels again, in the order of the mode."""
    block = read(site, "blocksize")
    incoming = site.incoming()
    if read(site, "mode") == "DCR":
        return {0: site.op("SpaceToDepth", incoming, blocksize=block)}
    batch, channels, height, width = static_shape(incoming)
    parts = site.reshape(incoming, (batch, channels, height // block, block, width // block, block))
    return {0: site.reshape(site.transpose(parts, (0, 1, 3, 5, 2, 4)), site.shape())}


def space_to_depth(site: GradientSite) -> Gradients:
    """SpaceToDepth: channels become blocks again."""
    return {0: site.op("DepthToSpace", site.incoming(), blocksize=read(site, "blocksize"))}


def reversed_sequences(site: GradientSite) -> Gradients:
    """ReverseSequence: backwards again."""
    axes = {name: read(site, name) for name in ("batch_axis", "time_axis")}
    return {0: site.op("ReverseSequence", site.incoming(), site.operand(1), **axes)}


def triangle(site: GradientSite) -> Gradients:
    """Trilu: the same triangle."""
    diagonal = site.operand(1) if site.has(1) else None
    return {0: site.op("Trilu", site.incoming(), diagonal, upper=read(site, "upper"))}


GRADIENTS: Mapping[OpName, Gradient] = {
    ("", "Reshape"): reshaped,
    ("", "Flatten"): reshaped,
    ("", "Squeeze"): reshaped,
    ("", "Unsqueeze"): reshaped,
    ("", "Transpose"): transposed,
    ("", "Expand"): expanded,
    ("", "Tile"): tiled,
    ("", "Concat"): concatenated,
    ("", "Split"): parted,
    ("", "Pad"): padded,
    ("", "DepthToSpace"): depth_to_space,
    ("", "SpaceToDepth"): space_to_depth,
    ("", "ReverseSequence"): reversed_sequences,
    ("", "Trilu"): triangle,
}
