"""Convolutions whose kernels are no constants, as ONNX Runtime's CPU provider computes them fastest.

It lays constant kernels out for its blocked layout (NCHWc: the channels of a block lie beside each other) when it opens
a model. In a training step kernels are inputs, and it multiplies matrices for each image instead. Here the nodes are
built that it would have made. Their domain is internal to it: `onnxslim.runtime.blocked` finds out whether it has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from onnxslim.ops.gradient import GradientSite, static_shape
from onnxslim.ops.parameters import read
from onnxslim.ops.signatures import OpName
from onnxslim.ops.sliding import Sliding

DOMAIN = "com.microsoft.nchwc"
LEAST_PLACES = 1024
"""Of a kernel in all images of a batch: with fewer, laying out the kernel anew in each run takes longer than what the
blocked kernels save. A step of ResNet-18 with batches of 16 takes 66 ms and not 64 with 256 of them."""
FEW_PLACES = 16
"""Of a kernel in one image: with so few, one product for all images is faster, if the kernel is the larger factor.
ONNX Runtime goes through it once for each image: for 16 images of 2x2 and 3x3x512x512 11.3 ms and not 3.2."""

Enter = Callable[[ir.Value], ir.Value]
"""Returns a value in the blocked layout."""


def as_product(site: GradientSite) -> ir.Value | None:
    """Return what a Conv makes as one product of matrices; None where that is no faster."""
    image, kernel, result = site.shape(0), site.shape(1), site.result_shape()
    places = math.prod(result[2:])
    rows, columns = image[0] * places, math.prod(kernel[1:])
    if read(site, "group", 1) != 1 or places > FEW_PLACES or rows >= kernel[0]:
        return None
    sliding = Sliding.of(site, kernel[2:], image[2:], result[2:])
    rank = sliding.rank
    last = site.op("Transpose", site.operand(0), perm=[0, *range(2, 2 + rank), 1])
    reads = [site.reshape(each, [rows, kernel[1], 1]) for each in sliding.reads(site, last, 1)]
    beside = reads[0] if len(reads) == 1 else site.op("Concat", *reads, axis=-1)
    left = site.reshape(site.operand(1), [kernel[0], columns])
    product = site.op("MatMul", left, site.op("Transpose", site.reshape(beside, [rows, columns]), perm=[1, 0]))
    product = site.reshape(product, [kernel[0], image[0], *result[2:]])
    product = site.op("Transpose", product, perm=[1, 0, *range(2, 2 + rank)])
    if not site.has(2):
        return product
    return site.op("Add", product, site.reshape(site.operand(2), [1, kernel[0], *[1] * rank]))


def blocked_convolution(site: GradientSite, enter: Enter, block: int, activation: str | None) -> ir.Value | None:
    """Return what a Conv makes in the blocked layout; None where it does not go, or is no faster."""
    kernel, result = site.shape(1), site.result_shape()
    if not _fits(site, kernel[0], kernel[1], block):
        return None
    sliding = Sliding.of(site, kernel[2:], site.shape(0)[2:], result[2:])
    split = [kernel[0] // block, block, kernel[1] * math.prod(kernel[2:])]
    laid = _laid_out(site, kernel, split, [0, 2, 1])
    bias = site.operand(2) if site.has(2) else None
    return _convolved(site, enter(site.operand()), laid, bias, sliding, activation)


def blocked_transposed(site: GradientSite, enter: Enter, block: int, activation: str | None) -> ir.Value | None:
    """Return what a ConvTranspose with strides of 1 makes: a convolution with the kernel turned around."""
    kernel, result, places = site.shape(1), site.result_shape(), site.shape(0)
    told = read(site, "auto_pad", "NOTSET") == "NOTSET" and not read(site, "output_shape", ())
    if not told or site.has(2) or not _fits(site, kernel[1], kernel[0], block):
        return None
    rank = len(kernel) - 2
    before = read(site, "pads", ()) or (0,) * 2 * rank
    strides, dilations = (read(site, name, ()) or (1,) * rank for name in ("strides", "dilations"))
    spans = [(size - 1) * step + 1 for size, step in zip(kernel[2:], dilations, strict=True)]
    around = tuple(span - 1 - first for span, first in zip(spans, before, strict=False))
    sliding = Sliding(kernel[2:], tuple(strides), tuple(dilations), around, places[2:], result[2:])
    if set(strides) != {1} or any(read(site, "output_padding", ())) or min(*around, *sliding.after) < 0:
        return None
    outputs, inputs, elements = kernel[1] // block, kernel[0] // block, math.prod(kernel[2:])
    split, turned = [inputs, block, outputs, elements, block], (kernel[1], kernel[0], *kernel[2:])
    laid = _laid_out(site, turned, split, [2, 0, 3, 1, 4], elements)
    return _convolved(site, enter(site.operand()), laid, None, sliding, activation)


def _laid_out(
    site: GradientSite, shape: Sequence[int], split: Sequence[int], order: Sequence[int], turned: int = 1
) -> ir.Value:
    """Return the kernel of a convolution as the blocked layout has it.

    It is brought into blocks of the second axis as an image is: a transposition that moves several axes, and the last
    one, takes 10 to 25 times as long in ONNX Runtime, which also makes one of two that follow each other.

    Args:
        site: Builds the nodes.
        shape: What the result is told to be: outputs, inputs, window.
        split: The axes of the kernel [m, n / block, *window, block], as they are then moved.
        order: How they are moved.
        turned: The places of the window, along axis 2 by then, that are put the other way round.
    """
    kernel = site.operand(1)
    blocks = like(site.op("ReorderInput", kernel, domain=DOMAIN), kernel)
    parts = site.reshape(blocks, split)
    moved = [parts, site.op("Transpose", parts, perm=[*order])]
    if turned > 1:
        moved.append(site.op("Gather", moved[-1], list(reversed(range(turned))), axis=2))
    moved.append(site.reshape(moved[-1], shape))
    for value in moved:  # of what an internal op makes nothing is inferred
        value.type = kernel.type
    return moved[-1]


def _fits(site: GradientSite, outputs: int, inputs: int, block: int) -> bool:
    """Whether a convolution in two dimensions has whole blocks of channels, and enough to do."""
    shape = site.result_shape()
    enough = shape[0] * math.prod(shape[2:]) >= LEAST_PLACES
    whole = outputs % block == 0 and inputs % block == 0 and read(site, "group", 1) == 1
    return len(shape) == 4 and whole and enough and site.operand().dtype is ir.DataType.FLOAT


def _convolved(
    site: GradientSite,
    image: ir.Value,
    kernel: ir.Value,
    bias: ir.Value | None,
    sliding: Sliding,
    activation: str | None,
) -> ir.Value:
    result = site.op(
        "Conv",
        image,
        kernel,
        bias,
        domain=DOMAIN,
        auto_pad="NOTSET",
        kernel_shape=[*sliding.kernel],
        group=1,
        activation=activation,
        **sliding.attributes(),
    )
    return like(result, site.node.outputs[0])


def like(value: ir.Value, other: ir.Value, shape: Sequence[int] | None = None) -> ir.Value:
    """Return a value that has the type of another, and its shape or one that is told; nothing is inferred of the
    domain."""
    value.type, value.shape = other.type, ir.Shape(static_shape(other) if shape is None else shape)
    return value


BLOCKED: Mapping[OpName, Callable[[GradientSite, Enter, int, str | None], ir.Value | None]] = {
    ("", "Conv"): blocked_convolution,
    ("", "ConvTranspose"): blocked_transposed,
}
"""Builds a node in the blocked layout, given the channels of a block, and the activation of its result or None."""
PRODUCTS: Mapping[OpName, Callable[[GradientSite], ir.Value | None]] = {("", "Conv"): as_product}
"""Builds a node as a product of matrices."""
