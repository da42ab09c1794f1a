"""Where the bytes of a model lie: its weights, in the file or in files of their own, and how many they are."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxslim.model.nesting import every_graph, main_graphs


def external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    """Yield every tensor of the model whose bytes lie in a file of their own."""
    for graph in every_graph(model):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value.const_value
        for node in graph:
            for attribute in node.attributes.data.values():
                held = attribute.value if attribute.type is ir.AttributeType.TENSORS else (attribute.value,)
                yield from (tensor for tensor in held or () if isinstance(tensor, ir.ExternalTensor))


def weight_bytes(model: ir.Model) -> int:
    """Return the bytes of all initializers, of subgraphs too; strings, whose bytes are not known, count as none."""
    return sum(
        value.const_value.nbytes
        for graph in main_graphs(model)
        for value in graph.initializers.values()
        if value.const_value is not None and value.const_value.dtype is not ir.DataType.STRING
    )
