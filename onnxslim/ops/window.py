"""Ops that slide a window over space: convolutions and pooling; and those that stretch space."""

from __future__ import annotations

from fractions import Fraction

import onnx_ir as ir

from onnxslim.ops.arithmetic import ceildiv, floordiv
from onnxslim.ops.fact import Element, Fact, NodeFacts, ShapeRule, Unknowable
from onnxslim.ops.symbols import Expression, Size, exact_quotient


def _slid(size: Size, kernel: Size, stride: int, dilation: int, pads: tuple[int, int] | None, ceil: bool) -> Size:
    """Return how often a window fits, at least once; `pads` None: as often as there are strides (SAME)."""
    if pads is None:
        return ceildiv(size, stride)
    before, after = pads
    room = size + (before + after) - (kernel - 1) * dilation - 1
    if isinstance(room, int) and room < 0:
        raise Unknowable  # runtimes differ
    if not ceil:
        return floordiv(room, stride) + 1
    count = ceildiv(room, stride) + 1
    if not isinstance(count, int) or not isinstance(size, int):
        raise Unknowable  # the last window is dropped where it would begin in the padding: the algebra has no if
    return count - 1 if (count - 1) * stride >= size + before else count


def _windows(site: NodeFacts, space: tuple[Size, ...], kernel: tuple[Size, ...]) -> tuple[Size, ...]:
    rank = len(space)
    strides = site.attribute("strides") or [1] * rank
    dilations = site.attribute("dilations") or [1] * rank
    held = site.attribute("pads") or [0] * (2 * rank)
    auto = site.attribute("auto_pad", "NOTSET")
    ceil = bool(site.attribute("ceil_mode", 0))
    result: list[Size] = []
    for axis, (size, width) in enumerate(zip(space, kernel, strict=True)):
        pads: tuple[int, int] | None = (held[axis], held[axis + rank])
        if auto == "VALID":
            pads = (0, 0)
        elif auto.startswith("SAME"):
            pads = None
        try:
            if auto == "VALID" and ceil and exact_quotient(size - width, strides[axis]) is None:
                raise Unknowable  # runtimes differ
            result.append(_slid(size, width, strides[axis], dilations[axis], pads, ceil and auto == "NOTSET"))
        except Unknowable:
            result.append(site.unknown(axis + 2))
    return tuple(result)


def convolution(data: int = 0, weight: int = 1, dtype: ir.DataType | None = None, like: int = 0) -> ShapeRule:
    """Return the rule of an op that convolves: where its data and weights are, and the type of what it makes."""

    def rule(site: NodeFacts) -> Fact:
        batch, _, *space = site.shape(data)
        kind = dtype or site.fact(like).dtype
        held = site.attribute("kernel_shape")
        outputs, _, *kernel = site.fact(weight).shape or (site.unknown(1), 0, *(held or ()))
        if held is not None:
            kernel = list(held)
        if len(kernel) != len(space):
            return Fact(kind, (batch, outputs, *(site.unknown(axis + 2) for axis in range(len(space)))))
        return Fact(kind, (batch, outputs, *_windows(site, tuple(space), tuple(kernel))))

    return rule


def transposed_convolution(site: NodeFacts) -> Fact:
    """ConvTranspose: what would have to be convolved to give the input."""
    batch, _, *space = site.shape(0)
    _, outputs, *kernel = site.shape(1)
    outputs = outputs * site.attribute("group", 1)
    rank = len(space)
    kernel = list(site.attribute("kernel_shape") or kernel)
    strides = site.attribute("strides") or [1] * rank
    dilations = site.attribute("dilations") or [1] * rank
    extra = site.attribute("output_padding") or [0] * rank
    pads = site.attribute("pads") or [0] * (2 * rank)
    auto = site.attribute("auto_pad", "NOTSET")
    told = site.attribute("output_shape")
    result: list[Size] = []
    for axis in range(rank):
        if told is not None:
            result.append(told[len(told) - rank + axis])
        elif auto.startswith("SAME"):
            result.append(site.unknown(axis + 2))  # where the stride is larger than the window, runtimes differ
        else:
            cut = 0 if auto == "VALID" else pads[axis] + pads[axis + rank]
            reach = (kernel[axis] - 1) * dilations[axis] + 1
            result.append((space[axis] - 1) * strides[axis] + extra[axis] + reach - cut)
    return Fact(site.fact(0).dtype, (batch, outputs, *result))


def pooling(site: NodeFacts) -> tuple[Fact, ...]:
    """MaxPool, AveragePool, LpPool: a window over each channel; MaxPool says also where, if asked."""
    first, shape = site.fact(0), site.shape()
    space = _windows(site, shape[2:], tuple(site.attribute("kernel_shape")))
    places = Fact(ir.DataType.INT64, (*shape[:2], *space))
    return (Fact(first.dtype, (*shape[:2], *space)), places)[: len(site.node.outputs)]


def global_pooling(site: NodeFacts) -> Fact:
    """Global*Pool: space shrinks to one place."""
    batch, channels, *space = site.shape()
    return Fact(site.fact(0).dtype, (batch, channels, *[1] * len(space)))


def resize(site: NodeFacts) -> Fact:
    """Resize, Upsample: the sizes that are told, or the old ones times the scales, rounded down."""
    first, shape = site.fact(0), list(site.shape())
    axes = site.attribute("axes") or range(len(shape))
    held = site.attribute("scales")
    at = 2 if len(site.facts) > 2 else 1
    sizes: tuple[Element, ...] | None = site.elements(3) if site.has(3) else None
    factors: tuple[Element, ...] | None = None
    if sizes is not None and site.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        return Fact(first.dtype, site.unknowns(len(shape)))
    if sizes and len(sizes) != len(axes):
        return Fact(first.dtype, site.unknowns(len(shape)))
    if not sizes:
        factors = _fractions(held) if held is not None else site.fact(at).elements if site.has(at) else None
    for place, axis in enumerate(axes):
        size = shape[axis]
        told = sizes[place] if sizes else None
        factor = factors[place] if factors and place < len(factors) else None
        if isinstance(told, (int, Expression)):
            shape[axis] = told
        elif factor is not None and not site.has(3):
            shape[axis] = _scaled(size, factor, site.unknown(axis))
        else:
            shape[axis] = site.unknown(axis)
    return Fact(first.dtype, tuple(shape))


def _fractions(values: list[float]) -> tuple[Element, ...]:
    return tuple(int(value) if value == int(value) else float(value) for value in values)


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


def roi_align(site: NodeFacts) -> Fact:
    """RoiAlign: one window for each region."""
    _, channels, *_ = site.shape(0)
    regions = site.shape(1)[0]
    sizes = (site.attribute("output_height", 1), site.attribute("output_width", 1))
    return Fact(site.fact(0).dtype, (regions, channels, *sizes))


RULES: dict[tuple[str, str], ShapeRule] = {
    ("", "Conv"): convolution(),
    ("", "ConvInteger"): convolution(dtype=ir.DataType.INT32),
    ("", "QLinearConv"): convolution(weight=3, like=7),
    ("com.microsoft", "FusedConv"): convolution(),
    ("", "ConvTranspose"): transposed_convolution,
    ("", "MaxPool"): pooling,
    ("", "AveragePool"): pooling,
    ("", "LpPool"): pooling,
    ("", "GlobalAveragePool"): global_pooling,
    ("", "GlobalMaxPool"): global_pooling,
    ("", "GlobalLpPool"): global_pooling,
    ("", "Resize"): resize,
    ("", "Upsample"): resize,
    ("", "RoiAlign"): roi_align,
}
"""The rules of this theme, by domain and op."""
