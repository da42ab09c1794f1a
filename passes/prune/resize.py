"""Rewrites the lengths and places that ops hold as data, so that they fit the axes that were cut.

Reshape, Expand, Split, Slice, Gather, Pad and Resize take sizes or places as attributes or as constants. Each kind of
structure of `ops.axes` that does has one function here, found by its word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.coupling import Coupling
from onnxslim.analysis.labels import Mask
from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor
from onnxslim.ops.binding import attribute, bind
from onnxslim.ops.parameters import numbers, padding, pieces, sliced, slices
from onnxslim.ops.relations import Indices

THROUGH = (1 << 31) - 1
"""An end of a Slice beyond every axis."""
SPLIT_AS_INPUT = 13
"""Since this operator set, Split takes its sizes as an input."""


def rewrite_lengths(model: ir.Model, coupling: Coupling, gone: Mask) -> None:
    """Rewrite what the nodes of the main graph hold as lengths and places, as if the labels `gone` were cut already."""
    state = _Cut(Editor(model), coupling, gone)
    for node in list(model.graph):
        fitted = bind(node)
        rewrite = _REWRITES.get(fitted.signature.kind) if fitted is not None else None
        if rewrite is not None and any(_shrinks(coupling, value, gone) for value in (*node.inputs, *node.outputs)):
            rewrite(state, node)


class _Cut:
    """What is cut, and what adds new constants."""

    def __init__(self, editor: Editor, coupling: Coupling, gone: Mask) -> None:
        self.editor = editor
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
        node.replace_input_with(index, self.editor.initializer(f"{node.outputs[0].name}_{name}", array))


def _shrinks(coupling: Coupling, value: ir.Value | None, gone: Mask) -> bool:
    axes = () if value is None else coupling.relations.values().get(value, ())
    return any((labels := coupling.of_axis(axis)) is not None and bool(gone[labels].any()) for axis in axes)


def _shape_at(name: str, index: int) -> Callable[[_Cut, ir.Node], None]:
    """Return the rewrite of an op that is given the shape of its result; entries up to 1 follow by themselves."""

    def rewrite(cut: _Cut, node: ir.Node) -> None:
        entries: Sequence[int | None] | None = numbers(node, name, index)
        whole = entries is not None
        if entries is None and index < len(node.inputs):
            entries = pieces(node.inputs[index])
        result = node.outputs[0]
        if entries is None or result.shape is None:
            return
        missing = len(result.shape) - len(entries)
        lengths: list[int | None] = []
        for at, entry in enumerate(entries):
            if entry is None or entry < 0 or entry == 1:
                lengths.append(entry)
            elif entry == 0:
                # It copies the length at the same place of the input, which may be another axis altogether.
                left = cut.length(result, at + missing, 0)
                lengths.append(0 if left == cut.length(node.inputs[0], at, 0) else left)
            else:
                lengths.append(cut.length(result, at + missing, entry))
        if whole:
            cut.write(node, name, index, [length or 0 for length in lengths])
        elif lengths != list(entries):
            node.replace_input_with(index, _joined(cut, node, node.inputs[index], lengths))

    return rewrite


def _joined(cut: _Cut, node: ir.Node, shape: ir.Value | None, lengths: Sequence[int | None]) -> ir.Value:
    """Return a vector as `shape` with other numbers in it; what is None in `lengths` stays computed as it is.

    `shape` is a constant, or a Concat of such vectors (`onnxslim.ops.parameters.pieces`). Others may read it: a new
    Concat is made.
    """
    assert shape is not None
    held = constant(shape)
    stem = f"{node.outputs[0].name}_shape"
    if held is not None:
        array = np.array(lengths, held.dtype).reshape(held.shape)
        return shape if np.array_equal(array, held) else cut.editor.initializer(stem, array)
    joint = shape.producer()
    entries = pieces(shape)
    if joint is None or entries is None or list(lengths) == entries:
        return shape
    parts: list[ir.Value] = []
    begin = 0
    for part in joint.inputs:
        count = len(pieces(part) or ())
        parts.append(_joined(cut, node, part, lengths[begin : begin + count]))
        begin += count
    copy = ir.Node(joint.domain, joint.op_type, parts, attributes=list(joint.attributes.values()), num_outputs=1)
    copy.outputs[0].name = cut.editor.name(stem)
    copy.outputs[0].type, copy.outputs[0].shape = shape.type, shape.shape
    cut.editor.graph.insert_before(node, copy)
    return copy.outputs[0]


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
    opset = cut.editor.graph.opset_imports.get("", SPLIT_AS_INPUT)
    if len(node.inputs) > 1 or "split" in node.attributes or len(set(lengths)) > 1:
        node.attributes.pop("num_outputs", None)
        if opset < SPLIT_AS_INPUT:
            node.attributes["split"] = ir.AttrInt64s("split", lengths)
        cut.write(node, "split", 1, lengths)


def _slice(cut: _Cut, node: ir.Node) -> None:
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    assert source.shape is not None
    rank = len(source.shape)
    taken = slices(node, rank)
    starts, ends = numbers(node, "starts", 1), numbers(node, "ends", 2)
    if taken is None or starts is None or ends is None:
        return
    steps = [step for _, _, step in taken.values()]
    apart: dict[int, Indices] = {}
    for at, (axis, (start, end, step)) in enumerate(taken.items()):
        stays = cut.stays(source, axis)
        if stays is None or stays.all():
            continue
        places = sliced(len(stays), start, end, step)
        moved: Indices = (np.cumsum(stays) - 1)[places[stays[places]]]
        gaps = set(np.diff(moved).tolist()) or {step}
        if len(gaps) == 1 and len(moved):
            (steps[at],) = gaps
            last = int(moved[-1]) + (1 if steps[at] > 0 else -1)
            starts[at], ends[at] = int(moved[0]), last if last >= 0 else -THROUGH
        else:  # what is left lies at no even distance: each place is named
            starts[at], ends[at], steps[at] = 0, THROUGH, 1
            apart[axis] = moved
    cut.write(node, "starts", 1, starts)
    cut.write(node, "ends", 2, ends)
    if steps != [step for _, _, step in taken.values()]:
        if "starts" not in node.attributes and (len(node.inputs) < 4 or node.inputs[3] is None):
            cut.write(node, "axes", 3, list(taken))
        cut.write(node, "steps", 4, steps)
    for axis, moved in apart.items():
        held = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        kind = np.int64 if held is None else held.dtype
        indices = cut.editor.initializer(f"{result.name}_places", moved.astype(kind))
        data = node.inputs[0]
        assert data is not None
        gather = ir.Node("", "Gather", [data, indices], [ir.AttrInt64("axis", axis)], num_outputs=1)
        gather.outputs[0].name = cut.editor.name(f"{result.name}_picked")
        gather.outputs[0].type = source.type
        gather.outputs[0].shape = ir.Shape(
            len(moved) if at == axis else data.shape[at] if data.shape is not None else None for at in range(rank)
        )
        cut.editor.graph.insert_before(node, gather)
        node.replace_input_with(0, gather.outputs[0])


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
