"""Makes a student of a model itself: its dense convolutions become depthwise-separable pairs that start near them.

A convolution becomes windows of each channel and a 1x1 convolution behind them, as in MobileNet (arXiv 1704.04861),
with nothing between, as in Xception (arXiv 1610.02357). The pair begins as the best one in the Frobenius norm: of
each channel the first singular vectors of its [places of the window, outputs] weights. A BatchNormalization behind it
begins with the mean and variance that the convolution had, so that what follows gets values of the same size.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.cost import Cost, measure_cost
from onnxslim.analysis.linear_layer import LinearLayer, label, linear_layers
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.analysis.specialize import specialize_shapes
from onnxslim.diagnostic import Code
from onnxslim.model.edit import Editor, overwrite, take_over
from onnxslim.observe.statistics import ChannelMoments, channel_moments
from onnxslim.pipeline.interface import Context, Note, left_alone
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.selection import Selection
from onnxslim.pipeline.training_pass import NotTrained
from onnxslim.train.moving_statistics import estimate_statistics
from onnxslim.units import in_thousands

from ..lowrank.candidates import forms
from ..lowrank.emit import write
from ..lowrank.factors import Factorization, Split
from ..lowrank.layer import find_layers

MOST_OUTPUTS = 4
"""Outputs for each channel that is read. The first layer of a network makes tens of outputs of three colours: as a pair
they would be sums of three images, and little is saved there."""
SAMPLES = 256
"""Samples that means and variances are taken over."""
EPSILON = 1e-5
"""What a BatchNormalization adds to variances."""


class SeparableCode(Code):
    """Why a convolution stays dense."""

    FEW_CHANNELS = "it makes {0} outputs of {1} channels: as a pair they would be sums of so few"
    NOT_SMALLER = "a pair would have {0} weights, no fewer"
    NONE = "it has no dense convolution that a separable pair could replace"


def separable_student(
    model: ir.Model, windows: int, selection: Selection, context: Context
) -> tuple[ir.Model, list[Note]]:
    """Return a student with pairs in the place of convolutions, and notes on what was replaced and what was not.

    Args:
        model: With shapes, of an operator set that gradients are declared for; not changed.
        windows: How many windows each channel gets.
        selection: Which convolutions.
        context: What the pass is given.

    Raises:
        NotTrained: There is nothing to replace.
        RunError: The model does not run on the samples.
    """
    student = model.clone()
    infer_shapes(student)
    layers, notes = _convolutions(student, windows, selection)
    if not layers:
        raise NotTrained(Reason(SeparableCode.NONE), *notes)
    samples = context.draw(SAMPLES, "distill: means and variances of a separable student")
    made = [(use.node.outputs[0].name or "", use.output_axis or 1) for layer in layers for use in layer.uses]
    moments = channel_moments(model, made, samples, context.open_session)
    values = {value.name: value for layer in layers for use in layer.uses for value in use.node.outputs}
    editor = Editor(student)
    for layer in layers:
        write(editor, layer, nearest_pair(layer, windows), [None] * len(layer.uses))
    producers = {output.name: output for node in student.graph for output in node.outputs if output.name in values}
    for name, axis in made:
        _normalize(editor, producers[name], moments[name, axis])
    infer_shapes(student)
    for name, array in estimate_statistics(student, samples, context.open_session).items():
        overwrite(student.graph.initializers[name], array)
    shapes = {name: array.shape for name, array in context.samples.first().items()}
    before, after = (measure_cost(specialize_shapes(each, shapes)) for each in (model, student))
    told = f"{len(layers)} convolutions became pairs of a depthwise and a 1x1 convolution"
    return student, [Note("model", told, _savings(before, after)), *notes]


def nearest_pair(layer: LinearLayer, windows: int) -> Split:
    """Return the pair of so many windows for each channel that is nearest to the weight of a convolution.

    Source: C. Eckart and G. Young (1936), for each channel, as no two share a factor.
    """
    matrices = layer.matrix().reshape(layer.inputs, math.prod(layer.kernel), layer.outputs)
    left, singular, right = np.linalg.svd(matrices, full_matrices=False)
    first, second = left[:, :, :windows], singular[:, :windows, None] * right[:, :windows]
    dense = np.matmul(first, second).reshape(layer.columns, layer.outputs)
    kernels = first.reshape(layer.inputs, *layer.kernel, -1)
    return Split(Factorization.SEPARABLE, (first.shape[2],), (kernels, second), dense)


def _convolutions(model: ir.Model, windows: int, selection: Selection) -> tuple[list[LinearLayer], list[Note]]:
    """Return the layers that become pairs, and notes on convolutions that do not."""
    layers, left = find_layers(model, selection, smallest=1)
    wide = {label(use.node) for layer in linear_layers(model.graph) if _has_window(layer) for use in layer.uses}
    notes = [note for note in left if note.subject in wide]
    found: list[LinearLayer] = []
    for layer in filter(_has_window, layers):
        places = math.prod(layer.kernel)
        pair = layer.inputs * min(windows, places) * (places + layer.outputs)
        if layer.outputs > MOST_OUTPUTS * layer.inputs:
            reason = Reason(SeparableCode.FEW_CHANNELS, (layer.outputs, layer.inputs))
        elif pair >= layer.parameters:
            reason = Reason(SeparableCode.NOT_SMALLER, (pair,))
        else:
            found.append(layer)
            continue
        notes.append(left_alone(layer.name, reason))
    return found, notes


def _has_window(layer: LinearLayer) -> bool:
    return math.prod(layer.kernel) > 1 and Factorization.SEPARABLE in forms(layer)


def _normalize(editor: Editor, value: ir.Value, wanted: ChannelMoments) -> None:
    """Put a BatchNormalization behind a value, whose result has means and variances of the channels that are wanted."""
    node, name = value.producer(), value.name or ""
    assert node is not None
    assert value.dtype is not None
    dtype = value.dtype.numpy()
    zeros = np.zeros(len(wanted.mean))
    operands = {"scale": np.sqrt(wanted.variance + EPSILON), "shift": wanted.mean, "mean": zeros, "variance": zeros + 1}
    stored = [editor.initializer(f"{name}_{key}", array.astype(dtype)) for key, array in operands.items()]
    attributes = [ir.AttrFloat32("epsilon", EPSILON)]
    made = ir.Node("", "BatchNormalization", [None, *stored], attributes, name=editor.name(f"{name}_normalized"))
    editor.graph.insert_after(node, made)
    take_over(made.outputs[0], value)
    value.name = editor.name(f"{name}_pair")
    made.replace_input_with(0, value)


def _savings(before: Cost, after: Cost) -> str:
    """Return what a student costs against the model."""
    return ", ".join(
        f"{title} {in_thousands(old)} -> {in_thousands(new)} ({old / max(new, 1):.1f}x fewer)"
        for title, old, new in (
            ("MACs", before.macs, after.macs),
            ("parameters", before.parameters, after.parameters),
        )
    )
