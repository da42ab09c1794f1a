"""What a model costs: parameters, multiply-accumulates, bytes; derived from the axis signatures."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.analysis.specialize import ShapeView, infer_at, specialize_shapes
from onnxslim.model.nesting import main_graphs, nested_graphs, nodes_within, read_values
from onnxslim.model.weights import stored_tensors
from onnxslim.ops.binding import bind, dimensions, is_sized
from onnxslim.ops.einsum import EINSUM
from onnxslim.ops.parameters import op_of
from onnxslim.ops.signatures import OpName, signatures
from onnxslim.ops.table import find_op

_NO_PARAMETERS = frozenset({ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.STRING, ir.DataType.UNDEFINED})
"""Element types of shapes, indices, masks and words: such constants are no parameters of the model."""


@dataclasses.dataclass(frozen=True)
class NodeCost:
    """What one node costs."""

    name: str
    """The name of the node, or of its first output where it has none."""
    op_type: str
    macs: int
    parameters: int
    """Elements of the weights that the node reads; a weight that several nodes read counts at each of them."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a model costs."""

    parameters: int
    """Elements of all weights; constants of type int64, bool and string (shapes, indices, masks) are none."""
    macs: int
    """Multiply-accumulates of one run. Additions of biases, activations, normalisations and pooling are not counted."""
    weight_bytes: int
    """Bytes of all constants, packed as their element types say (int4: half a byte)."""
    activation_bytes: int
    """Bytes of all values that the nodes make, were they all kept."""
    peak_activation_bytes: int
    """Bytes of the inputs and values of the main graph that are alive at once, at most, in the order of its nodes."""
    nodes: int
    """Nodes of all graphs."""
    per_node: tuple[NodeCost, ...]
    uncounted: tuple[str, ...]
    """Ops without a signature, whose MACs are not known and count as 0, with how often they occur: ``Einsum x2``."""


def measure_cost(model: ir.Model) -> Cost:
    """Return what `model` costs.

    Symbolic dimensions count as 1, so the figures are those of a batch of one and the shortest sequence. Nodes of
    nested graphs count once each: both branches of an If, one turn of a Loop. Local functions are not looked into.

    The model is not changed: where shapes are missing, they are inferred on a copy.
    """
    if any(value.shape is None for node in nodes_within(model.graph) for value in node.outputs if value.name):
        model = model.clone()
        infer_shapes(model)
    per_node: list[NodeCost] = []
    uncounted: Counter[str] = Counter()
    activation_bytes = 0
    for node in nodes_within(model.graph):
        fitted = bind(node)
        if fitted is None and find_op(op_of(node)).relate is None and not any(nested_graphs(node)):
            uncounted[node.op_type] += 1
        per_node.append(
            NodeCost(
                name=node.name or next((value.name for value in node.outputs if value.name), ""),
                op_type=node.op_type,
                macs=fitted.macs() if fitted else 0,
                parameters=sum(_parameters(value) for value in {value for value in node.inputs if value is not None}),
            )
        )
        activation_bytes += sum(value_bytes(value) for value in node.outputs)
    return Cost(
        parameters=count_parameters(model),
        macs=sum(cost.macs for cost in per_node),
        weight_bytes=sum(tensor.nbytes for tensor in stored_tensors(main_graphs(model))),
        activation_bytes=activation_bytes,
        peak_activation_bytes=_peak(model.graph),
        nodes=len(per_node),
        per_node=tuple(per_node),
        uncounted=tuple(f"{op_type} x{count}" for op_type, count in sorted(uncounted.items())),
    )


def count_parameters(model: ir.Model) -> int:
    """Return the elements of all weights, as `Cost.parameters` counts them; shapes need not be known."""
    return sum(tensor.size for tensor in stored_tensors(main_graphs(model)) if is_parameter(tensor))


def count_macs(model: ir.Model, shapes: Mapping[str, Sequence[int]] | None) -> int:
    """Return the multiply-accumulates of one run. Unlike in `Cost.macs` products of constants count as none: whoever
    runs the model folds them.

    Args:
        model: Not changed.
        shapes: Shapes of the inputs, by name; None: as they are declared, symbolic dimensions as 1.
    """
    return sum(macs for _, macs in _counted(model, shapes))


def macs_by_value(model: ir.Model, shapes: Mapping[str, Sequence[int]] | None) -> dict[str, int]:
    """Return what `count_macs` adds up, by the name of the first value that each node makes."""
    by_value: Counter[str] = Counter()
    for node, macs in _counted(model, shapes):
        by_value[next((output.name for output in node.outputs if output.name), "")] += macs
    return by_value


def _counted(model: ir.Model, shapes: Mapping[str, Sequence[int]] | None) -> Iterator[tuple[ir.Node, int]]:
    """Yield the nodes of a model, or of a copy of it, that multiply what is not constant, with their MACs."""
    sight = infer_at(model, shapes)
    nodes = list(_multiplying(model, sight))
    if shapes is not None and not all(is_sized(node, sight.shape) for node in nodes):
        sight = ShapeView({})
        nodes = list(_multiplying(specialize_shapes(model, shapes, fold=False), sight))
    for node in nodes:
        if fitted := bind(node, sight.shape):
            yield node, fitted.macs()


def _multiplying(model: ir.Model, sight: ShapeView) -> Iterator[ir.Node]:
    """Yield the nodes that multiply what is not constant."""
    fixed: set[ir.Value] = set()
    for node in nodes_within(model.graph):
        read = [value for value in node.inputs if value is not None]
        if read and all(value in fixed or sight.is_constant(value) for value in read):
            fixed.update(node.outputs)
        elif _multiplies(op_of(node)):
            yield node


@functools.cache
def _multiplies(op: OpName) -> bool:
    return any(row.macs or row.kind == EINSUM for row in signatures().get(op, ()))


def value_bytes(value: ir.Value) -> int:
    """Return the bytes of `value`, symbolic dimensions as 1; 0 where type or rank are not known."""
    shape = dimensions(value)
    if shape is None or value.dtype is None or value.dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED):
        return 0
    return math.ceil(math.prod(1 if size is None else size for size in shape) * value.dtype.bitwidth / 8)


def is_parameter(tensor: ir.TensorProtocol) -> bool:
    """Whether the elements of a constant count as parameters: not those of shapes, indices, masks and words."""
    return tensor.dtype not in _NO_PARAMETERS


def _parameters(value: ir.Value) -> int:
    tensor = value.const_value if value.is_initializer() else None
    return tensor.size if tensor is not None and is_parameter(tensor) else 0


def _peak(graph: ir.Graph) -> int:
    """Walk the nodes in order and free each value after the last that reads it; nested graphs read at their node."""
    last = {value: index for index, node in enumerate(graph) for value in read_values(node)}
    freed: dict[int, list[ir.Value]] = {}
    for value, index in last.items():
        if not value.is_graph_output() and not value.is_initializer():
            freed.setdefault(index, []).append(value)
    alive = sum(value_bytes(value) for value in graph.inputs if not value.is_initializer())
    peak = alive
    for index, node in enumerate(graph):
        alive += sum(value_bytes(value) for value in node.outputs)
        peak = max(peak, alive)
        alive -= sum(value_bytes(value) for value in freed.get(index, ()) if value.graph is graph)
        alive -= sum(value_bytes(value) for value in node.outputs if value not in last and not value.is_graph_output())
    return peak
