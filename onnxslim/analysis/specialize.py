"""What a model looks like on inputs of given sizes: a copy to look at, and to count MACs on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxslim.analysis.fold import fold_constants
from onnxslim.analysis.inference import Inference
from onnxslim.analysis.shapes import forget_shapes, infer_shapes
from onnxslim.model.constants import constant_tensor
from onnxslim.model.nesting import nodes_within
from onnxslim.ops.binding import Dimensions, dimensions
from onnxslim.ops.fact import Fact

ROUNDS = 4
"""A size that is known makes shape arithmetic constant, and that makes further sizes known."""


def specialize_shapes(
    model: ir.Model, shapes: Mapping[str, Sequence[int]] | None = None, *, fold: bool = True
) -> ir.Model:
    """Return a copy of `model` in which the inputs have the given shapes, and everything else follows from them.

    Args:
        model: Not changed.
        shapes: A shape for each input that is to have another than it declares, by name; symbolic dimensions of
            inputs that are not named here become 1.
        fold: Fold what is constant, so that the copy has fewer nodes (those that multiply what depends on an input are
            all there); False folds only where sizes would stay unknown otherwise, and is faster.
    """
    result = model.clone()
    wanted = _wanted(result, shapes or {})
    for value in result.graph.inputs:
        if value.shape is not None:
            value.shape = ir.Shape(wanted[value.name or ""])
    for value in result.graph.outputs:
        if not value.is_graph_input():
            value.shape = None
    forget_shapes(result)
    infer_and_fold(result, fold=fold)
    return result


def infer_and_fold(model: ir.Model, *, fold: bool = True) -> None:
    """Infer shapes and fold constants, in place, until nothing more is known; `fold` as in `specialize_shapes`."""
    infer_shapes(model)
    for _ in range(ROUNDS):
        if (not fold and _all_known(model)) or not fold_constants(model):
            break
        infer_shapes(model)


@dataclasses.dataclass(frozen=True)
class ShapeView:
    """What is known of the values of a model at some sizes."""

    facts: Mapping[ir.Value, Fact]

    def shape(self, value: ir.Value) -> Dimensions | None:
        """Return the shape of a value, None for each size that is not known; None where not even the rank is."""
        fact = self.facts.get(value)
        if fact is None:
            return dimensions(value)
        return None if fact.shape is None else tuple(size if isinstance(size, int) else None for size in fact.shape)

    def is_constant(self, value: ir.Value) -> bool:
        """Whether a value is the same in every run: a weight, or small integers that follow from sizes."""
        fact = self.facts.get(value)
        if fact is None or fact.elements is None:
            return constant_tensor(value) is not None
        return all(isinstance(element, int) for element in fact.elements)


def infer_at(model: ir.Model, shapes: Mapping[str, Sequence[int]] | None) -> ShapeView:
    """Look at a model, which is neither changed nor copied, on inputs of these shapes, as `specialize_shapes` has them;
    None: of those that they declare. Where sizes stay unknown, `specialize_shapes` may find out more."""
    known = Inference(model, None if shapes is None else _wanted(model, shapes))
    known.writing = False
    known.run()
    return ShapeView(known.facts)


def _wanted(model: ir.Model, shapes: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
    """Return a shape for each input whose rank is known."""
    return {
        value.name or "": shapes.get(value.name or "", [size if isinstance(size, int) else 1 for size in value.shape])
        for value in model.graph.inputs
        if value.shape is not None
    }


def _all_known(model: ir.Model) -> bool:
    values = (value for node in nodes_within(model.graph) for value in node.outputs if value.name)
    return all(value.shape is not None and value.shape.is_static() for value in values)
