"""Writes what contractions read and make as rows of a regression: windows of convolutions (im2col), rows of matrices.

A row of the inputs times the weight is a row of the outputs, but for the bias. Convolutions may have groups, strides,
dilations, and padding of any kind; the definition is that of Conv in the ONNX operator specification.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim.analysis.contraction import Contraction
from onnxslim.arrays import Indices, Singles
from onnxslim.observe.finite import check_finite


def place_count(contraction: Contraction, data: npt.NDArray[Any]) -> int:
    """Return how many rows a regular contraction makes of its data: for each sample of a convolution, for all samples
    of a matrix product."""
    if contraction.window is None:
        return int(data.size) // int(data.shape[contraction.data_axis])
    return math.prod(contraction.window.places(data.shape[2:]))


def choose_places(available: int, wanted: int, generator: np.random.Generator) -> Indices:
    """Return `wanted` of the places that there are, at least one, in order; all where there are no more."""
    wanted = max(1, wanted)
    if wanted >= available:
        return np.arange(available)
    return np.sort(generator.choice(available, wanted, replace=False))


def correspond(contraction: Contraction, data: npt.NDArray[Any], result: npt.NDArray[Any]) -> bool:
    """Whether `result` has the places that a regular contraction makes of `data`, of which there are some."""
    if contraction.window is not None and data.size:
        return (len(data), *contraction.window.places(data.shape[2:])) == (len(result), *result.shape[2:])
    return 0 < data.size // contraction.channels // contraction.groups == result.size // contraction.outputs


def input_rows(contraction: Contraction, data: npt.NDArray[Any], places: Indices, *, check: bool = True) -> Singles:
    """Return what a regular contraction reads at some places, shape [groups, rows, columns].

    Args:
        contraction: The contraction; the columns are ordered as in `Contraction.blocks`.
        data: Its data.
        places: Flat places: of the output of a convolution, in each sample; of the rows of a matrix.
        check: Refuse data that is not finite.

    Raises:
        ValuesNotFinite: The data is not finite.
    """
    if check:
        check_finite(float(np.abs(data).max(initial=0)), contraction.data.name)
    window = contraction.window
    if window is None:
        flat = np.moveaxis(data, contraction.data_axis, -1).reshape(-1, data.shape[contraction.data_axis])
        return flat[None] if len(places) == len(flat) else flat[None, places]
    rank = len(window.kernel)
    # Channels last: what is gathered then lies together.
    padded = np.pad(np.moveaxis(data, 1, -1), [(0, 0), *window.pads(data.shape[2:]), (0, 0)])
    lengths = padded.shape[1:-1]
    flat_places: Indices = np.zeros((len(places), *[1] * rank), np.int64)
    for axis, index in enumerate(np.unravel_index(places, window.places(data.shape[2:]))):
        taps = index[:, None] * window.strides[axis] + np.arange(window.kernel[axis]) * window.dilations[axis]
        shape = [len(places), *[-1 if column == axis else 1 for column in range(rank)]]
        flat_places = flat_places * lengths[axis] + taps.reshape(shape)
    windows = np.take(padded.reshape(len(data), -1, data.shape[1]), flat_places.reshape(-1), axis=1)
    groups, taps_count = contraction.groups, math.prod(window.kernel)
    rows: Singles = windows.reshape(len(data) * len(places), taps_count, groups, -1)
    rows = rows.transpose(2, 0, 1, 3).reshape(groups, len(rows), -1)
    return rows


def output_rows(contraction: Contraction, result: npt.NDArray[Any], axis: int, places: Indices) -> Singles:
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
    rows: Singles = flat.reshape(-1, contraction.groups, flat.shape[-1] // contraction.groups).transpose(1, 0, 2)
    return rows
