"""Finds out whether ONNX Runtime has a blocked layout (NCHWc) on this processor, and how wide its blocks are."""

from __future__ import annotations

import functools

import numpy as np
import onnx_ir as ir

from onnxslim.errors import RunError
from onnxslim.ops.lowering import DOMAIN
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import detect_target

WIDTHS = (16, 8)
"""AVX-512, and AVX2 or less."""
CHANNELS = 16
"""Of the convolution that is tried: whole blocks of any width."""
CLOSE = 1e-3


@functools.cache
def block_width() -> int | None:
    """Return how many channels lie beside each other in the blocked layout of the CPU provider; None: it has none.

    A convolution with a kernel that is laid out for each width shows it. The domain is internal to ONNX Runtime, so
    that nothing but a result that is right counts.
    """
    random = np.random.default_rng(0)
    image = np.asarray(random.standard_normal((1, CHANNELS, 2, 2)), np.float32)
    kernel = np.asarray(random.standard_normal((CHANNELS, CHANNELS, 1, 1)), np.float32)
    expected = np.einsum("oi,nihw->nohw", kernel[:, :, 0, 0], image)
    for width in WIDTHS:
        blocks = kernel.reshape(CHANNELS // width, width, CHANNELS // width, width, 1, 1)
        laid = np.ascontiguousarray(blocks.transpose(0, 2, 4, 5, 3, 1)).reshape(kernel.shape)
        try:
            session = Session.of(_trial(image.shape, kernel.shape), detect_target("cpu", threads=1))
            (found,) = session.run({"x": image, "w": laid}).values()
        except RunError:  # there is no such domain, or no such layout on this processor
            return None
        if np.allclose(found, expected, rtol=CLOSE, atol=CLOSE):
            return width
    return None


def _trial(image: tuple[int, ...], kernel: tuple[int, ...]) -> ir.Model:
    """Return a model that convolves x with w in the blocked layout."""
    float32 = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", type=float32, shape=ir.Shape(image))
    w = ir.Value(name="w", type=float32, shape=ir.Shape(kernel))
    sizes = {"kernel_shape": kernel[2:], "strides": (1, 1), "dilations": (1, 1), "pads": (0,) * 4}
    settings = [ir.AttrInt64s(name, numbers) for name, numbers in sizes.items()]
    group, auto = ir.AttrInt64("group", 1), ir.AttrString("auto_pad", "NOTSET")
    enter = ir.Node(DOMAIN, "ReorderInput", [x], name="enter")
    convolve = ir.Node(DOMAIN, "Conv", [enter.outputs[0], w], [*settings, group, auto], name="convolve")
    channels = ir.AttrInt64("channels", kernel[0])
    leave = ir.Node(DOMAIN, "ReorderOutput", [convolve.outputs[0]], [channels], name="leave")
    nodes = [enter, convolve, leave]
    for node in nodes:
        node.outputs[0].name = f"{node.name}_result"
    y = leave.outputs[0]
    y.type, y.shape = float32, ir.Shape(image)
    graph = ir.Graph([x, w], [y], nodes=nodes, opset_imports={"": 18, DOMAIN: 1}, name="trial")
    return ir.Model(graph, ir_version=8)
