"""Inputs that are images of 8 bits, normalised: they are brought back to their 256 levels, which int8 holds exactly.

A normalised image is step x level + offset with a step and an offset for each channel, so that one scale for the whole
tensor rounds all of it, and what is lost at the input no layer behind it can make up for. Multiplied and shifted
channel by channel the levels are whole numbers; the first convolution takes step and offset back in its weights and its
bias.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.bias import only_use
from onnxslim.analysis.contraction import Contraction, contractions
from onnxslim.arrays import Array, Floats
from onnxslim.data import Samples
from onnxslim.model.edit import Editor, overwrite
from onnxslim.ops.parameters import attribute

from .integers import UINT8

MOST_CHANNELS = 4
"""Images have no more."""
SAMPLES = 16
"""Samples that are looked at."""
SLACK = 0.02
"""How far from a level a number may lie, in steps: normalising in single precision rounds."""


@dataclasses.dataclass(frozen=True)
class InputGrid:
    """The numbers of an input, channel by channel: step x level + offset, with whole levels from 0 to 255."""

    step: Floats
    """Shape [channels], above 0."""
    offset: Floats
    """Shape [channels]."""


def find_grid(array: Array) -> InputGrid | None:
    """Return the grid on which the numbers of images lie, shape [images, channels, height, width]; None: on none."""
    if array.ndim != 4 or array.shape[1] > MOST_CHANNELS or not np.isfinite(array).all():
        return None
    steps, offsets = [], []
    for channel in np.moveaxis(array.astype(np.float64), 1, 0):
        numbers = np.unique(channel)
        if len(numbers) < UINT8.steps // 4:  # too few to tell a grid from chance
            return None
        gaps = np.diff(numbers)
        # Equal levels differ by rounding; the smallest gap above that is a step, if all others are whole multiples.
        gaps = gaps[gaps > gaps.max() * 1e-4]
        step = float(np.median(gaps[gaps < 1.5 * gaps.min()]))
        places = (numbers - numbers[0]) / step
        step *= places[-1] / max(np.rint(places[-1]), 1)
        places = (numbers - numbers[0]) / step
        if places[-1] > UINT8.steps + SLACK or np.abs(places - np.rint(places)).max() > SLACK:
            return None
        steps.append(step)
        offsets.append(float(numbers[0]))
    return InputGrid(np.array(steps), np.array(offsets))


def align_inputs(model: ir.Model, samples: Samples) -> tuple[str, ...]:
    """Bring inputs that are images back to their levels where one convolution alone reads them, in place.

    Returns:
        The names of the tensors of whole numbers from 0 to 255.
    """
    first = samples.first()
    aligned: list[str] = []
    for value in model.graph.inputs:
        use, name = only_use(value), value.name or ""
        found = None if use is None else _convolution(use[0], value)
        if found is None or value.dtype != ir.DataType.FLOAT or not _may_be_image(first.get(name, np.zeros(0))):
            continue
        few = samples.draw(SAMPLES, np.random.default_rng(0))
        images = [batch.feeds[name] for batch in few.batches()]
        same = len({image.shape[1:] for image in images}) == 1
        grid = find_grid(np.concatenate(images)) if same else None
        if grid is not None:
            aligned.append(_align(model, value, found, grid))
    return tuple(aligned)


def _may_be_image(array: Array) -> bool:
    """Whether samples like this one may lie on a grid: a dark picture has few levels, but none has more than 256, and
    in none every pixel has another."""
    if array.ndim != 4 or array.shape[1] > MOST_CHANNELS or not np.isfinite(array).all():
        return False
    channels = np.moveaxis(array, 1, 0)
    return all(len(np.unique(channel)) <= min(UINT8.steps + 1, channel.size - 1) for channel in channels)


def _convolution(node: ir.Node, value: ir.Value) -> Contraction | None:
    """Return a node as a convolution with weights and a bias of its own, padded by numbers that it says."""
    found = next(contractions([node]), None)
    if found is None or found.data is not value or len(found.kernel) != 2 or found.transposed or not found.regular:
        return None
    bias = found.own_bias
    said = attribute(node, "auto_pad") in (None, "NOTSET")
    alone = len(found.weight.uses()) == 1 and not found.weight.is_graph_output()
    return found if said and alone and bias is not None and bias.free else None


def _align(model: ir.Model, value: ir.Value, found: Contraction, grid: InputGrid) -> str:
    """Insert what makes whole numbers of `value`, and let the convolution make up for it; return their name."""
    editor, node = Editor(model), found.node
    shape = (1, -1, 1, 1)
    factor, shift = (1 / grid.step).reshape(shape), (-grid.offset / grid.step).reshape(shape)
    made = value
    pads = node.attributes.get_ints("pads", [0, 0, 0, 0])

    def add(op_type: str, data: ir.Value, array: Array) -> ir.Value:
        step = ir.node(op_type, [data, editor.constant("grid", array)], name="")
        model.graph.insert_before(node, step)
        output = step.outputs[0]
        output.name, output.type = editor.name(f"{value.name}_levels"), value.type
        output.shape = _grown(value.shape, pads)
        return output

    if any(pads):
        # A zero is no level, so that the border is put around the image before.
        made = add("Pad", made, np.array([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64))
        node.attributes["pads"] = ir.AttrInt64s("pads", [0, 0, 0, 0])
    made = add("Mul", made, factor.astype(np.float32))
    made = add("Add", made, shift.astype(np.float32))
    node.replace_input_with(next(index for index, operand in enumerate(node.inputs) if operand is value), made)
    bias = found.own_bias
    assert bias is not None
    assert bias.vector is not None
    shifted = bias.vector + found.shift(grid.offset)
    blocks = found.blocks()
    scaled = blocks * np.tile(grid.step.reshape(found.groups, -1), (1, blocks.shape[1] // found.channels))[..., None]
    overwrite(found.weight, found.from_blocks(scaled))
    bias.write(editor, shifted)
    return made.name or ""


def _grown(shape: ir.Shape | None, pads: Sequence[int]) -> ir.Shape | None:
    if shape is None:
        return None
    height, width = (
        size + pads[axis] + pads[axis + 2] if isinstance(size, int) else None for axis, size in enumerate(shape[2:])
    )
    return ir.Shape([shape[0], shape[1], height, width])
