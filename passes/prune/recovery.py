"""Gives back what a cut has cost, from samples without labels: means move into biases, weights are fitted anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.contraction import Contraction, contractions
from onnxslim.analysis.cost import Cost
from onnxslim.analysis.coupling import Coupling
from onnxslim.arrays import Indices, Mask
from onnxslim.fit.normalisation import CutNormalisation, has_own_affine
from onnxslim.fit.refit import Fit, enough, fits, refit
from onnxslim.model.edit import Editor
from onnxslim.observe.statistics import ChannelAxis, ChannelMoments
from onnxslim.ops.binding import input_index
from onnxslim.pipeline.interface import Context, Note, remark

from .cutting import add_to_bias


def compensate(
    model: ir.Model,
    coupling: Coupling,
    gone: Mask,
    read: Sequence[Contraction],
    moments: Mapping[ChannelAxis, ChannelMoments],
) -> None:
    """Add what the channels that go are on average to the biases behind them; before the cut."""
    editor = Editor(model)
    for contraction in read:
        labels = coupling.of(contraction.data, contraction.data_axis)
        if labels is not None and gone[labels].any():
            mean = moments[contraction.data.name or "", contraction.data_axis].mean
            shift = contraction.shift(np.where(gone[labels], mean, 0.0))
            add_to_bias(editor, coupling, contraction, shift, gone)


@dataclasses.dataclass(frozen=True)
class Kept:
    """What stays of the outputs of contractions and normalisations, noted before the cut."""

    contractions: Mapping[str, tuple[int, Indices]]
    """For the name of each output the axis of its channels, and the places along it."""
    normalisations: Sequence[CutNormalisation]


def kept(model: ir.Model, coupling: Coupling, gone: Mask, read: Sequence[Contraction]) -> Kept:
    """Return what will stay when the labels `gone` go."""
    outputs: dict[str, tuple[int, Indices]] = {}
    for contraction in read:
        output, axis = contraction.node.outputs[0], contraction.output_axis or 0
        places = coupling.kept(output, axis, gone)
        outputs[output.name or ""] = axis, np.zeros(0, np.int64) if places is None else places
    normalisations = [
        CutNormalisation(node, axis, places)
        for node in model.graph
        if has_own_affine(node)
        for axis, places in _channels(coupling, node, gone)
    ]
    return Kept(outputs, normalisations)


def fit_again(model: ir.Model, teacher: ir.Model, stays: Kept, cost: Cost, context: Context) -> Note:
    """Fit the weights of the cut model to what `teacher`, the model before, gave; return what was done.

    Raises:
        RunError: A model does not run on the samples.
    """
    chosen = [
        Fit(contraction, *stays.contractions[contraction.node.outputs[0].name or ""])
        for contraction in contractions(model.graph)
        if fits(contraction)
    ]
    count = enough(context.samples.count, cost.macs, cost.peak_activation_bytes)
    if not count:
        return remark("weights", "not refitted", "too few samples, or too large a model for what fitting may take")
    samples = context.draw(count, "prune: refitting")
    refit(
        model,
        teacher,
        chosen,
        samples,
        context.generator,
        context.open_session,
        lambda done, total: context.progress("refit", done, total),
        normalisations=stays.normalisations,
    )
    return Note(f"{len(chosen)} weights", f"refitted on {samples.count} samples")


def _channels(coupling: Coupling, node: ir.Node, gone: Mask) -> Iterator[tuple[int, Indices]]:
    """Yield the axis of the channels of a normalisation's output, with the places along it that stay."""
    index, output = input_index(node, "scale"), node.outputs[0]
    scale = None if index is None else node.inputs[index]
    own = None if scale is None else coupling.of(scale, 0)
    for axis in range(len(output.shape or ())):
        labels, places = coupling.of(output, axis), coupling.kept(output, axis, gone)
        if own is None or labels is None or places is None:
            continue
        if np.array_equal(coupling.labels.root[own], coupling.labels.root[labels]):
            yield axis, places
            return
