"""The weights of a model: external tensors, and the number of bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx_ir as ir

from onnxslim.model.mapped import SpilledTensor
from onnxslim.model.nesting import every_graph, main_graphs


def external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    """Yield all tensors of the model with external data, but for those that were spilled."""
    found = (tensor for tensor in stored_tensors(every_graph(model)) if isinstance(tensor, ir.ExternalTensor))
    return (tensor for tensor in found if not isinstance(tensor, SpilledTensor))


def stored_tensors(graphs: Iterable[ir.Graph]) -> Iterator[ir.TensorProtocol]:
    """Yield the initializers of graphs and the tensors in the attributes of their nodes, not of nested graphs."""
    for graph in graphs:
        yield from (value.const_value for value in graph.initializers.values() if value.const_value is not None)
        for node in graph:
            yield from attribute_tensors(node)


def attribute_tensors(node: ir.Node) -> Iterator[ir.TensorProtocol]:
    """Yield the tensors in the attributes of `node`, without those of nested graphs."""
    for attribute in node.attributes.data.values():
        yield from tensors_of(attribute)


def tensors_of(attribute: ir.Attr) -> Sequence[ir.TensorProtocol]:
    """Return the tensors that an attribute holds, none if it refers to one of a function."""
    if attribute.is_ref():
        return ()
    if attribute.type is ir.AttributeType.TENSOR:
        return (attribute.as_tensor(),)
    return attribute.as_tensors() if attribute.type is ir.AttributeType.TENSORS else ()


def weight_bytes(model: ir.Model) -> int:
    """Return the bytes of all initializers, including subgraphs; strings, of unknown size, are not counted."""
    return sum(
        value.const_value.nbytes
        for graph in main_graphs(model)
        for value in graph.initializers.values()
        if value.const_value is not None and value.const_value.dtype is not ir.DataType.STRING
    )
