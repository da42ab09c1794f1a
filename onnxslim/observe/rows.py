"""Writes what contractions read and make as rows of a regression: windows of convolutions (im2col), rows of matrices.

A row of the inputs times the weight is a row of the outputs, but for the bias. Convolutions may have groups, strides,
dilations, and padding of any kind; the definition is that of Conv in the ONNX operator specification.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.analysis.linear_layer import Contraction
from onnxslim.observe.finite import check_finite
from onnxslim.ops.parameters import attribute
from onnxslim.ops.relations import Indices

Rows = npt.NDArray[np.float32]


def explicit_pads(node: ir.Node, lengths: tuple[int, ...], spans: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return how many places a convolution adds before and after each spatial axis.

    Args:
        node: A convolution.
        lengths: Of the spatial axes of its data.
        spans: How far its window reaches along each, dilation included.
    """
    rank = len(lengths)
    mode = attribute(node, "auto_pad")
    if mode == "VALID":
        return [(0, 0)] * rank
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        pads = []
        for length, span, stride in zip(lengths, spans, setting(node, "strides", rank, 1), strict=True):
            total = max((-(-length // stride) - 1) * stride + span - length, 0)
            less, more = total // 2, total - total // 2
            pads.append((less, more) if mode == "SAME_UPPER" else (more, less))
        return pads
    given = setting(node, "pads", 2 * rank, 0)
    return list(zip(given[:rank], given[rank:], strict=True))


def setting(node: ir.Node, name: str, length: int, default: int) -> list[int]:
    """Return an attribute that is a list of numbers, `length` times the `default` where it is missing."""
    value = attribute(node, name)
    return [int(each) for each in value] if isinstance(value, (tuple, list)) else [default] * length


def place_count(contraction: Contraction, data: npt.NDArray[Any]) -> int:
    """Return how many rows a regular contraction makes of its data: for each sample of a convolution, for all samples
    of a matrix product."""
    if not contraction.kernel:
        return int(data.size) // int(data.shape[contraction.data_axis])
    return math.prod(_made(contraction, data.shape[2:]))


def _spans(contraction: Contraction) -> tuple[int, ...]:
    """Return how far the window reaches along each axis."""
    dilations = setting(contraction.node, "dilations", len(contraction.kernel), 1)
    return tuple((size - 1) * dilation + 1 for size, dilation in zip(contraction.kernel, dilations, strict=True))


def _made(contraction: Contraction, lengths: tuple[int, ...]) -> tuple[int, ...]:
    """Return the lengths of the spatial axes of the output of a convolution."""
    spans, strides = _spans(contraction), setting(contraction.node, "strides", len(lengths), 1)
    pads = explicit_pads(contraction.node, lengths, spans)
    return tuple(
        (length + sum(pad) - span) // stride + 1
        for length, pad, span, stride in zip(lengths, pads, spans, strides, strict=True)
    )


def input_rows(contraction: Contraction, data: npt.NDArray[Any], places: Indices) -> Rows:
    """Return what a regular contraction reads at some places, shape [groups, rows, columns].

    Args:
        contraction: The contraction; the columns are ordered as in `Contraction.blocks`.
        data: Its data.
        places: Flat places: of the output of a convolution, in each sample; of the rows of a matrix.

    Raises:
        DataError: The data is not finite.
    """
    check_finite(float(np.abs(data).max(initial=0)), contraction.data.name)
    if not contraction.kernel:
        flat = np.moveaxis(data, contraction.data_axis, -1).reshape(-1, data.shape[contraction.data_axis])
        return flat[None] if len(places) == len(flat) else flat[None, places]
    node, kernel = contraction.node, contraction.kernel
    rank = len(kernel)
    strides, dilations = setting(node, "strides", rank, 1), setting(node, "dilations", rank, 1)
    pads = explicit_pads(node, data.shape[2:], _spans(contraction))
    # Channels last: what is gathered then lies together.
    padded = np.pad(np.moveaxis(data, 1, -1), [(0, 0), *pads, (0, 0)])
    lengths = padded.shape[1:-1]
    made = _made(contraction, data.shape[2:])
    flat_places: Indices = np.zeros((len(places), *[1] * rank), np.int64)
    for at, place in enumerate(np.unravel_index(places, made)):
        taps = place[:, None] * strides[at] + np.arange(kernel[at]) * dilations[at]
        shape = [len(places), *[-1 if other == at else 1 for other in range(rank)]]
        flat_places = flat_places * lengths[at] + taps.reshape(shape)
    windows = np.take(padded.reshape(len(data), -1, data.shape[1]), flat_places.reshape(-1), axis=1)
    groups, taps_count = contraction.groups, math.prod(kernel)
    rows: Rows = windows.reshape(len(data) * len(places), taps_count, groups, -1)
    rows = rows.transpose(2, 0, 1, 3).reshape(groups, len(rows), -1)
    return rows


def output_rows(contraction: Contraction, result: npt.NDArray[Any], axis: int, places: Indices) -> Rows:
    """Return what a regular contraction makes at some places, shape [groups, rows, outputs of a group].

    Args:
        contraction: The contraction.
        result: Its output, or another value of that shape.
        axis: The axis of the output channels.
        places: As for `input_rows`.
    """
    if contraction.kernel:
        flat = np.moveaxis(result.reshape(*result.shape[:2], -1)[:, :, places], 1, -1)
    else:
        flat = np.moveaxis(result, axis, -1).reshape(-1, result.shape[axis])[places]
    rows: Rows = flat.reshape(-1, contraction.groups, flat.shape[-1] // contraction.groups).transpose(1, 0, 2)
    return rows
