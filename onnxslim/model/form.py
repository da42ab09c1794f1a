"""The canonical form of models, established when a model is opened and undone when it is saved.

Passes may rely on it:

- nodes are topologically sorted;
- the default operator domain is ``""``, never ``"ai.onnx"``;
- constants are initializers: a ``Constant`` node becomes one, in subgraphs as well;
- local functions are inlined (`onnxslim.model.inlining`), unless the caller keeps them;
- sparse initializers, and Constant nodes with a sparse value, are dense initializers;
- a dimension of -1, as some exporters write it, is unknown;
- outputs that are maps, or sequences of maps, have no type;
- initializers are not graph inputs in models older than IR version 4, where all of them had to be. Such models become
  models of IR version 4, in the written file as well. Since IR version 4 an initializer that is also an input is a
  default that the caller may override; it stays an input, and is not a constant.

`restored` undoes the form on a copy: initializers that were Constant nodes become Constant nodes again. Nested
subgraphs, nodes of other domains, metadata, names and dynamic dimensions are unchanged.

Source: ONNX IR specification (docs/IR.md), sections "Graphs" and "Optional Inputs".
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator

import onnx_ir as ir

from onnxslim.model.constants import is_constant_node
from onnxslim.model.inlining import DIAGNOSTICS, inline_functions
from onnxslim.model.nesting import main_graphs, nested_graphs, values_of
from onnxslim.model.sparse import SPARSE
from onnxslim.model.weights import external_tensors

FORM = "onnxslim.form"
CONSTANT_NODE = "onnxslim.constant_node"
DEFAULT_DOMAIN = "ai.onnx"


@dataclasses.dataclass(frozen=True)
class OriginalForm:
    """Properties of the opened file that `restored` needs."""

    ir_version: int
    interface: dict[str, ir.Shape | None]
    """Declared shapes of inputs and outputs, which are restored even if inference refines them."""
    external: frozenset[pathlib.Path]
    """Files of external weights, with links resolved."""
    value_info: bool
    """Whether the file had types and shapes of inner values."""
    mode: int | None = None
    """Permissions of the file; None: the model was given in memory."""


def canonicalize(model: ir.Model, *, inline: bool = True, mode: int | None = None) -> None:
    """Bring `model` into canonical form in place, and keep its original form in the metadata of the graph.

    Args:
        model: The model.
        inline: Inline local functions; False keeps their calls.
        mode: Permissions of its file, if any.

    Raises:
        ModelUnreadable: Local functions are recursive.
    """
    paths = {tensor.path for tensor in external_tensors(model)}
    model.graph.meta[FORM] = OriginalForm(
        ir_version=model.ir_version,
        interface={value.name or "": _copied(value.shape) for value in _interface(model)},
        external=frozenset(pathlib.Path(path).resolve() for path in paths),
        value_info=any(value.type is not None for value in _inner_values(model) if value.const_value is None),
        mode=mode,
    )
    for value in _interface(model):
        if value.shape is not None and -1 in value.shape:
            value.shape = ir.Shape([None if size == -1 else size for size in value.shape])
    if model.ir_version < 4:
        model.ir_version = 4
        model.graph.inputs[:] = [value for value in model.graph.inputs if not value.is_initializer()]
    for opsets in (model.opset_imports, *(function.opset_imports for function in model.functions.values())):
        if DEFAULT_DOMAIN in opsets:
            opsets[""] = opsets.pop(DEFAULT_DOMAIN)
    if inline:
        model.graph.meta[DIAGNOSTICS] = inline_functions(model)
    kept_functions = (function.graph for function in model.functions.values())
    for graph in (*main_graphs(model), *kept_functions):
        if not is_sorted(graph):
            graph.sort()
    for graph in main_graphs(model):
        for node in list(graph):
            _lift(node, graph)


def is_sorted(graph: ir.Graph) -> bool:
    """Return whether nodes follow their producers, as in most files; False if the graph has nested graphs."""
    seen: set[ir.Node | None] = {None}
    for node in graph:
        if any(nested_graphs(node)) or not all(value is None or value.producer() in seen for value in node.inputs):
            return False
        seen.add(node)
    return True


def _interface(model: ir.Model) -> tuple[ir.Value, ...]:
    return (*model.graph.inputs, *model.graph.outputs)


def _copied(shape: ir.Shape | None) -> ir.Shape | None:
    return None if shape is None else shape.copy()


def _inner_values(model: ir.Model) -> Iterator[ir.Value]:
    """Yield the values that are neither inputs nor outputs of a graph."""
    for graph in main_graphs(model):
        yield from (value for value in values_of(graph) if not (value.is_graph_input() or value.is_graph_output()))


def _lift(node: ir.Node, graph: ir.Graph) -> None:
    """Replace a Constant node by an initializer."""
    if not is_constant_node(node) or node.outputs[0].is_graph_output():
        return
    if "sparse_value" in node.attributes or len(node.attributes) != 1:
        return
    output = node.outputs[0]
    attribute = node.attributes.get("value")  # the usual one; get_const_tensor takes ten times as long
    tensor = attribute.value if attribute is not None else ir.convenience.get_const_tensor(output)
    if tensor is None:
        return
    value = ir.Value(
        name=output.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
    )
    value.meta[CONSTANT_NODE] = (node.name or "", next(iter(node.attributes.values())), tensor)
    output.replace_all_uses_with(value)
    graph.remove(node, safe=True)
    graph.register_initializer(value)


def mark_sparse(value: ir.Value) -> None:
    """Mark an initializer to be written as sparse, even if it was a Constant node."""
    value.meta[SPARSE] = True
    value.meta.pop(CONSTANT_NODE, None)


def release_constants(model: ir.Model) -> int:
    """Keep former Constant nodes as initializers when the model is saved, and return their number."""
    values = [value for graph in main_graphs(model) for value in graph.initializers.values()]
    return sum(value.meta.pop(CONSTANT_NODE, None) is not None for value in values)


def restored(model: ir.Model) -> ir.Model:
    """Return a copy of `model` in its original form. Weights are shared."""
    result = model.clone()
    form: OriginalForm | None = model.graph.meta.get(FORM)
    for graph in main_graphs(result):
        for value in reversed([value for value in graph.initializers.values() if CONSTANT_NODE in value.meta]):
            _lower(value, graph)
    if form is None:
        return result
    for value in _interface(result):
        value.shape = _copied(form.interface.get(value.name or "", value.shape))
    for value in _inner_values(result):
        if value.const_value is not None or not form.value_info:  # a constant has its own type and shape
            value.type = value.shape = None
    return result


def _lower(value: ir.Value, graph: ir.Graph) -> None:
    """Replace an initializer by a Constant node before all other nodes."""
    tensor = value.const_value
    if tensor is None or value.is_graph_input() or value.is_graph_output() or isinstance(tensor, ir.ExternalTensor):
        return
    name, attribute, old = value.meta[CONSTANT_NODE]
    if tensor is not old:
        attribute = ir.AttrTensor("value", tensor)
    node = ir.Node("", "Constant", [], [attribute], name=name)
    output = node.outputs[0]
    output.type, output.shape = value.type, value.shape
    value.replace_all_uses_with(output)
    del graph.initializers[value.name or ""]
    output.name = value.name
    if len(graph):
        graph.insert_before(graph[0], node)
    else:
        graph.append(node)
