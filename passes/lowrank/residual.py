"""Finds what the output of a layer is added to: the error of that so far is made up for by the layer as well.

What counts behind a residual block is the sum. A layer is fitted to what the sum was before, less what its other term
is now; that other term is the stream that all errors of the layers before have gone into.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from onnxslim.analysis.linear_layer import LinearLayer


def find_terms(layers: Iterable[LinearLayer]) -> dict[str, str]:
    """Return for layers that nothing else reads, by name, the name of the value that is added to what they give."""
    terms: dict[str, str] = {}
    for layer in layers:
        output, residual = layer.first.biased_output, layer.first.residual
        if len(layer.uses) > 1 or residual is None or output.shape is None:
            continue
        _, term = residual
        if output.shape == term.shape and term.dtype == ir.DataType.FLOAT:
            terms[layer.name] = term.name or ""
    return terms
