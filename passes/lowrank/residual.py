"""Finds what the output of a layer is added to: the error of that so far is made up for by the layer as well.

What counts behind a residual block is the sum. A layer is fitted to what the sum was before, less what its other term
is now; that other term is the stream that all errors of the layers before have gone into.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from onnxslim.analysis.linear_layer import LinearLayer


def find_terms(layers: Iterable[LinearLayer]) -> dict[str, str]:
    """Return for layers, by name, the name of the value that is added to what they give, where nothing else reads
    them."""
    found = {layer.name: _term(layer) for layer in layers if len(layer.uses) == 1}
    return {name: term for name, term in found.items() if term is not None}


def _term(layer: LinearLayer) -> str | None:
    """Return the name of the other term; None where there is none, or it is of another shape or type."""
    output, residual = layer.first.biased_output, layer.first.residual
    if residual is None:
        return None
    _, other = residual
    alike = output.shape is not None and output.shape == other.shape and other.dtype == ir.DataType.FLOAT
    return other.name if alike else None
