"""What a model looks like on inputs of given sizes: a copy to look at, and to count MACs on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxslim.graph.fold import fold_constants
from onnxslim.graph.shapes import forget_shapes, infer_shapes

ROUNDS = 4
"""A size that is known makes shape arithmetic constant, and that makes further sizes known."""


def at_sizes(model: ir.Model, shapes: Mapping[str, Sequence[int]] | None = None, *, fold: bool = True) -> ir.Model:
    """Return a copy of `model` in which the inputs have the given shapes, and everything else follows from them.

    Args:
        model: Not changed.
        shapes: A shape for each input that is to have another than it declares, by name; symbolic dimensions of
            inputs that are not named here become 1.
        fold: Fold what is constant, so that the copy has fewer nodes (those that multiply what depends on an input are
            all there); False folds only where sizes would stay unknown otherwise, and is faster.
    """
    result = model.clone()
    for value in result.graph.inputs:
        if value.shape is not None:
            shape = (shapes or {}).get(value.name or "", [size if isinstance(size, int) else 1 for size in value.shape])
            value.shape = ir.Shape(shape)
    for value in result.graph.outputs:
        value.shape = None
    forget_shapes(result)
    infer_shapes(result)
    for _ in range(ROUNDS):
        if (not fold and _all_known(result)) or not fold_constants(result):
            break
        infer_shapes(result)
    return result


def _all_known(model: ir.Model) -> bool:
    values = (value for node in model.graph.all_nodes() for value in node.outputs if value.name)
    return all(value.shape is not None and value.shape.is_static() for value in values)
