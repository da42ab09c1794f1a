"""Decides which nodes run in int8 and which tensors get a scale, so that no int8 op lies alone among floats.

Contractions (Conv, Gemm, MatMul) pay by themselves. All others join only where the tensors around them are int8 anyway:
what an Add between two float ops gains is less than what its QuantizeLinear and DequantizeLinear cost.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.ops.binding import output_channel_axis
from onnxslim.pipeline.interface import Note, left_alone
from onnxslim.pipeline.selection import EVERYTHING, Selection

from .table import Clamp, Int8Table, Role, Row

LEFT = "left in float"


@dataclasses.dataclass(frozen=True)
class QuantSite:
    """A node that can run in int8."""

    node: ir.Node
    row: Row
    data: tuple[int, ...]
    """Inputs that are activations."""
    constants: tuple[int, ...]
    """Inputs among the activations that are one constant number."""
    weight: int | None
    axis: int | None
    """The axis of output channels of the weight; None: it has no weight."""
    bias: int | None
    clamp: ir.Node | None
    """The Relu or Clip behind it that quantization makes superfluous."""

    @property
    def results(self) -> tuple[ir.Value, ...]:
        """What is quantized: the outputs of the node, or of the clamp behind it."""
        return tuple((self.clamp or self.node).outputs)

    @functools.cached_property
    def places(self) -> frozenset[int]:
        """The inputs that are activations, to look them up: a node may have thousands."""
        return frozenset(self.data)

    def operands(self) -> tuple[ir.Value, ...]:
        """Return the activations that it reads."""
        inputs = self.node.inputs
        return tuple(value for value in (inputs[index] for index in self.data) if value is not None)


@dataclasses.dataclass(frozen=True)
class ScaleGroup:
    """Tensors that share one scale, because between them values are only moved."""

    source: ir.Value
    """The tensor whose values the others have."""
    members: tuple[ir.Value, ...]
    """All of them, `source` first."""


@dataclasses.dataclass(frozen=True)
class QuantPlan:
    """What will be quantized."""

    sites: tuple[QuantSite, ...]
    groups: tuple[ScaleGroup, ...]
    left: tuple[Note, ...]
    """Nodes that stay float, each with the reason."""
    last: frozenset[ir.Node] = frozenset()
    """Those of the sites behind which no product runs in int8: what they make goes to the outputs."""


def make_plan(
    model: ir.Model,
    table: Int8Table,
    *,
    selection: Selection = EVERYTHING,
    float_values: Mapping[str, str] | None = None,
    float_nodes: Mapping[ir.Node, str] | None = None,
) -> QuantPlan:
    """Return which nodes and tensors of the main graph become int8.

    Args:
        model: In canonical form, with the types of its values known.
        table: What the target runs in int8.
        selection: Which nodes.
        float_values: Names of tensors that cannot be quantized, and why.
        float_nodes: Nodes that stay float, and why.
    """
    sites: dict[ir.Node, QuantSite] = {}
    reasons: dict[ir.Node, str] = {}
    alone: dict[ir.Value | None, bool] = {}
    for node in model.graph:
        found = (float_nodes or {}).get(node) or _site(node, table, selection, float_values or {}, alone)
        if isinstance(found, QuantSite):
            sites[node] = found
        else:
            reasons[node] = found
    while True:
        dropped = _lonely(sites) | _half_read(sites)
        for node, reason in dropped.items():
            del sites[node]
            reasons[node] = reason
        if not dropped:
            break
    absorbed = {site.clamp for site in sites.values()}
    left = tuple(
        left_alone(node.name or node.op_type, reason, action=LEFT)
        for node, reason in reasons.items()
        if node not in absorbed and _makes_floats(node)
    )
    chosen = tuple(sites.values())
    needed = _needed(sites)
    last = frozenset(
        node for node, site in sites.items() if node not in needed and site.row.role is not Role.CONTRACTION
    )
    return QuantPlan(chosen, _groups(chosen), left, last)


def _makes_floats(node: ir.Node) -> bool:
    """Whether `node` computes on floats at all; what it does to integers (shapes, indices) is no loss."""
    floats = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
    return any(value.dtype in floats for value in node.outputs)


def _site(
    node: ir.Node,
    table: Int8Table,
    selection: Selection,
    float_values: Mapping[str, str],
    alone: dict[ir.Value | None, bool],
) -> QuantSite | str:
    """Return what `node` would be in int8, or why it cannot be."""
    row = table.rows.get(node.op_type) if node.domain == "" else None
    if row is None:
        return f"{node.op_type} has no int8 kernel on {table.provider}"
    if reason := selection.against(node):
        return reason
    for name, wanted in row.attributes.items():
        attribute = node.attributes.get(name)
        if attribute is not None and not np.all(np.asarray(attribute.value) == wanted):
            return f"its kernel is for {name} = {wanted}"
    if row.outputs and len([value for value in node.outputs if value.name]) > row.outputs:
        return "its int8 kernel has no second output"
    return _bind(node, row, table.clamps, float_values, alone)


def _bind(
    node: ir.Node,
    row: Row,
    clamps: Mapping[str, Clamp],
    float_values: Mapping[str, str],
    alone: dict[ir.Value | None, bool],
) -> QuantSite | str:
    """Tell activations, weight and bias of `node` apart; `alone` remembers which weights only such nodes read."""
    weight = axis = bias = None
    if row.weight is not None:
        array = constant(node.inputs[row.weight])
        if array is not None:
            if row.rank is not None and array.ndim != row.rank:
                return f"its weight has {array.ndim} axes, the kernel wants {row.rank}"
            if not np.isfinite(array).all():
                return "its weight is not finite"
            weight, axis = row.weight, output_channel_axis(node, row.weight)
            if axis is None:
                return "which axis of its weight holds the output channels is not known"
            value = node.inputs[row.weight]
            if value not in alone:
                kinds = {(reader.op_type, index) for reader, index in _uses(node, weight)}
                alone[value] = kinds == {(node.op_type, row.weight)}
            if not alone[value]:
                return "its weight is also read by another op"
        elif row.data is None or row.weight not in row.data:
            return "its weight is not constant"
    if row.bias is not None and len(node.inputs) > row.bias and node.inputs[row.bias] is not None:
        array = constant(node.inputs[row.bias])
        if array is None:
            return "its bias is not constant"
        if array.ndim != 1 or not np.isfinite(array).all():
            return "its bias is no finite vector"
        bias = row.bias
    indices = row.data if row.data is not None else tuple(range(len(node.inputs)))
    data: list[int] = []
    constants: list[int] = []
    for index in indices:
        if index == weight:
            continue
        value = node.inputs[index]
        array = constant(value)
        if array is not None and (row.role is not Role.ARITHMETIC or array.size != 1 or not np.isfinite(array).all()):
            return "an operand is a constant tensor"
        (data if array is None else constants).append(index)
        if value is None or value.dtype != ir.DataType.FLOAT:
            return f"its input is {'unknown' if value is None or value.dtype is None else value.dtype.name}, not FLOAT"
    clamp = None if row.role is Role.MOVEMENT else _clamp_behind(node, clamps)
    site = QuantSite(node, row, tuple(data), tuple(constants), weight, axis, bias, clamp)
    for value in (*site.operands(), *site.results):
        if (value.name or "") in float_values:
            return float_values[value.name or ""]
    return site


def _clamp_behind(node: ir.Node, clamps: Mapping[str, Clamp]) -> ir.Node | None:
    """Return the clamp that alone reads what `node` makes; zero must lie inside it, because zero is always a level."""
    output = node.outputs[0]
    uses = tuple(output.uses())
    if len(uses) != 1 or uses[0].idx != 0 or output.is_graph_output() or uses[0].node.graph is not node.graph:
        return None
    follower = uses[0].node
    limits = clamp_limits(follower, clamps)
    return follower if limits is not None and limits[0] <= 0.0 <= limits[1] else None


def clamp_limits(node: ir.Node, clamps: Mapping[str, Clamp]) -> tuple[float, float] | None:
    """Return the interval that a clamp keeps; None where `node` is none, or its limits are not known."""
    clamp = clamps.get(node.op_type) if node.domain == "" else None
    if clamp is None:
        return None
    limits: list[float] = []
    for fixed, index in ((clamp.low, clamp.low_input), (clamp.high, clamp.high_input)):
        value = node.inputs[index] if index is not None and index < len(node.inputs) else None
        array = constant(value)
        if value is not None and (array is None or array.size != 1):
            return None
        limits.append(fixed if array is None else float(array.reshape(())))
    return limits[0], limits[1]


def _uses(node: ir.Node, index: int) -> tuple[tuple[ir.Node, int], ...]:
    value = node.inputs[index]
    return () if value is None else tuple((use.node, use.idx) for use in value.uses())


def _producers(sites: Mapping[ir.Node, QuantSite]) -> dict[ir.Value, QuantSite]:
    return {value: site for site in sites.values() for value in site.results}


def _readers(value: ir.Value, sites: Mapping[ir.Node, QuantSite]) -> tuple[QuantSite | None, ...]:
    """Return the site of each node that reads `value`, None for those that read it as floats."""
    found = ((sites.get(use.node), use.idx) for use in value.uses())
    return tuple(site if site is not None and index in site.places else None for site, index in found)


def _lonely(sites: Mapping[ir.Node, QuantSite]) -> dict[ir.Node, str]:
    """Return the arithmetic and movement sites that would lie alone among floats, and say so."""
    producers = _producers(sites)
    forced = _forced(sites, producers)
    needed = _needed(sites)
    dropped: dict[ir.Node, str] = {}
    for node, site in sites.items():
        if site.row.role is Role.CONTRACTION:
            continue
        readers = [reader for value in site.results for reader in _readers(value, sites)]
        enclosed = bool(readers) and None not in readers
        quantized = [operand in producers for operand in site.operands()]
        from_input = site.row.role is Role.MOVEMENT and all(value.is_graph_input() for value in site.operands())
        if any(value.is_graph_output() for value in (*node.outputs, *site.results)):
            dropped[node] = "it makes an output of the model"
        elif not ((all(quantized) and quantized) or ((any(quantized) or from_input) and enclosed)):
            dropped[node] = "the tensors around it are float"
        elif site.row.scores and node not in needed:
            dropped[node] = "it makes scores for the outputs, and 256 levels rank them badly"
        elif node not in forced and node not in needed:
            dropped[node] = "nothing behind it needs int8"
    return dropped


def _forced(sites: Mapping[ir.Node, QuantSite], producers: Mapping[ir.Value, QuantSite]) -> set[ir.Node]:
    """Return the sites whose inputs cannot but be int8. Sites come in topological order."""
    forced: set[ir.Node] = set()
    for node, site in sites.items():
        original_names = [producers.get(operand) for operand in site.operands()]
        passed_on = all(origin is not None and origin.node in forced for origin in original_names)
        if site.row.required or (passed_on and site.row.role is not Role.CONTRACTION):
            forced.add(node)
    return forced


def _needed(sites: Mapping[ir.Node, QuantSite]) -> set[ir.Node]:
    """Return the sites in front of some contraction."""
    needed: set[ir.Node] = set()
    for node, site in reversed(list(sites.items())):
        readers = [reader for value in site.results for reader in _readers(value, sites)]
        if any(r is not None and (r.row.role is Role.CONTRACTION or r.node in needed) for r in readers):
            needed.add(node)
    return needed


def _half_read(sites: Mapping[ir.Node, QuantSite]) -> dict[ir.Node, str]:
    """Return the contractions whose weight is shared with one that stays float: one initializer, one decision."""
    reason = "its weight is shared with a node that stays float"
    halves: dict[ir.Value | None, bool] = {}
    for node, site in sites.items():
        value = None if site.weight is None else node.inputs[site.weight]
        if site.weight is not None and value not in halves:
            halves[value] = any(reader not in sites for reader, _ in _uses(node, site.weight))
    return {
        node: reason for node, site in sites.items() if site.weight is not None and halves[node.inputs[site.weight]]
    }


def _groups(sites: tuple[QuantSite, ...]) -> tuple[ScaleGroup, ...]:
    """Return the tensors that need a scale. Movement has one input, so that its tensors form trees."""
    by_node = {site.node: site for site in sites}
    sources: dict[ir.Value, ir.Value] = {}
    for site in sites:
        for operand in site.operands():
            sources.setdefault(operand, operand)
        for result in site.results:
            read = any(reader is not None for reader in _readers(result, by_node))
            if site.row.role is Role.MOVEMENT:
                sources[result] = sources[site.operands()[0]]
            elif site.row.required or read or site.row.role is Role.ARITHMETIC:
                sources[result] = result
    members: dict[ir.Value, list[ir.Value]] = {}
    for value, source in sources.items():
        members.setdefault(source, []).append(value)
    return tuple(ScaleGroup(source, tuple(values)) for source, values in members.items())
