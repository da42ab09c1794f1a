"""Where size, work, time and error lie: layer by layer and op by op, before and after."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from onnxslim.analysis.cost import is_parameter, macs_by_value
from onnxslim.analysis.regions import Region, common_regions
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.commands.onnx_text import op_title
from onnxslim.data import Samples
from onnxslim.errors import OnnxslimError
from onnxslim.model.nesting import nested_graphs, nodes_within
from onnxslim.observe.deviation import Deviation, compare_values
from onnxslim.pipeline.interface import LayerChange, NoteCode
from onnxslim.pipeline.records import NOT_ASKED, Breakdown, LayerCost, LayerFigures, OpFigures
from onnxslim.runtime.kernels import first_value, kernel_milliseconds
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import Target

SAMPLES = 8
"""Samples that errors of layers are measured on: an energy over all elements of a value varies little."""
ADDED = "added by ONNX Runtime"
"""Where the time of its kernels goes that belong to no node: changes of layout, copies."""


@dataclasses.dataclass(frozen=True)
class _ModelSide:
    """What is known of the nodes of one model."""

    macs: Mapping[str, int]
    times: Mapping[str, float]
    unknown: float
    """Milliseconds of kernels that belong to no node."""
    untimed: str | None
    """Why nothing was timed, or None."""
    weights: Mapping[ir.Node, Sequence[ir.TensorProtocol]]
    """The weights that a node is the first to read."""

    def added(self) -> LayerCost:
        """Return the time that no node takes."""
        empty = self.cost(())
        return empty if self.untimed else dataclasses.replace(empty, time_ms=self.unknown)

    def cost(self, nodes: Iterable[ir.Node]) -> LayerCost:
        members = [inner for node in nodes for inner in (node, *_within(node))]
        tensors = [tensor for node in members for tensor in self.weights.get(node, ())]
        bytes_of: collections.Counter[str] = collections.Counter()
        for tensor in tensors:
            if is_parameter(tensor):
                bytes_of[tensor.dtype.name.lower()] += tensor.nbytes
        heaviest = max(bytes_of, key=lambda name: bytes_of[name], default=None)
        names = [first_value(node) for node in members]
        return LayerCost(
            nodes=len(members),
            macs=sum(self.macs.get(name, 0) for name in names),
            weight_bytes=sum(tensor.nbytes for tensor in tensors),
            weight_type=heaviest,
            time_ms=None if self.untimed else sum(self.times.get(name, 0.0) for name in names),
            weight_type_reason=None if heaviest else "it has no weights",
            time_reason=self.untimed,
        )


def break_down(
    before: ir.Model,
    after: ir.Model,
    feeds: Mapping[str, Any],
    target: Target,
    samples: Samples | None,
    *,
    changes: Iterable[LayerChange] = (),
    rescaled: Collection[str] = (),
    timed: bool = True,
) -> Breakdown:
    """Measure where size, work, time and error lie in two models in canonical form, which are not changed.

    Times are measured on `feeds`, which are empty where nothing is run, errors on a few of the samples; None: they are
    not measured. `changes` is what passes made of widths and ranks; of values that are `rescaled` no error is told.
    """
    if any(value.shape is None for node in nodes_within(before.graph) for value in node.outputs if value.name):
        before = before.clone()
        infer_shapes(before)
    sides = [_side(model, feeds, target, timed) for model in (before, after)]
    regions = common_regions(before, after)
    names = [region.value for region in regions if region.value and region.value not in rescaled]
    errors, unmeasured = _errors(before, after, names, target, samples)
    made: dict[str, list[LayerChange]] = {}
    for change in changes:
        made.setdefault(change.layer, []).append(change)
    reasons = dict.fromkeys(names, unmeasured) | dict.fromkeys(rescaled, str(NoteCode.RESCALED.value))
    layers = tuple(_layer(region, sides, errors, reasons, made) for region in regions)
    return Breakdown(layers, _ops((before, after), sides))


def _side(model: ir.Model, feeds: Mapping[str, Any], target: Target, timed: bool) -> _ModelSide:
    shapes = {name: array.shape for name, array in feeds.items() if hasattr(array, "shape")}
    macs = macs_by_value(model, shapes or None)
    times: dict[str, float] = {}
    unknown, untimed = 0.0, None
    if not timed:
        untimed = NOT_ASKED
    elif not target.facts.node_times:
        untimed = f"ONNX Runtime does not tell how long a node takes on {target.provider}"
    else:
        try:
            times, unknown = kernel_milliseconds(model, feeds, target, macs)
        except OnnxslimError as error:
            untimed = error.what
    return _ModelSide(macs, times, unknown, untimed, _weights(model))


def _weights(model: ir.Model) -> dict[ir.Node, list[ir.TensorProtocol]]:
    """Return the constants that each node is the first to read, also through nodes that make others of them."""
    seen: set[ir.Value] = set()
    found: dict[ir.Node, list[ir.TensorProtocol]] = {}
    made: dict[ir.Value, ir.Node] = {}
    for node in nodes_within(model.graph):
        own: list[ir.TensorProtocol] = []
        constant = bool(node.inputs)
        for value in node.inputs:
            if value is None:
                continue
            if value in made:
                own += found.pop(made[value], [])
            elif value.const_value is not None and value.is_initializer():
                own += [] if value in seen else [value.const_value]
                seen.add(value)
            else:
                constant = False
        found[node] = own
        if constant:
            made |= dict.fromkeys(node.outputs, node)
    return found


def _within(node: ir.Node) -> Iterator[ir.Node]:
    for graph in nested_graphs(node):
        yield from nodes_within(graph)


def _errors(
    before: ir.Model, after: ir.Model, names: Sequence[str], target: Target, samples: Samples | None
) -> tuple[dict[str, Deviation], str]:
    """Return the errors of values by name, and why a value may have none."""
    if samples is None:
        return {}, NOT_ASKED
    if samples.synthetic:
        return {}, "not claimed: the samples are synthetic"
    try:
        found = compare_values(
            before, after, names, samples.draw(SAMPLES), lambda model: Session.of(model, target, pack=False)
        )
    except OnnxslimError as error:
        return {}, error.what
    return found, "it is not a tensor of floats"


def _layer(
    region: Region,
    sides: Sequence[_ModelSide],
    errors: Mapping[str, Deviation],
    unmeasured: Mapping[str, str],
    changes: Mapping[str, Sequence[LayerChange]],
) -> LayerFigures:
    first, second = sides
    nodes, side = (region.before, first) if region.before else (region.after, second)
    heaviest = max(nodes, key=lambda node: (side.macs.get(first_value(node), 0), side.cost([node]).weight_bytes))
    names = dict.fromkeys(node.name or "" for node in (*region.before, *region.after))
    found = errors.get(region.value)
    reason: str | None = None
    if found is None:
        reason = unmeasured[region.value] if region.value else "only one of the models has it"
    elif found.sqnr_db is None:
        reason = found.reason or ("it is identical" if found.noise == 0 else "it is all zeros in the original")
    return LayerFigures(
        name=heaviest.name or first_value(heaviest),
        op=op_title(heaviest),
        value=region.value,
        before=first.cost(region.before),
        after=second.cost(region.after),
        changes=tuple(change for name in names for change in changes.get(name, ())),
        sqnr_db=None if found is None else found.sqnr_db,
        sqnr_reason=reason,
    )


def _ops(models: Sequence[ir.Model], sides: Sequence[_ModelSide]) -> tuple[OpFigures, ...]:
    kinds: list[dict[str, list[ir.Node]]] = [{}, {}]
    for model, found in zip(models, kinds, strict=True):
        for node in model.graph:
            found.setdefault(op_title(node), []).append(node)
    figures = [
        OpFigures(op, *(side.cost(found.get(op, ())) for side, found in zip(sides, kinds, strict=True)))
        for op in dict.fromkeys([*kinds[0], *kinds[1]])
    ]
    if any(side.unknown for side in sides):
        figures.append(OpFigures(ADDED, *(side.added() for side in sides)))

    def weight(figure: OpFigures) -> tuple[float, int, int]:
        before, after = figure.before, figure.after
        time = (before.time_ms or 0.0) + (after.time_ms or 0.0)
        return time, before.macs + after.macs, before.weight_bytes + after.weight_bytes

    return tuple(sorted(figures, key=weight, reverse=True))
