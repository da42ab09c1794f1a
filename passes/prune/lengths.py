"""Rewrites the lengths and places that ops hold as data, so that they fit the axes that were cut.

Reshape, Expand, Split, Slice, Gather, Pad and Resize take sizes or places as attributes or as constants. Each kind of
structure of `ops.axes` that does has one function here, found by its word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.graph.axes import attribute, fit
from onnxslim.graph.constants import constant
from onnxslim.graph.coupling import Coupling
from onnxslim.graph.labels import Mask
from onnxslim.graph.relations import Indices
from onnxslim.graph.settings import numbers, padding, slices

SPLIT_AS_INPUT = 13
"""Since this operator set, Split takes its sizes as an input."""


def rewrite_lengths(model: ir.Model, coupling: Coupling, gone: Mask) -> None:
    """Rewrite what the nodes of the main graph hold as lengths and places, as if the labels `gone` were cut already."""
    for node in model.graph:
        fitted = fit(node)
        rewrite = _REWRITES.get(fitted.signature.kind) if fitted is not None else None
        if rewrite is not None and any(_shrinks(coupling, value, gone) for value in (*node.inputs, *node.outputs)):
            rewrite(_Cut(model.graph, coupling, gone), node)


class _Cut:
    """What is cut, and the graph that new constants go to."""

    def __init__(self, graph: ir.Graph, coupling: Coupling, gone: Mask) -> None:
        self.graph = graph
        self.coupling = coupling
        self.gone = gone

    def stays(self, value: ir.Value | None, axis: int) -> Mask | None:
        """Return for each place along an axis whether it stays; None where its size is not known."""
        labels = None if value is None else self.coupling.of(value, axis)
        return None if labels is None else ~self.gone[labels]

    def length(self, value: ir.Value | None, axis: int, otherwise: int) -> int:
        """Return how many places along an axis stay."""
        stays = self.stays(value, axis)
        return otherwise if stays is None else int(stays.sum())

    def write(self, node: ir.Node, name: str, index: int, entries: Sequence[int]) -> None:
        """Write integers where the node has them: in an attribute, or in the input `index` as a new constant."""
        if name in node.attributes:
            node.attributes[name] = ir.AttrInt64s(name, entries)
            return
        old = node.inputs[index] if index < len(node.inputs) else None
        held = constant(old)
        like = held if held is not None else np.zeros(len(entries), np.int64)
        array = np.array(entries, like.dtype).reshape(like.shape if like.size == len(entries) else -1)
        if np.array_equal(array, like) and held is not None:
            return
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        node.replace_input_with(index, self.constant(array, f"{node.outputs[0].name}_{name}"))

    def constant(self, array: npt.NDArray[Any], stem: str) -> ir.Value:
        """Return a new initializer."""
        taken = {value.name for node in self.graph.all_nodes() for value in node.outputs} | set(self.graph.initializers)
        taken |= {value.name for value in self.graph.inputs}
        name = next(name for at in range(len(taken) + 1) if (name := f"{stem}_{at}" if at else stem) not in taken)
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        assert value.const_value is not None
        value.type, value.shape = ir.TensorType(value.const_value.dtype), ir.Shape(array.shape)
        self.graph.register_initializer(value)
        return value


def _shrinks(coupling: Coupling, value: ir.Value | None, gone: Mask) -> bool:
    axes = () if value is None else coupling.relations.values().get(value, ())
    return any((labels := coupling.of_axis(axis)) is not None and bool(gone[labels].any()) for axis in axes)


def _shape_at(name: str, index: int) -> Callable[[_Cut, ir.Node], None]:
    """Return the rewrite of an op that is given the shape of its result; entries up to 1 follow by themselves."""

    def rewrite(cut: _Cut, node: ir.Node) -> None:
        entries = numbers(node, name, index)
        result = node.outputs[0]
        if entries is None or result.shape is None:
            return
        missing = len(result.shape) - len(entries)
        lengths = [cut.length(result, at + missing, entry) if entry > 1 else entry for at, entry in enumerate(entries)]
        cut.write(node, name, index, lengths)

    return rewrite


def _resize(cut: _Cut, node: ir.Node) -> None:
    if len(node.inputs) > 3 and node.inputs[3] is not None and not numbers(node, "axes", len(node.inputs)):
        _shape_at("sizes", 3)(cut, node)


def _split(cut: _Cut, node: ir.Node) -> None:
    axis = attribute(node, "axis")
    assert isinstance(axis, int)
    assert node.inputs[0] is not None
    assert node.inputs[0].shape is not None
    axis %= len(node.inputs[0].shape)
    lengths = [cut.length(value, axis, 0) for value in node.outputs]
    opset = cut.graph.opset_imports.get("", SPLIT_AS_INPUT)
    if len(node.inputs) > 1 or "split" in node.attributes or len(set(lengths)) > 1:
        node.attributes.pop("num_outputs", None)
        if opset < SPLIT_AS_INPUT:
            node.attributes["split"] = ir.AttrInt64s("split", lengths)
        cut.write(node, "split", 1, lengths)


def _slice(cut: _Cut, node: ir.Node) -> None:
    source = node.inputs[0]
    assert source is not None
    assert source.shape is not None
    rank = len(source.shape)
    taken = slices(node, rank)
    starts, ends = numbers(node, "starts", 1), numbers(node, "ends", 2)
    if taken is None or starts is None or ends is None:
        return
    for at, (axis, (start, end, step)) in enumerate(taken.items()):
        stays = cut.stays(source, axis)
        if stays is not None and not stays.all():
            places = np.arange(len(stays))[slice(start, end, step)]
            starts[at] = int(stays[: places[0]].sum())
            ends[at] = starts[at] + int(stays[places].sum())
    cut.write(node, "starts", 1, starts)
    cut.write(node, "ends", 2, ends)


def _gather(cut: _Cut, node: ir.Node) -> None:
    source, axis = node.inputs[0], attribute(node, "axis")
    places = constant(node.inputs[1])
    assert source is not None
    assert source.shape is not None
    assert isinstance(axis, int)
    axis %= len(source.shape)
    stays, result = cut.stays(source, axis), cut.stays(node.outputs[0], axis)
    if places is None or places.ndim != 1 or stays is None or result is None:
        return
    moved: Indices = np.cumsum(stays) - 1
    cut.write(node, "indices", 1, moved[places % len(stays)][result].tolist())


def _pad(cut: _Cut, node: ir.Node) -> None:
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    assert source.shape is not None
    rank = len(source.shape)
    pads = padding(node, rank)
    if pads is None:
        return
    for axis, (before, after) in enumerate(pads):
        stays = cut.stays(result, axis)
        if stays is not None and before >= 0 and after >= 0:
            pads[axis] = (int(stays[:before].sum()), int(stays[len(stays) - after :].sum()))
    axes = [axis % rank for axis in numbers(node, "axes", 3) or range(rank)]
    cut.write(node, "pads", 1, [pads[axis][0] for axis in axes] + [pads[axis][1] for axis in axes])


_REWRITES: Mapping[str, Callable[[_Cut, ir.Node], None]] = {
    "reshape": _shape_at("shape", 1),
    "expand": _shape_at("shape", 1),
    "filled": _shape_at("shape", 0),
    "resize": _resize,
    "split": _split,
    "slice": _slice,
    "gather": _gather,
    "pad": _pad,
}
