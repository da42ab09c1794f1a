"""Draws nodes that slide a window over an image, and such that interpolate one, for the proof of their gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from op_draw import Array, Case, Draw

from onnxslim.ops.signatures import OpName

f32 = np.float32


def _window(draw: Draw, rank: int, automatic: bool = True) -> tuple[list[int], dict[str, Any]]:
    """Return a kernel, and how it slides: most is written down half of the time."""
    kernel = [draw.number(1, 3) for _ in range(rank)]
    attributes: dict[str, Any] = {"kernel_shape": kernel} if draw.chance() else {}
    if draw.chance(0.7):
        attributes["strides"] = [draw.number(1, 3) for _ in range(rank)]
    if draw.chance():
        attributes["dilations"] = [draw.number(1, 2) for _ in range(rank)]
    pads = [draw.number(0, max(size - 1, 0)) for size in [*kernel, *kernel]]
    if automatic and draw.chance(0.3):
        attributes["auto_pad"] = draw.one_of(["SAME_UPPER", "SAME_LOWER", "VALID"])
        if attributes["auto_pad"] != "VALID":
            attributes.pop("dilations", None)  # runtimes differ
            strides = attributes.get("strides", kernel)
            attributes["strides"] = [min(pair) for pair in zip(strides, kernel, strict=True)]  # longer ones are refused
    elif draw.chance(0.7):
        attributes["pads"] = pads
    return kernel, attributes


def _rank(draw: Draw) -> int:
    return int(draw.one_of([1, 2, 2, 2, 3]))


def _space(draw: Draw, rank: int) -> list[int]:
    return [draw.number(5, 7) if rank < 3 else draw.number(5, 6) for _ in range(rank)]


def _channels(draw: Draw) -> tuple[int, int, int]:
    """Return groups, channels that a group reads, and such that it makes; a depthwise window is among them."""
    return draw.one_of([(1, 1, 2), (1, 3, 2), (1, 6, 3), (2, 1, 1), (3, 1, 2), (2, 5, 2), (2, 2, 6), (1, 5, 40)])


def convolution(draw: Draw) -> Case:
    rank = _rank(draw)
    group, inputs, outputs = _channels(draw)
    kernel, attributes = _window(draw, rank)
    if group > 1 or draw.chance():
        attributes["group"] = group
    image = draw.data((draw.number(1, 3), group * inputs, *_space(draw, rank)))
    operands: list[Array | None] = [image, draw.data((group * outputs, inputs, *kernel))]
    return Case(("", "Conv"), operands + ([draw.data((group * outputs,))] if draw.chance() else []), attributes)


def fused_convolution(draw: Draw) -> Case:
    case = convolution(draw)
    activation, numbers = draw.one_of(
        [
            ("", []),
            ("Relu", []),
            ("LeakyRelu", [0.2]),
            ("Sigmoid", []),
            ("Tanh", []),
            ("Clip", [-1.0, 2.0]),
            ("HardSigmoid", [0.2, 0.5]),
        ]
    )
    case.attributes |= {"activation": activation} if activation else {}
    case.attributes |= {"activation_params": numbers} if numbers else {}
    return Case(("com.microsoft", "FusedConv"), case.operands, case.attributes)


def transposed_convolution(draw: Draw) -> Case:
    rank = _rank(draw)
    group, inputs, outputs = _channels(draw)
    kernel, attributes = _window(draw, rank)
    strides = attributes.get("strides", [1] * rank)
    places = [draw.number(3, 4) for _ in range(rank)]
    if "auto_pad" not in attributes and draw.chance(0.4):
        attributes["output_padding"] = [draw.number(0, stride - 1) for stride in strides]
    elif "auto_pad" not in attributes and draw.chance(0.3):
        attributes.pop("pads", None)
        attributes["output_shape"] = [stride * size for stride, size in zip(strides, places, strict=True)]
    if group > 1 or draw.chance():
        attributes["group"] = group
    image = draw.data((draw.number(1, 3), group * inputs, *places))
    operands: list[Array | None] = [image, draw.data((group * inputs, outputs, *kernel))]
    bias = [draw.data((group * outputs,))] if draw.chance() else []
    return Case(("", "ConvTranspose"), operands + bias, attributes)


def pooling(op_type: str, dilated_since: int) -> Callable[[Draw], Case]:
    def drawn(draw: Draw) -> Case:
        rank = _rank(draw)
        kernel, attributes = _window(draw, rank)
        attributes["kernel_shape"] = kernel
        if draw.opset < dilated_since:
            attributes.pop("dilations", None)
        if "auto_pad" not in attributes and draw.chance():
            attributes["ceil_mode"] = draw.number(0, 1)
        if op_type == "AveragePool" and draw.chance():
            attributes["count_include_pad"] = draw.number(0, 1)
        if op_type == "MaxPool" and draw.chance(0.3):
            attributes["storage_order"] = 1
        if op_type == "LpPool" and draw.chance(0.7):
            attributes["p"] = draw.number(1, 3)
        if draw.chance(0.2):  # windows that cover the image, each element once
            space = [size * draw.number(1, 3) for size in kernel]
            attributes = {"kernel_shape": kernel, "strides": kernel}
        else:
            space = _space(draw, rank)
        outputs = (True, *([draw.chance()] if op_type == "MaxPool" and draw.chance() else []))
        shape = (draw.number(1, 2), draw.number(1, 3), *space)
        return Case(("", op_type), [draw.data(shape)], attributes, outputs=outputs)

    return drawn


def global_pooling(op_type: str) -> Callable[[Draw], Case]:
    def drawn(draw: Draw) -> Case:
        attributes = {"p": draw.number(1, 3)} if op_type == "GlobalLpPool" and draw.chance(0.7) else {}
        shape = (draw.number(1, 2), draw.number(1, 3), *_space(draw, _rank(draw)))
        return Case(("", op_type), [draw.data(shape)], attributes)

    return drawn


def columns_to_image(draw: Draw) -> Case:
    block, attributes = _window(draw, 2, automatic=False)
    attributes.pop("kernel_shape", None)
    image = _space(draw, 2)
    strides, dilations = (attributes.get(name, [1, 1]) for name in ("strides", "dilations"))
    pads = attributes.get("pads", [0] * 4)
    places = [
        (image[axis] + pads[axis] + pads[axis + 2] - (block[axis] - 1) * dilations[axis] - 1) // strides[axis] + 1
        for axis in range(2)
    ]
    columns = draw.data((draw.number(1, 2), draw.number(1, 3) * int(np.prod(block)), int(np.prod(places))))
    return Case(("", "Col2Im"), [columns, draw.vector(*image), draw.vector(*block)], attributes, frozenset({1, 2}))


COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize")


def resize(draw: Draw) -> Case:
    mode = draw.one_of(["nearest", "linear", "cubic"])
    modes = [*COORDINATES, "half_pixel_symmetric"] if draw.opset >= 19 else COORDINATES
    attributes: dict[str, Any] = {"mode": mode}
    if draw.chance(0.8):
        attributes["coordinate_transformation_mode"] = draw.one_of(modes)
    if mode == "nearest" and draw.chance():
        attributes["nearest_mode"] = draw.one_of(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
    if mode == "cubic" and draw.chance():
        attributes |= {"cubic_coeff_a": -0.5, "exclude_outside": draw.number(0, 1)}
    axes = [2, 3]
    shape = (draw.number(1, 2), draw.number(1, 3), draw.number(3, 6), draw.number(3, 6))
    named = draw.chance(0.4)
    scales = [float(draw.one_of([1.0, 2.0, 3.0, 0.5, 1.5])) for _ in axes]
    sizes = [draw.number(2, 9) for _ in axes]
    region = None
    cropped = attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    if cropped:
        ends = [0.1, 0.2, 0.8, 0.9] if draw.chance() else [-0.2, 0.3, 0.7, 1.3]
        region = np.array(ends if named else [0, 0, *ends[:2], 1, 1, *ends[2:]], f32)
        attributes["extrapolation_value"] = 0.7
    elif mode != "nearest" and draw.chance(0.3):
        attributes["antialias"] = 1
    attributes |= {"axes": [2, -1]} if named else {}
    first = [] if named else [1, 1]
    told = [] if named else list(shape[:2])
    operands: list[Array | None] = [draw.data(shape), region, np.array([*first, *scales], f32)]
    if draw.chance():
        operands = [*operands[:2], None, draw.vector(*told, *sizes)]
    return Case(("", "Resize"), operands, attributes, frozenset({1, 2, 3}))


DRAWN_FOR_GRADIENTS: Mapping[OpName, Callable[[Draw], Case]] = {
    ("", "Conv"): convolution,
    ("com.microsoft", "FusedConv"): fused_convolution,
    ("", "ConvTranspose"): transposed_convolution,
    ("", "MaxPool"): pooling("MaxPool", 10),
    ("", "AveragePool"): pooling("AveragePool", 19),
    ("", "LpPool"): pooling("LpPool", 18),
    **{("", name): global_pooling(name) for name in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")},
    ("", "Col2Im"): columns_to_image,
    ("", "Resize"): resize,
}
