"""The weights of a model: external tensors, and the number of bytes."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxslim.model.nesting import every_graph, main_graphs


def external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    """Yield all tensors of the model with external data."""
    for graph in every_graph(model):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value.const_value
        for node in graph:
            for attribute in node.attributes.data.values():
                tensors = attribute.value if attribute.type is ir.AttributeType.TENSORS else (attribute.value,)
                yield from (tensor for tensor in tensors or () if isinstance(tensor, ir.ExternalTensor))


def weight_bytes(model: ir.Model) -> int:
    """Return the bytes of all initializers, including subgraphs; strings, of unknown size, are not counted."""
    return sum(
        value.const_value.nbytes
        for graph in main_graphs(model)
        for value in graph.initializers.values()
        if value.const_value is not None and value.const_value.dtype is not ir.DataType.STRING
    )
