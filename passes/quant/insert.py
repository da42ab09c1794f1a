"""Writes the chosen scales into the graph, as QuantizeLinear and DequantizeLinear pairs.

Placement follows what ONNX Runtime fuses (its QDQ selectors): a pair on each quantized tensor, shared by all readers;
the result of an int8 op is read by its QuantizeLinear alone; weights are int8 initializers behind a DequantizeLinear;
biases are int32 with scale input x weight. An op in float whose weight the target would round has a DequantizeLinear of
its own, with the scale repeated for each channel. A Relu or Clip in front of a QuantizeLinear whose levels end where it
cuts is taken out, because quantization saturates there anyway. A gate whose line ends at levels of what it reads is a
Clip of those levels, on a scale of its own.

Every byte that is not a weight is overhead: scales and zero points that are equal are one initializer, names are
short, and the pairs have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.arrays import Array
from onnxslim.model.constants import constant, constant_tensor
from onnxslim.model.edit import Editor, drop_unused, take_over
from onnxslim.ops.parameters import attribute

from .gate_line import reach
from .gates import gate_ends, gate_scale
from .integers import INT8, IntegerType
from .parameters import quantize_bias
from .plan import QuantPlan, TensorScales
from .scales import Scale
from .site import QuantSite, clamp_limits
from .table import Gate, Int8Table
from .weights import QuantizedWeight

MANY = 64
"""Inputs of a node that are replaced one by one."""
SLACK = 1e-6
"""How far, relative to its interval, a clamp may cut into the levels and still be superfluous: float32 rounding."""


class Writer:
    """Adds nodes and constants to a graph, equal constants once, under short names that are free."""

    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self._editor = Editor(model)

    def name(self) -> str:
        """Return a name that is free."""
        return self._editor.numbered("q")

    def constant(self, array: Array) -> ir.Value:
        """Return an initializer, one for all equal arrays."""
        return self._editor.constant("q", array)

    def rename(self, value: ir.Value, original: ir.Value) -> None:
        """Give an initializer the name of the one that it replaces, once nothing reads that one."""
        name = original.name or ""
        if not original.uses() and not original.is_graph_output() and name in self._graph.initializers:
            del self._graph.initializers[name]
            value.name = name

    def add(self, op_type: str, inputs: list[ir.Value], dtype: ir.DataType, **attributes: Any) -> ir.Value:
        """Append a node without a name and return its output."""
        node = ir.node(op_type, inputs, attributes, name="")
        self._graph.append(node)
        output = node.outputs[0]
        output.name, output.type = self.name(), ir.TensorType(dtype)
        return output

    def cast(self, levels: ir.Value, integers: IntegerType) -> ir.Value:
        """Append a Cast of stored levels, which is folded when the model is opened."""
        dtype = ir.DataType.from_numpy(integers.dtype)
        output = self.add("Cast", [levels], dtype, to=dtype.value)
        output.shape = levels.shape
        return output

    def dequantize(self, levels: ir.Value, scale: ir.Value, zero_point: ir.Value | None, axis: int | None) -> ir.Value:
        """Append a DequantizeLinear."""
        inputs = [levels, scale] if zero_point is None else [levels, scale, zero_point]
        attributes = {} if axis is None else {"axis": axis}
        output = self.add("DequantizeLinear", inputs, ir.DataType.FLOAT, **attributes)
        output.shape = levels.shape
        return output

    def pair(self, value: ir.Value, scale: Scale) -> ir.Value:
        """Append a QuantizeLinear and a DequantizeLinear behind `value`, and return the output of the second.

        Levels of fewer than 8 bits are cut off by a Clip of integers between the two. It stands behind the kernel that
        QuantizeLinear becomes a part of, so that all is computed on integers.
        """
        step, zero_point = (self.constant(part) for part in scale.parameters)
        levels = self.add("QuantizeLinear", [value, step, zero_point], zero_point.dtype or ir.DataType.UINT8)
        levels.shape = value.shape
        if scale.ends is not None:
            levels = self.hold(levels, scale.ends)
        return self.dequantize(levels, step, zero_point, axis=None)

    def hold(self, levels: ir.Value, ends: tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]) -> ir.Value:
        """Append a Clip of levels, of shape [] and their type, and return its output."""
        limits = [self.constant(end) for end in ends]
        held = self.add("Clip", [levels, *limits], levels.dtype or ir.DataType.from_numpy(ends[0].dtype))
        held.shape = levels.shape
        return held

    def dequantize_channels(self, levels: ir.Value, scale: Scale, axis: int, count: int) -> ir.Value:
        """Append a DequantizeLinear with one scale that is repeated along an axis of `count` channels."""
        step, zero_point = (self.constant(np.full(count, part)) for part in scale.parameters)
        return self.dequantize(levels, step, zero_point, axis)


def insert(
    model: ir.Model,
    plan: QuantPlan,
    scales: TensorScales,
    weights: Mapping[ir.Node, QuantizedWeight],
    biases: Mapping[ir.Node, npt.NDArray[np.floating[Any]]],
    table: Int8Table,
) -> None:
    """Insert the pairs of a plan and replace its weights and biases, in place.

    There is a scale for every tensor of every group, and a weight, and a bias, for every site that has one. What is
    read on another scale than it is made on has a second pair behind the first.
    """
    writer = Writer(model)
    _write_parameters(writer, plan, scales, weights, biases)
    _insert_pairs(model, writer, plan, scales, table)


def insert_between_floats(model: ir.Model, plan: QuantPlan, scales: TensorScales, table: Int8Table) -> None:
    """Insert the pairs of a plan, and leave its weights and biases as they are; see `insert`."""
    _insert_pairs(model, Writer(model), plan, scales, table)


def _insert_pairs(model: ir.Model, writer: Writer, plan: QuantPlan, scales: TensorScales, table: Int8Table) -> None:
    graph = model.graph
    for site in plan.sites:
        for index in site.constants:
            integers = scales.of(site, site.results[0]).integers
            _write_constant(writer, site.node, index, integers, symmetric=table.symmetric)
    gates = [
        (site, scales.of(site, site.operands()[0]), scales.of(site, site.results[0]))
        for site in plan.sites
        if site.row.gate is not None
    ]
    makers = {value: site for site in plan.sites for value in site.results}
    readers: dict[ir.Value, dict[ir.Node, QuantSite]] = {}
    for site in plan.sites:
        for operand in site.operands():
            readers.setdefault(operand, {})[site.node] = site
    replaced: dict[ir.Node, dict[int, ir.Value]] = {}
    for value, usual in scales.usual.items():
        maker, own = makers.get(value), readers.get(value, {})
        wanted = {node: scales.of(site, value) for node, site in own.items()}
        # An input has the most bits that are read of it.
        scale = max((usual, *wanted.values()), key=_bits) if maker is None else scales.of(maker, value)
        behind = value if maker is None else _without_clamp(graph, value, scale, table)
        uses = tuple(behind.uses())
        output = writer.pair(behind, scale)
        pairs = {scale: output}
        for use in uses:
            if maker is not None or use.node in own:
                read = wanted.get(use.node, scale)
                if read not in pairs:
                    pairs[read] = writer.pair(output, read)
                rounds = use.idx == 0 and _rounds(table, use.node)
                new = _of_channels(writer, use.node, pairs[read], read) if rounds else pairs[read]
                replaced.setdefault(use.node, {})[use.idx] = new
        if maker is not None and behind.is_graph_output():
            _take_over_output(graph, behind, output, writer.name())
    for node, inputs in replaced.items():
        _replace_inputs(node, inputs)
    for site, read, made in gates:
        _write_gate(writer, site, read, made)
    drop_unused(graph)
    graph.sort()


def _write_gate(writer: Writer, site: QuantSite, read: Scale, made: Scale) -> None:
    """Let a gate, with the pairs of what it reads and makes around it, be made of levels; it stays as it is where the
    scales, or their type, do not allow for that."""
    node, gate = site.node, gate_scale(read, reach(site.node, site.row))
    product = site.row.gate is Gate.FACTOR
    if gate is None or read.integers.kept_in.name not in site.row.types or not (product or made == gate):
        return
    floats, graph = node.inputs[0], node.graph
    assert floats is not None
    assert graph is not None
    pair = floats.producer()
    assert pair is not None
    levels, ends = pair.inputs[0], gate_ends(gate)
    assert levels is not None
    if ends is not None:
        levels = writer.hold(levels, ends)
    if product:
        step, zero_point = (writer.constant(part) for part in gate.parameters)
        factor = writer.dequantize(levels, step, zero_point, axis=None)
        take_over(writer.add("Mul", [floats, factor], ir.DataType.FLOAT), node.outputs[0])
    else:
        (use,) = site.results[0].uses()
        use.node.outputs[0].replace_all_uses_with(levels)
        graph.remove(use.node, safe=True)
    graph.remove(node, safe=True)
    if not floats.uses() and not floats.is_graph_output():
        graph.remove(pair, safe=True)


def _rounds(table: Int8Table, node: ir.Node) -> bool:
    """Whether the target rounds the weight of a node, which is stored as floats, by itself."""
    return not node.domain and node.op_type in table.rounds and constant_tensor(node.inputs[1]) is not None


def _of_channels(writer: Writer, node: ir.Node, output: ir.Value, scale: Scale) -> ir.Value:
    """Return what a node reads of a pair in place of its output: that of a DequantizeLinear of as many equal scales as
    there are channels. One channel has one scale, and nothing helps."""
    axis = 0 if attribute(node, "transA") else 1
    size = None if output.shape is None else output.shape[axis]
    pair = output.producer()
    assert pair is not None
    levels = pair.inputs[0]
    assert levels is not None
    return writer.dequantize_channels(levels, scale, axis, size) if isinstance(size, int) and size > 1 else output


def _bits(scale: Scale) -> int:
    return scale.integers.bits


def _replace_inputs(node: ir.Node, inputs: Mapping[int, ir.Value]) -> None:
    """Replace inputs of a node. To replace one takes as long as the node has inputs: one of many is made anew."""
    if len(inputs) <= MANY:
        for index, value in inputs.items():
            node.replace_input_with(index, value)
        return
    given = [inputs.get(index, value) for index, value in enumerate(node.inputs)]
    attributes = list(node.attributes.values())
    made = ir.Node(node.domain, node.op_type, given, attributes, num_outputs=len(node.outputs), name=node.name)
    graph = node.graph
    assert graph is not None, "it lies in the main graph"
    graph.insert_before(node, made)
    for old, result in zip(node.outputs, made.outputs, strict=True):
        take_over(result, old)
    graph.remove(node, safe=True)


def _write_parameters(
    writer: Writer,
    plan: QuantPlan,
    scales: TensorScales,
    weights: Mapping[ir.Node, QuantizedWeight],
    biases: Mapping[ir.Node, npt.NDArray[np.floating[Any]]],
) -> None:
    """Replace the weights and biases of all sites; nodes that share a weight go on sharing it."""
    written: dict[tuple[ir.Value, int | None], ir.Value] = {}
    named: dict[ir.Value, ir.Value] = {}
    for site in plan.sites:
        if site.product is None:
            continue
        weight, original = weights[site.node], site.product.weight
        key = (original, weight.axis)
        if key not in written:
            read = weight.integers if site.row.multiplies(weight.integers) else INT8
            zero_point = writer.constant(np.zeros(weight.scale.shape, read.dtype)) if site.row.zero_point else None
            stored = writer.constant(weight.levels.astype(weight.integers.dtype))
            named[stored] = original
            levels = stored if read == weight.integers else writer.cast(stored, read)
            written[key] = writer.dequantize(levels, writer.constant(weight.scale), zero_point, weight.axis)
        site.node.replace_input_with(site.product.weight_index, written[key])
        if site.node in biases and site.product.bias_index is not None:
            operand = site.operands()[0]
            levels_of_bias, scale = quantize_bias(biases[site.node], scales.of(site, operand).scale, weight)
            axis = None if weight.axis is None else 0
            bias = writer.dequantize(writer.constant(levels_of_bias), writer.constant(scale), None, axis)
            site.node.replace_input_with(site.product.bias_index, bias)
    for levels, original in named.items():
        writer.rename(levels, original)


def _write_constant(writer: Writer, node: ir.Node, index: int, integers: IntegerType, *, symmetric: bool) -> None:
    """Replace a constant operand by its levels: one number, with a scale of its own, is as exact as a float."""
    array = constant(node.inputs[index])
    assert array is not None, "the plan says that it is constant"
    scale = Scale.covering(float(array.min()), float(array.max()), integers, symmetric)
    levels = writer.constant(scale.quantize(array.astype(np.float32)))
    zero_point = writer.constant(scale.parameters[1])
    node.replace_input_with(
        index, writer.dequantize(levels, writer.constant(np.asarray(scale.scale)), zero_point, None)
    )


def _without_clamp(graph: ir.Graph, value: ir.Value, scale: Scale, table: Int8Table) -> ir.Value:
    """Remove the clamp that makes `value` where quantization saturates there anyway; return the value to quantize."""
    node = value.producer()
    assert node is not None, "a node makes it"
    limits = clamp_limits(node, table)
    if limits is None:
        return value
    low, high = scale.interval
    slack = SLACK * (high - low)
    if low < limits[0] - slack or high > limits[1] + slack:
        return value
    before = node.inputs[0]
    assert before is not None
    name, exposed = value.name, value.is_graph_output()
    value.replace_all_uses_with(before, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    if exposed:
        before.name = name
    return before


def _take_over_output(graph: ir.Graph, value: ir.Value, quantized: ir.Value, spare: str) -> None:
    """Let `quantized` be the output of the model in place of `value`, under its name."""
    name, shape = value.name, value.shape
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = quantized
    value.name = spare
    quantized.name, quantized.shape = name, shape
