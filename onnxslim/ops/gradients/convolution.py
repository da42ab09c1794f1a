"""Gradients of convolutions: of the image by the transposed op, of the kernel by products of matrices.

Source: V. Dumoulin and F. Visin, A guide to convolution arithmetic for deep learning (2016), chapter 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import onnx_ir as ir

from onnxslim.ops.families.window import Window, transposed_before
from onnxslim.ops.gradient import Gradient, GradientSite, static_shape
from onnxslim.ops.parameters import read
from onnxslim.ops.signatures import OpName
from onnxslim.ops.sliding import Sliding

FEW_CHANNELS = 4
"""Of one group of the image: with so few, products of matrices are too thin to be fast."""
FEW_PLACES = 16
"""Of a kernel in an image: with so few, products of matrices for each image are too thin to be fast."""


def convolution(site: GradientSite, incoming: ir.Value | None = None) -> Mapping[int, ir.Value | None]:
    """Conv (x, w, b): correlates x with w; `incoming` in place of the gradient of the result."""
    image, kernel, result = site.shape(0), site.shape(1), site.result_shape()
    group = read(site, "group", 1)
    sliding = Sliding.of(site, kernel[2:], image[2:], result[2:])
    incoming = site.incoming() if incoming is None else incoming
    found: dict[int, ir.Value | None] = {}
    if 0 in site.wanted:
        found[0] = _of_image(site, incoming, sliding, group)
    if 1 in site.wanted:
        found[1] = _of_kernel(site, site.operand(0), incoming, sliding, group, kernel)
    if 2 in site.wanted:
        found[2] = _of_bias(site, incoming)
    return found


def transposed_convolution(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """ConvTranspose (x, w, b): x is to the result what the result of a convolution is to its image."""
    places, kernel, image = site.shape(0), site.shape(1), site.result_shape()
    group = read(site, "group", 1)
    window = Window.of(site, len(places) - 2, kernel[2:])
    before = transposed_before(site, window, places[2:], image[2:])
    sliding = Sliding(window.kernel, window.strides, window.dilations, before, image[2:], places[2:])
    incoming = site.incoming()
    found: dict[int, ir.Value | None] = {}
    if 0 in site.wanted:
        convolved = site.op("Conv", incoming, site.operand(1), group=group, **sliding.attributes())
        found[0] = _cut(site, convolved, places)
    if 1 in site.wanted:
        found[1] = _of_kernel(site, incoming, site.operand(0), sliding, group, kernel)
    if 2 in site.wanted:
        found[2] = _of_bias(site, incoming)
    return found


def fused_convolution(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """FusedConv (x, w, b, z) of ONNX Runtime: an activation of a convolution to which z is added."""
    activation = ACTIVATIONS.get(read(site, "activation", ""))
    if activation is None:
        return {}
    incoming = activation(site)
    return {**convolution(site, incoming), **({3: incoming} if 3 in site.wanted else {})}


def _of_image(site: GradientSite, incoming: ir.Value, sliding: Sliding, group: int) -> ir.Value:
    """Return the gradient of the image.

    ONNX Runtime multiplies the kernel with the places of one image after the other. Where these are few, it goes
    through a large kernel once for each image, and one product for all of them is faster: 16 images of 2x2 and
    3x3x512x512 take 4.0 ms of one core and not 20.5, of 4x4 and 3x3x256x256 3.6 and not 5.1; of 8x8 and 3x3x128x128
    4.0, and 3.7 before.
    Its Col2Im is wrong for dilations where there is one axis or three.
    """
    kernel = site.operand(1)
    if group > 1 or sliding.rank != 2 or math.prod(sliding.places) > FEW_PLACES:
        return site.op("ConvTranspose", incoming, kernel, group=group, **sliding.transposed())
    batch, *_ = static_shape(incoming)
    outputs, inputs, *_ = static_shape(kernel)
    places, rows = math.prod(sliding.places), inputs * math.prod(sliding.kernel)
    left = site.reshape(_channels_last(site, incoming, 1), [batch * places, outputs])
    columns = site.op("MatMul", left, site.reshape(kernel, [outputs, rows]))
    columns = site.op("Transpose", site.reshape(columns, [batch, places, rows]), perm=[0, 2, 1])
    return site.op("Col2Im", columns, list(sliding.lengths), list(sliding.kernel), **sliding.attributes())


def _of_bias(site: GradientSite, incoming: ir.Value) -> ir.Value:
    rank = len(static_shape(incoming))
    return site.sum(incoming, [0, *range(2, rank)])


def _of_kernel(
    site: GradientSite, image: ir.Value, places: ir.Value, sliding: Sliding, group: int, shape: Sequence[int]
) -> ir.Value:
    """Return the gradient of a kernel of a shape.

    Args:
        site: Builds the nodes.
        image: What the kernel slides over.
        places: For each place the gradient of what was summed up there.
        sliding: How it slides.
        group: Into how many groups the channels of both are divided.
        shape: Of the kernel: channels of `places`, channels of a group of the image, space.
    """
    if shape[1] <= FEW_CHANNELS:
        return _by_convolution(site, image, places, sliding, group, shape)
    return _by_products(site, image, places, sliding, group, shape)


def _by_products(
    site: GradientSite, image: ir.Value, places: ir.Value, sliding: Sliding, group: int, shape: Sequence[int]
) -> ir.Value:
    """Return the gradient of a kernel as one product of matrices for each of its elements, or one for all.

    In each of them all places of all images are summed over: channels go last, so that what is read is a matrix. With
    64 images of 32x32 and 3x3x16x16 that takes 7 ms of one core, beside 11 to 17 with a copy of all that is read
    (im2col), and 19 as a convolution.

    Products for each image, which are summed up afterwards, take as long on one core, and three quarters of it on two
    (8.3 and 6.1 ms): ONNX Runtime divides the images among the cores, and never the places that are summed over. They
    are made where they are no larger than what is read.
    """
    batch, outputs, inputs = static_shape(image)[0], shape[0] // group, shape[1]
    spaces, elements = math.prod(sliding.places), math.prod(sliding.kernel)
    rows = batch * spaces
    groups = [group] if group > 1 else []
    reads = sliding.reads(site, _channels_last(site, image, group), len(groups) + 1)
    if group == 1 and batch > 1 and outputs <= spaces:
        left = site.reshape(places, [batch, outputs, spaces])
        each_image = [site.op("MatMul", left, site.reshape(each, [batch, spaces, inputs])) for each in reads]
        products = [site.sum(product, [0]) for product in each_image]
    else:
        left = site.reshape(_channels_first(site, places, group), [*groups, outputs, rows])
        if rows < outputs:  # what is read is smaller than the kernel, and a copy of it the cheaper one
            columns = [site.reshape(each, [*groups, rows, inputs, 1]) for each in reads]
            right = site.reshape(_beside(site, columns), [*groups, rows, inputs * elements])
            return site.reshape(site.op("MatMul", left, right), shape)
        products = [site.op("MatMul", left, site.reshape(each, [*groups, rows, inputs])) for each in reads]
    if elements == 1:
        return site.reshape(products[0], shape)
    return site.reshape(_beside(site, [site.reshape(each, [*shape[:2], 1]) for each in products]), shape)


def _by_convolution(
    site: GradientSite, image: ir.Value, places: ir.Value, sliding: Sliding, group: int, shape: Sequence[int]
) -> ir.Value:
    """Return the gradient of a kernel as a convolution in which batch and channels have changed places.

    Each channel of a group is an image, whose channels are the images of the batch; strides and dilations change
    places, too. For 16 images of 64x64 and 7x7x3x64 with a stride of 2 that takes 6 ms of one core, products 25.
    """
    batch, _, *lengths = static_shape(image)
    outputs, inputs = shape[0] // group, shape[1]
    axes = range(3, 3 + sliding.rank)
    image = site.op("Transpose", site.reshape(image, [batch, group, inputs, *lengths]), perm=[2, 1, 0, *axes])
    places = site.op("Transpose", site.reshape(places, [batch, group, outputs, *sliding.places]), perm=[1, 2, 0, *axes])
    convolved = site.op(
        "Conv",
        site.reshape(image, [inputs, group * batch, *lengths]),
        site.reshape(places, [shape[0], batch, *sliding.places]),
        group=group,
        strides=[*sliding.dilations],
        dilations=[*sliding.strides],
        pads=sliding.pads,
    )
    convolved = _cut(site, convolved, [inputs, shape[0], *sliding.kernel])
    if inputs > 1:
        convolved = site.op("Transpose", convolved, perm=[1, 0, *range(2, 2 + sliding.rank)])
    return site.reshape(convolved, shape)


def _beside(site: GradientSite, values: Sequence[ir.Value]) -> ir.Value:
    return values[0] if len(values) == 1 else site.op("Concat", *values, axis=-1)


def _channels_last(site: GradientSite, value: ir.Value, group: int) -> ir.Value:
    """Return an image as [batch, space, channels], or [group, batch, space, channels of a group]."""
    batch, channels, *lengths = static_shape(value)
    if group == 1:
        return site.op("Transpose", value, perm=[0, *range(2, 2 + len(lengths)), 1])
    grouped = site.reshape(value, [batch, group, channels // group, *lengths])
    return site.op("Transpose", grouped, perm=[1, 0, *range(3, 3 + len(lengths)), 2])


def _channels_first(site: GradientSite, value: ir.Value, group: int) -> ir.Value:
    """Return an image as [channels, batch, space]: those of a group follow each other."""
    return site.op("Transpose", value, perm=[1, 0, *range(2, len(static_shape(value)))])


def _cut(site: GradientSite, value: ir.Value, shape: Sequence[int]) -> ir.Value:
    """Return the first elements along each axis, as many as a shape has."""
    own = static_shape(value)
    axes = [axis for axis, (has, wants) in enumerate(zip(own, shape, strict=True)) if has != wants]
    return site.op("Slice", value, [0] * len(axes), [shape[axis] for axis in axes], axes) if axes else value


# Activations that a convolution is fused with: what comes back to what they are applied to, out of their result


def _relu(site: GradientSite) -> ir.Value:
    return site.op("Mul", site.incoming(), site.mask(site.op("Greater", site.result(), 0.0)))


def _leaky_relu(site: GradientSite) -> ir.Value:
    negative = site.mask(site.op("Less", site.result(), 0.0))
    change = site.op("Mul", negative, float(read(site, "activation_params")[0]) - 1)
    return site.op("Mul", site.incoming(), site.op("Add", change, 1.0))


def _sigmoid(site: GradientSite) -> ir.Value:
    result = site.result()
    slope = site.op("Mul", result, site.op("Sub", site.build.number(1.0, result), result))
    return site.op("Mul", site.incoming(), slope)


def _tanh(site: GradientSite) -> ir.Value:
    result = site.result()
    slope = site.op("Sub", site.build.number(1.0, result), site.op("Mul", result, result))
    return site.op("Mul", site.incoming(), slope)


def _clip(site: GradientSite) -> ir.Value:
    low, high = read(site, "activation_params")
    return _between(site, site.incoming(), low, high)


def _hard_sigmoid(site: GradientSite) -> ir.Value:
    slope, _ = read(site, "activation_params")
    return _between(site, site.op("Mul", site.incoming(), slope), 0.0, 1.0)


def _between(site: GradientSite, value: ir.Value, low: float, high: float) -> ir.Value:
    """Return a value where the result lies between two numbers, and zeros elsewhere."""
    result = site.result()
    inside = site.op("And", site.op("Greater", result, low), site.op("Less", result, high))
    return site.op("Mul", value, site.mask(inside))


ACTIVATIONS: Mapping[str, Callable[[GradientSite], ir.Value]] = MappingProxyType(
    {
        "": lambda site: site.incoming(),
        "Relu": _relu,
        "LeakyRelu": _leaky_relu,
        "Sigmoid": _sigmoid,
        "Tanh": _tanh,
        "Clip": _clip,
        "HardSigmoid": _hard_sigmoid,
    }
)

GRADIENTS: Mapping[OpName, Gradient] = {
    ("", "Conv"): convolution,
    ("", "ConvTranspose"): transposed_convolution,
    ("com.microsoft", "FusedConv"): fused_convolution,
}
