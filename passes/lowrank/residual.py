"""Finds what the output of a layer is added to: the error of that so far is made up for by the layer as well.

What counts behind a residual block is the sum. A layer is fitted to what the sum was before, less what its other term
is now; that other term is the stream that all errors of the layers before have gone into.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.ops.parameters import op_of

from .layer import WeightLayer

ADDS = ("", "Add")
"""What sums two values."""


def find_terms(graph: ir.Graph, layers: Iterable[WeightLayer]) -> dict[str, str]:
    """Return for layers, by name, the name of the value that is added to what they give, where nothing else reads
    them."""
    found = {layer.name: _term(graph, layer) for layer in layers if len(layer.sites) == 1}
    return {name: term for name, term in found.items() if term is not None}


def _term(graph: ir.Graph, layer: WeightLayer) -> str | None:
    (site,) = layer.sites
    value = site.node.outputs[0]
    if site.bias is not None and not site.bias.own:
        value = site.bias.node.outputs[0]  # nothing but that bias reads the layer
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output() or op_of(uses[0].node) != ADDS or uses[0].node.graph is not graph:
        return None
    other = uses[0].node.inputs[1 - uses[0].idx]
    if other is None or other is value or constant(other) is not None or other.dtype != ir.DataType.FLOAT:
        return None
    return other.name if value.shape is not None and value.shape == other.shape else None
