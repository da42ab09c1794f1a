"""Gram matrices of what weights are multiplied with: sums of x x' over calibration samples, streamed, in double.

One weight is one `Layer`: its elements as a matrix of shape [groups, outputs, columns], the columns as (*kernel,
channel), so that neighbours lie along the input channels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.data import Samples
from onnxslim.graph.axes import attribute
from onnxslim.graph.constants import constant
from onnxslim.graph.contraction import Contraction
from onnxslim.runner.session import Session
from onnxslim.train.observation import truncated

PLACES = 64
"""Places of one sample that a convolution is seen at, at most; neighbours say nearly the same."""

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Layer:
    """The weight of a contraction as matrices, one for each group."""

    contraction: Contraction
    order: tuple[int, ...]
    """The axes of the expanded weight as (groups, outputs, kernel, channels)."""
    shape: tuple[int, int, int]
    """(groups, outputs, columns)."""
    channels: int
    """Input channels of a group: how many neighbouring columns belong to one place of the kernel."""

    @property
    def name(self) -> str:
        """The name of the weight."""
        return self.contraction.weight.name or ""

    def matrix(self) -> Array:
        """Return the weight, shape [groups, outputs, columns]."""
        return np.ascontiguousarray(self.contraction.expanded().transpose(self.order)).reshape(self.shape)

    def write(self, matrix: Array) -> None:
        """Replace the weight, in its own layout and type."""
        weight, array = self.contraction.weight, constant(self.contraction.weight)
        assert array is not None
        expanded = matrix.reshape([self.contraction.sizes[at] for at in self.order]).transpose(np.argsort(self.order))
        weight.const_value = ir.tensor(expanded.reshape(array.shape).astype(array.dtype), name=weight.name)


def layer_of(contraction: Contraction) -> Layer:
    """Return the weight of a contraction as matrices."""
    signature = contraction.fitted.signature
    reaching = {
        factor
        for operand in signature.outputs
        for dimension in operand.dimensions
        if not dimension.ellipsis
        for factor in dimension.factors
    }
    places: dict[str, list[int]] = {"groups": [], "outputs": [], "kernel": [], "channels": []}
    for at, letter in enumerate(contraction.letters):
        if letter in contraction.over:
            places["groups" if letter in reaching else "channels"].append(at)
        else:
            places["kernel" if letter[0].isalpha() and letter[-1].isdigit() else "outputs"].append(at)
    groups, outputs, kernel, channels = (math.prod(contraction.sizes[at] for at in each) for each in places.values())
    order = tuple(at for each in places.values() for at in each)
    return Layer(contraction, order, (groups, outputs, kernel * channels), channels)


def has_gram(layer: Layer) -> bool:
    """Whether `grams` can see what this weight is multiplied with: windows of the input, or its rows, and no batch."""
    contraction = layer.contraction
    data = contraction.data
    if contraction.transposed or (data.producer() is None and not data.is_graph_input()):
        return False
    if contraction.window and attribute(contraction.node, "auto_pad") not in ("NOTSET", None):
        return False
    plain = all(letter[0].isalpha() for letter in contraction.letters)
    return plain and len(contraction.weight.uses()) == 1


def grams(
    model: ir.Model,
    layers: Sequence[Layer],
    samples: Samples,
    generator: np.random.Generator,
    open_session: Callable[[ir.Model], Session],
    batch: int = 64,
) -> dict[str, Array]:
    """Return by the name of each weight the Gram matrices, shape [groups, columns, columns], over all `samples`.

    Args:
        model: The model; its values are what the layers read.
        layers: `has_gram` holds for each.
        samples: Read once.
        generator: Chooses the places of convolutions.
        open_session: Opens a model on the target.
        batch: Samples in one run, where the model takes any number.

    Raises:
        RunError: The model does not run on the samples.
    """
    read = {layer.contraction.data for layer in layers}
    names = sorted(value.name or "" for value in read if value.producer() is not None)
    session = open_session(truncated(model, names)) if names else None
    sums = {layer.name: np.zeros((layer.shape[0], layer.shape[2], layer.shape[2])) for layer in layers}
    for piece in samples.batches(batch):
        seen = {**piece.feeds, **(session.run(piece.feeds) if session is not None else {})}
        for layer in layers:
            rows = _rows(layer, seen[layer.contraction.data.name or ""], generator)
            sums[layer.name] += np.matmul(rows.transpose(0, 2, 1), rows)
    return sums


def _rows(layer: Layer, data: npt.NDArray[Any], generator: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return what the weight is multiplied with, shape [groups, rows, columns]."""
    contraction, (groups, _, columns) = layer.contraction, layer.shape
    data = data.astype(np.float32)
    if not contraction.window:
        rows = np.moveaxis(data, contraction.data_axis, -1).reshape(-1, groups, columns)
        return rows.transpose(1, 0, 2)
    kernel, rank = contraction.kernel, len(contraction.kernel)

    def setting(name: str, default: list[int]) -> list[int]:
        value = attribute(contraction.node, name)
        return [int(each) for each in value] if isinstance(value, (tuple, list)) else default

    pads, strides = setting("pads", [0] * 2 * rank), setting("strides", [1] * rank)
    dilations = setting("dilations", [1] * rank)
    padded = np.pad(data, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    spatial = [
        (size - (taps - 1) * apart - 1) // step + 1
        for size, taps, apart, step in zip(padded.shape[2:], kernel, dilations, strides, strict=True)
    ]
    count = math.prod(spatial)
    places = np.sort(generator.choice(count, min(PLACES, count), replace=False))
    index: list[Any] = [slice(None), slice(None)]
    for at, place in enumerate(np.unravel_index(places, spatial)):
        taps = place[:, None] * strides[at] + np.arange(kernel[at]) * dilations[at]
        index.append(taps.reshape(len(places), *[-1 if other == at else 1 for other in range(rank)]))
    windows = padded[tuple(index)]  # [samples, channels, places, *kernel]
    windows = windows.reshape(len(data), groups, layer.channels, len(places), -1)
    result: npt.NDArray[np.float32] = windows.transpose(1, 0, 3, 4, 2).reshape(groups, -1, columns)
    return result
