"""Ops that slide a window over space: convolutions and pooling."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import MappingProxyType

import onnx_ir as ir

from onnxslim.ops.arithmetic import ceildiv, floordiv
from onnxslim.ops.fact import Fact, NodeFacts, ShapeRule, Unknowable
from onnxslim.ops.op import Constancy, Default, Ints, Op, Repeated, shape_of_input
from onnxslim.ops.parameters import NodeReader, attribute, read
from onnxslim.ops.relations import NodeAxes
from onnxslim.ops.symbols import Size, exact_quotient, product


@dataclasses.dataclass(frozen=True)
class Window:
    """A window that slides over space, as numbers for each spatial axis; the definition is that of Conv in ONNX."""

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    fixed_pads: tuple[tuple[int, int], ...] | None
    """Zeros before and after each axis; None where they depend on the size of the image (SAME)."""
    upper: bool = False
    """Of zeros that depend on it, one more goes behind an axis where they are odd, and not before it."""
    kernel: tuple[int, ...] = ()

    @classmethod
    def of(cls, site: NodeReader, rank: int, kernel: Sequence[int] = ()) -> Window:
        """Return the window of a node over so many spatial axes, whose kernel has these sizes."""
        numbers = tuple(read(site, "pads", ())) or (0,) * (2 * rank)
        auto_pad = read(site, "auto_pad", "NOTSET")
        pads = tuple(zip(numbers[:rank], numbers[rank:], strict=True)) if auto_pad == "NOTSET" else ((0, 0),) * rank
        return cls(
            tuple(read(site, "strides", ())) or (1,) * rank,
            tuple(read(site, "dilations", ())) or (1,) * rank,
            None if auto_pad.startswith("SAME") else pads,
            auto_pad == "SAME_UPPER",
            tuple(kernel),
        )

    @property
    def padded(self) -> bool:
        """Whether windows reach beyond the image."""
        return self.fixed_pads is None or any(map(any, self.fixed_pads))

    @property
    def spans(self) -> tuple[int, ...]:
        """How far the window reaches along each axis, dilation included."""
        return tuple((size - 1) * step + 1 for size, step in zip(self.kernel, self.dilations, strict=True))

    def pads(self, lengths: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """Return how many zeros are added before and after each axis of an image of these lengths."""
        if self.fixed_pads is not None:
            return self.fixed_pads
        pads = []
        for length, span, stride in zip(lengths, self.spans, self.strides, strict=True):
            total = max((-(-length // stride) - 1) * stride + span - length, 0)
            less, more = total // 2, total - total // 2
            pads.append((less, more) if self.upper else (more, less))
        return tuple(pads)

    def places(self, lengths: Sequence[int]) -> tuple[int, ...]:
        """Return how many windows an image of these lengths has along each axis."""
        return tuple(
            (length + sum(pad) - span) // stride + 1
            for length, pad, span, stride in zip(lengths, self.pads(lengths), self.spans, self.strides, strict=True)
        )


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
    window = Window.of(site, len(space))
    pads = window.fixed_pads or (None,) * len(space)
    auto_pad = read(site, "auto_pad", "NOTSET")
    ceil = bool(read(site, "ceil_mode", 0))
    result: list[Size] = []
    for axis, (size, width) in enumerate(zip(space, kernel, strict=True)):
        stride = window.strides[axis]
        try:
            if auto_pad == "VALID" and ceil and exact_quotient(size - width, stride) is None:
                raise Unknowable  # runtimes differ
            result.append(_slid(size, width, stride, window.dilations[axis], pads[axis], ceil and auto_pad == "NOTSET"))
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
        declared = read(site, "kernel_shape", ())
        outputs, _, *kernel = site.fact(weight).shape or (site.unknown(1), 0, *declared)
        kernel = list(declared or kernel)
        if len(kernel) != len(space):
            return Fact(kind, _ordered(site, batch, outputs, [site.unknown(axis + 2) for axis in range(len(space))]))
        return Fact(kind, _ordered(site, batch, outputs, _windows(site, tuple(space), tuple(kernel))))

    return rule


def transposed_convolution(site: NodeFacts) -> Fact:
    """ConvTranspose: what would have to be convolved to give the input."""
    batch, _, *space = site.shape(0)
    _, outputs, *kernel = site.shape(1)
    outputs = outputs * read(site, "group", 1)
    window = Window.of(site, len(space))
    kernel = list(read(site, "kernel_shape", ()) or kernel)
    extra = read(site, "output_padding", ()) or [0] * len(space)
    shape = read(site, "output_shape", ())
    result: list[Size] = []
    for axis, size in enumerate(space):
        reach = (kernel[axis] - 1) * window.dilations[axis] + 1
        if shape:
            result.append(shape[len(shape) - len(space) + axis])
        elif window.fixed_pads is not None:
            result.append((size - 1) * window.strides[axis] + extra[axis] + reach - sum(window.fixed_pads[axis]))
        elif isinstance(reach, int) and reach >= window.strides[axis]:
            result.append(size * window.strides[axis])
        else:
            result.append(site.unknown(axis + 2))  # where the stride is larger than the window, runtimes differ
    return Fact(site.fact(0).dtype, (batch, outputs, *result))


def transposed_before(
    site: NodeReader, window: Window, places: Sequence[int], lengths: Sequence[int]
) -> tuple[int, ...]:
    """Return how much ConvTranspose cuts off before each axis of a result of these lengths, given so many places."""
    if window.fixed_pads is not None and not read(site, "output_shape", ()):
        return tuple(before for before, _ in window.fixed_pads)
    extra = read(site, "output_padding", ()) or [0] * len(places)
    parts = zip(places, window.strides, extra, window.spans, lengths, strict=True)
    totals = [max((count - 1) * stride + more + span - length, 0) for count, stride, more, span, length in parts]
    return tuple(total // 2 if window.upper else total - total // 2 for total in totals)


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


def average_constancy(node: ir.Node) -> Constancy:
    """AveragePool: a constant is kept, but where zeros of the padding are averaged with it."""
    rank = len(read(NodeAxes(node), "kernel_shape"))
    counts_padding = bool(attribute(node, "count_include_pad")) and Window.of(NodeAxes(node), rank).padded
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
