"""Ops that slide a window over space: convolutions and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from onnxslim.ops.arithmetic import ceildiv, floordiv
from onnxslim.ops.fact import Fact, NodeFacts, ShapeRule, Unknowable
from onnxslim.ops.op import Constancy, Default, Ints, Op, Repeated, shape_of_input
from onnxslim.ops.parameters import attribute, read
from onnxslim.ops.symbols import Size, exact_quotient, product


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
    strides = read(site, "strides", ()) or [1] * rank
    dilations = read(site, "dilations", ()) or [1] * rank
    held = read(site, "pads", ()) or [0] * (2 * rank)
    auto = read(site, "auto_pad", "NOTSET")
    ceil = bool(read(site, "ceil_mode", 0))
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


def _channels_last(site: NodeFacts) -> bool:
    """Whether the last axis holds the channels, as some ops of ONNX Runtime have it."""
    return bool(site.node.domain) and (site.node.op_type.startswith("Nhwc") or bool(read(site, "channels_last", 0)))


def _image(site: NodeFacts) -> tuple[Size, Size, list[Size]]:
    """Return batch, channels and space of the first input."""
    batch, *rest = site.shape()
    return (batch, rest[-1], rest[:-1]) if _channels_last(site) else (batch, rest[0], rest[1:])


def _ordered(site: NodeFacts, batch: Size, channels: Size, space: Sequence[Size]) -> tuple[Size, ...]:
    return (batch, *space, channels) if _channels_last(site) else (batch, channels, *space)


def convolution(weight: int = 1, dtype: ir.DataType | None = None, like: int = 0) -> ShapeRule:
    """Return the rule of an op that convolves: where its weights are, and the type of what it makes."""

    def rule(site: NodeFacts) -> Fact:
        batch, _, space = _image(site)
        kind = dtype or site.fact(like).dtype
        held = read(site, "kernel_shape", ())
        outputs, _, *kernel = site.fact(weight).shape or (site.unknown(1), 0, *held)
        if held:
            kernel = list(held)
        if len(kernel) != len(space):
            return Fact(kind, _ordered(site, batch, outputs, [site.unknown(axis + 2) for axis in range(len(space))]))
        return Fact(kind, _ordered(site, batch, outputs, _windows(site, tuple(space), tuple(kernel))))

    return rule


def transposed_convolution(site: NodeFacts) -> Fact:
    """ConvTranspose: what would have to be convolved to give the input."""
    batch, _, *space = site.shape(0)
    _, outputs, *kernel = site.shape(1)
    outputs = outputs * read(site, "group", 1)
    rank = len(space)
    kernel = list(read(site, "kernel_shape", ()) or kernel)
    strides = read(site, "strides", ()) or [1] * rank
    dilations = read(site, "dilations", ()) or [1] * rank
    extra = read(site, "output_padding", ()) or [0] * rank
    pads = read(site, "pads", ()) or [0] * (2 * rank)
    auto = read(site, "auto_pad", "NOTSET")
    told = read(site, "output_shape", ())
    result: list[Size] = []
    for axis in range(rank):
        if told:
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
    batch, channels, space = _image(site)
    shape = _ordered(site, batch, channels, _windows(site, tuple(space), tuple(read(site, "kernel_shape"))))
    facts = (Fact(site.fact(0).dtype, shape), Fact(ir.DataType.INT64, shape))
    return facts[: len(site.node.outputs)]


def global_pooling(site: NodeFacts) -> Fact:
    """Global*Pool: space shrinks to one place."""
    batch, channels, space = _image(site)
    return Fact(site.fact(0).dtype, _ordered(site, batch, channels, [1] * len(space)))


def roi_align(site: NodeFacts) -> Fact:
    """RoiAlign: one window for each region."""
    _, channels, *_ = site.shape(0)
    regions = site.shape(1)[0]
    sizes = (read(site, "output_height", 1), read(site, "output_width", 1))
    return Fact(site.fact(0).dtype, (regions, channels, *sizes))


def max_roi_pool(site: NodeFacts) -> Fact:
    """MaxRoiPool: one window for each region."""
    return Fact(site.fact(0).dtype, (site.shape(1)[0], site.shape(0)[1], *read(site, "pooled_shape")))


def columns_to_image(site: NodeFacts) -> Fact:
    """Col2Im: each channel has an element of each place in a block, which lie in an image as large as told."""
    batch, columns, _ = site.shape()
    block = product(site.sizes(2))
    channels = exact_quotient(columns, block)
    return Fact(site.fact(0).dtype, (batch, site.unknown(1) if channels is None else channels, *site.sizes(1)))


def pads(node: ir.Node) -> bool:
    """Whether the windows of a node reach beyond its input."""
    return any(np.ravel(attribute(node, "pads") or 0)) or attribute(node, "auto_pad") not in (None, "NOTSET", "VALID")


def average_constancy(node: ir.Node) -> Constancy:
    """AveragePool: a constant is kept, but where zeros of the padding are averaged with it."""
    counts_padding = bool(attribute(node, "count_include_pad")) and pads(node)
    return Constancy.ZERO_KEPT if counts_padding or attribute(node, "ceil_mode") else Constancy.KEPT


def _window_of(weight: int) -> Default:
    """Return what says the window that a weight is made for; its first two axes are channels."""

    def window(node: ir.Node) -> Ints | None:
        shape = shape_of_input(node, weight)
        return None if shape is None or None in shape else tuple(size for size in shape[2:] if size is not None)

    return window


SLIDING = MappingProxyType({"strides": Repeated(1), "dilations": Repeated(1), "pads": Repeated(0, times=2)})


def _convolving(weight: int = 1, **others: Default) -> dict[str, Default]:
    return {**SLIDING, "kernel_shape": _window_of(weight), **others}


OPS = {
    ("", "Conv"): Op(convolution(), defaults=_convolving()),
    ("", "ConvInteger"): Op(convolution(dtype=ir.DataType.INT32), defaults=_convolving()),
    ("", "QLinearConv"): Op(convolution(weight=3, like=7), defaults=_convolving(weight=3)),
    ("", "DeformConv"): Op(convolution(), defaults=_convolving()),
    ("com.microsoft", "FusedConv"): Op(convolution()),
    ("", "ConvTranspose"): Op(transposed_convolution, defaults=_convolving(output_padding=Repeated(0))),
    ("", "MaxPool"): Op(pooling, defaults=SLIDING),
    ("", "AveragePool"): Op(pooling, defaults=SLIDING, constancy=average_constancy),
    ("", "LpPool"): Op(pooling, defaults=SLIDING),
    ("", "GlobalAveragePool"): Op(global_pooling),
    ("", "GlobalMaxPool"): Op(global_pooling),
    ("", "GlobalLpPool"): Op(global_pooling),
    ("", "MaxUnpool"): Op(defaults={"strides": Repeated(1), "pads": Repeated(0, times=2)}),
    ("", "RoiAlign"): Op(roi_align),
    ("", "MaxRoiPool"): Op(max_roi_pool),
    ("", "Col2Im"): Op(columns_to_image),
    ("com.microsoft", "NhwcMaxPool"): Op(pooling),
    ("com.microsoft", "QLinearAveragePool"): Op(pooling),
    ("com.microsoft", "QLinearGlobalAveragePool"): Op(global_pooling),
    ("com.microsoft", "QLinearConv"): Op(convolution(weight=3, like=7)),
}
