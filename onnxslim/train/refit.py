"""Fits weights that read channels which are gone, in closed form, to what the model gave before.

For each contraction, in the order of the graph, the inputs that it now gets are regressed on the outputs that it used
to give: ridge regression of the difference, towards the weights that it has. Layers are fitted one after the other,
each on the inputs that the layers fitted before it give, so that errors do not add up. Source: He, Zhang, Sun,
"Channel Pruning for Accelerating Very Deep Neural Networks" (arXiv 1707.06168), section 3.2; the ridge towards the
present weights is ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.data import Samples
from onnxslim.graph.axes import attribute
from onnxslim.graph.constants import constant
from onnxslim.graph.contraction import Contraction
from onnxslim.graph.relations import Indices
from onnxslim.runner.session import Session
from onnxslim.train.observation import truncated

SAMPLES = 512
"""Samples that are enough."""
FEWEST = 32
"""Fewer samples than this say too little about a layer."""
BUDGET = 4e12
"""Multiply-accumulates that may be spent: some minutes on two cores. Each layer takes a run of all samples."""
ROWS = 64
"""Places of one sample that a convolution is fitted at, at most; neighbours say nearly the same."""
ROWS_PER_COLUMN = 16
"""Rows for each unknown of a layer that are enough: more take time and tell little."""
RIDGE = 1e-2
"""The weight of the present weights, relative to the mean square of the inputs."""
COLUMNS = 4608
"""Contractions with more weights per output channel are left as they are: their normal equations take over 170 MB."""

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Fit:
    """A contraction of the cut model, and which channels of its output it kept."""

    contraction: Contraction
    output_axis: int
    kept: Indices


def enough(count: int | None, layers: int, macs: int) -> int:
    """Return how many samples to use, 0 where the budget does not reach for enough of them.

    Args:
        count: Samples that there are, None where nobody knows.
        layers: Contractions to fit.
        macs: Of the model, for one sample.
    """
    most = min(SAMPLES, int(BUDGET / max(2 * layers * macs, 1)))
    return 0 if most < FEWEST or (count is not None and count < FEWEST) else most


def fits(contraction: Contraction) -> bool:
    """Whether `refit` can fit this contraction.

    It has one group, explicit padding, a weight and bias of its own, and an input that is computed.
    """
    node = contraction.node
    if any(contraction.fitted.size(letter) != 1 for letter in contraction.over if letter in contraction.result):
        return False
    if len(contraction.weight.uses()) != 1 or contraction.bias_index is None or contraction.data.producer() is None:
        return False
    bias = node.inputs[contraction.bias_index] if contraction.bias_index < len(node.inputs) else None
    if bias is not None and (constant(bias) is None or len(bias.uses()) != 1 or len(bias.shape or ()) != 1):
        return False
    if contraction.window and (contraction.transposed or attribute(node, "auto_pad") != "NOTSET"):
        return False
    return contraction.columns <= COLUMNS and bool(contraction.weight.dtype == ir.DataType.FLOAT)


def refit(
    model: ir.Model,
    before: ir.Model,
    chosen: Sequence[Fit],
    samples: Samples,
    count: int,
    generator: np.random.Generator,
    open_session: Callable[[ir.Model], Session],
    report: Callable[[int, int], None],
    batch: int = 64,
) -> None:
    """Fit the weights of contractions of `model`, in place.

    Args:
        model: The model that was cut.
        before: The same model before the cut; its values have the same names.
        chosen: What to fit, in the order of the graph; `fits` holds for each.
        samples: Calibration samples; they are read once for each contraction.
        count: How many samples these are.
        generator: Chooses the places of convolutions that rows are taken of.
        open_session: Opens a model on the target.
        report: Told (done, total) after each.
        batch: Samples in one run, where the model takes any number.

    Raises:
        RunError: A model does not run on the samples.
    """
    for at, each in enumerate(chosen):
        contraction = each.contraction
        data, result = contraction.data.name or "", contraction.node.outputs[0].name or ""
        now, then = open_session(truncated(model, [data])), open_session(truncated(before, [result]))
        weights, bias = contraction.matrix(), _bias(contraction)
        present = np.concatenate([weights, bias[None]]).astype(np.float32)
        width = weights.shape[0] + 1
        gram, moment, rows = np.zeros((width, width)), np.zeros((width, weights.shape[1])), 0
        rows_of_sample = min(ROWS, -(-ROWS_PER_COLUMN * width // count))
        for piece in samples.batches(batch):
            got, wanted = now.run(piece.feeds)[data], then.run(piece.feeds)[result]
            inputs, outputs = _rows(each, got, wanted, rows_of_sample, generator)
            # Products of one run in single precision, their sums in double.
            wide = np.concatenate([inputs, np.ones((len(inputs), 1), inputs.dtype)], axis=1)
            gram += wide.T @ wide
            moment += wide.T @ (outputs - wide @ present)
            rows += len(inputs)
        penalty = np.full(width, RIDGE * np.trace(gram[:-1, :-1]) / max(width - 1, 1))
        penalty[-1] = 0.0
        # The last term keeps channels that are always 0 from making the equations singular.
        change = np.linalg.solve(gram + np.diag(penalty + 1e-9 * max(rows, 1)), moment)
        if np.isfinite(change).all():
            contraction.write(model.graph, weights + change[:-1], bias + change[-1])
        report(at + 1, len(chosen))


def _bias(contraction: Contraction) -> Array:
    index = contraction.bias_index
    assert index is not None
    array = constant(contraction.node.inputs[index]) if index < len(contraction.node.inputs) else None
    return np.zeros(contraction.outputs) if array is None else array.astype(np.float64)


def _rows(fit: Fit, data: Rows, result: Rows, rows: int, generator: np.random.Generator) -> tuple[Rows, Rows]:
    """Return (inputs, outputs) as rows, shapes [rows, columns] and [rows, outputs], at places chosen by chance."""
    contraction = fit.contraction
    result = np.take(result, fit.kept, axis=fit.output_axis)
    if contraction.window:
        return _windows(contraction, data, result, rows, generator)
    inputs: Rows = np.moveaxis(data, contraction.data_axis, -1).reshape(-1, data.shape[contraction.data_axis])
    outputs: Rows = np.moveaxis(result, fit.output_axis, -1).reshape(-1, len(fit.kept))
    if len(inputs) > rows * len(data):
        places = generator.choice(len(inputs), rows * len(data), replace=False)
        inputs, outputs = inputs[places], outputs[places]
    return inputs, outputs


def _windows(
    contraction: Contraction, data: Rows, result: Rows, rows: int, generator: np.random.Generator
) -> tuple[Rows, Rows]:
    """Return the windows of a convolution as rows (im2col) at some places, the same in each sample."""
    node, kernel = contraction.node, contraction.kernel
    rank = len(kernel)

    def setting(name: str, default: list[int]) -> list[int]:
        value = attribute(node, name)
        return [int(each) for each in value] if isinstance(value, (tuple, list)) else default

    pads = setting("pads", [0] * 2 * rank)
    strides, dilations = setting("strides", [1] * rank), setting("dilations", [1] * rank)
    padded = np.pad(data, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    spatial = result.shape[2:]
    count = int(np.prod(spatial))
    places = np.sort(generator.choice(count, min(rows, count), replace=False))
    index: list[npt.NDArray[np.int64]] = []
    for at, place in enumerate(np.unravel_index(places, spatial)):
        taps = place[:, None] * strides[at] + np.arange(kernel[at]) * dilations[at]
        index.append(taps.reshape(len(places), *[-1 if other == at else 1 for other in range(rank)]))
    taps_of_all: tuple[Any, ...] = (slice(None), slice(None), *index)
    windows = np.moveaxis(padded[taps_of_all], 2, 1)  # [samples, places, channels, *kernel]
    outputs = np.moveaxis(result.reshape(*result.shape[:2], count)[:, :, places], 2, 1)
    return windows.reshape(len(data) * len(places), -1), outputs.reshape(len(data) * len(places), -1)
