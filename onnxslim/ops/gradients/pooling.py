"""Gradients of pooling: what comes back to a place is given to the elements that it was made of."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Array
from onnxslim.ops.fact import Unknowable
from onnxslim.ops.families.window import Window
from onnxslim.ops.gradient import Gradient, GradientSite
from onnxslim.ops.parameters import integers, read
from onnxslim.ops.signatures import OpName
from onnxslim.ops.sliding import Sliding


def largest(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """MaxPool (x): to the largest element of each window, whose place the second result tells."""
    x, shape = site.operand(), site.shape()
    assert x.dtype is not None
    empty = site.op("ConstantOfShape", [math.prod(shape)], value=ir.tensor(np.zeros(1, x.dtype.numpy())))
    places, incoming = site.reshape(site.result(1), [-1]), site.reshape(site.incoming(), [-1])
    given = site.op("ScatterElements", empty, places, incoming, axis=0, reduction="add")
    if not read(site, "storage_order"):
        return {0: site.reshape(given, shape)}
    space = range(2, len(shape))  # places count along the first axis of space first
    given = site.reshape(given, [*shape[:2], *reversed(shape[2:])])
    return {0: site.op("Transpose", given, perm=[0, 1, *reversed(space)])}


def average(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """AveragePool (x): to each element of a window, divided by how many there are."""
    x, sliding = site.operand(), _sliding(site)
    assert x.dtype is not None
    shares = np.asarray(1 / np.maximum(_inside(sliding), 1), x.dtype.numpy())
    if (shares == shares.flat[0]).all():
        shares = shares.flat[0].reshape(())
    incoming = site.op("Mul", site.incoming(), shares)
    if read(site, "count_include_pad") and any(sliding.pads):
        # What a runtime divides by where windows reach beyond the image, it is best asked itself: the average of ones.
        ones = site.build.constant(np.ones((1, 1, *sliding.lengths), x.dtype.numpy()))
        attributes = {name: attribute.value for name, attribute in site.node.attributes.items()}
        incoming = site.op("Mul", incoming, site.op("AveragePool", ones, **attributes))
    return {0: _spread(site, incoming, sliding)}


def norm(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """LpPool (x): the norm of each window."""
    return {0: _of_norm(site, functools.partial(_spread, site, sliding=_sliding(site)))}


def global_average(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """GlobalAveragePool (x): to each element, divided by how many there are."""
    shape = site.shape()
    share = site.op("Mul", site.incoming(), 1 / max(math.prod(shape[2:]), 1))
    return {0: site.op("Expand", share, list(shape))}


def global_largest(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """GlobalMaxPool (x): to the largest element; equal ones share it."""
    x = site.operand()
    assert x.dtype is not None
    largest = site.op("Cast", site.op("Equal", x, site.result()), to=int(x.dtype))
    count = site.sum(largest, range(2, len(site.shape())), keep=True)
    return {0: site.op("Mul", largest, site.op("Div", site.incoming(), count))}


def global_norm(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """GlobalLpPool (x): the norm of all elements of a channel."""
    return {0: _of_norm(site, lambda value: value)}


def _of_norm(site: GradientSite, spread: Callable[[ir.Value], ir.Value]) -> ir.Value:
    """Return the gradient of a p-norm y: sign(x) |x|^(p - 1) / y^(p - 1), and 0 where all elements are 0."""
    x, y, order, incoming = site.operand(), site.result(), read(site, "p"), site.incoming()
    if order == 1:
        return site.op("Mul", site.op("Sign", x), spread(incoming))
    one = site.build.number(1.0, y)
    divisor = site.op("Where", site.op("Greater", y, 0.0), y, one)
    if order == 2:
        return site.op("Mul", x, spread(site.op("Div", incoming, divisor)))
    power = site.op("Pow", site.op("Abs", x), float(order - 1))
    share = spread(site.op("Div", incoming, site.op("Pow", divisor, float(order - 1))))
    return site.op("Mul", site.op("Mul", site.op("Sign", x), power), share)


def _sliding(site: GradientSite) -> Sliding:
    return Sliding.of(site, tuple(read(site, "kernel_shape")), site.shape()[2:], site.result_shape()[2:])


def _inside(sliding: Sliding) -> Array:
    """Return how many elements of the image each window reads."""
    counts = np.ones((1, 1))
    for axis in range(sliding.rank):
        first = np.arange(sliding.places[axis]) * sliding.strides[axis] - sliding.before[axis]
        read = first[:, None] + np.arange(sliding.kernel[axis]) * sliding.dilations[axis]
        inside = ((read >= 0) & (read < sliding.lengths[axis])).sum(1)
        counts = counts[..., None] * inside
    return counts


def _spread(site: GradientSite, value: ir.Value, sliding: Sliding) -> ir.Value:
    """Return for each element of the image the sum over the windows that read it."""
    shape = site.shape()
    if sliding.tiles:
        split = [(count, size) for count, size in zip(sliding.places, sliding.kernel, strict=True)]
        single = site.reshape(value, [*shape[:2], *itertools.chain.from_iterable((count, 1) for count, _ in split)])
        repeated = site.op("Expand", single, [*shape[:2], *itertools.chain.from_iterable(split)])
        return site.reshape(repeated, shape)
    channels = site.reshape(value, [shape[0] * shape[1], 1, *sliding.places])
    assert value.dtype is not None
    ones = site.build.constant(np.ones((1, 1, *sliding.kernel), value.dtype.numpy()))
    return site.reshape(site.op("ConvTranspose", channels, ones, **sliding.transposed()), shape)


def columns_to_image(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """Col2Im (x, image, block): each element of a block is read where it was added."""
    batch, rows, places = site.shape()
    lengths, kernel = site.result_shape()[2:], integers(site, "block_shape", 2)
    if kernel is None:
        raise Unknowable
    window = Window.of(site, len(lengths), kernel)
    sliding = Sliding.of(site, kernel, lengths, window.places(lengths))
    elements = math.prod(kernel)
    reads = sliding.reads(site, site.incoming(), 2)
    flat = [site.reshape(each, [batch, rows // elements, 1, places]) for each in reads]
    beside = flat[0] if len(flat) == 1 else site.op("Concat", *flat, axis=2)
    return {0: site.reshape(beside, [batch, rows, places])}


GRADIENTS: Mapping[OpName, Gradient] = {
    ("", "MaxPool"): largest,
    ("", "AveragePool"): average,
    ("", "LpPool"): norm,
    ("", "GlobalAveragePool"): global_average,
    ("", "GlobalMaxPool"): global_largest,
    ("", "GlobalLpPool"): global_norm,
    ("", "Col2Im"): columns_to_image,
}
