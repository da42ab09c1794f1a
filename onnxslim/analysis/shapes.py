"""Types and shapes of every value, in place; sizes that depend on the inputs are formulas of their names."""

from __future__ import annotations

import onnx_ir as ir

from onnxslim.analysis.inference import Inference
from onnxslim.model.nesting import main_graphs


def infer_shapes(model: ir.Model, known: Inference | None = None) -> tuple[str, ...]:
    """Fill in the types and shapes of all values that can be known; symbolic dimensions keep their names.

    Sizes become ints, or formulas of the names of the inputs' dimensions (`onnxslim.ops.symbols`): equal ones are
    equal in every run. Small integers that turn out to be constant are noted as the `const_value` of what makes them.
    Never raises: shapes are knowledge, and a model about which less is known is no wrong model.

    Args:
        model: Types, shapes and constants are noted in it.
        known: What was known of it before; only what changed since is inferred.

    Returns:
        What went wrong, one line each; empty as a rule.
    """
    inference = known if known is not None else Inference(model)
    inference.problems.clear()
    inference.run()
    return tuple(inference.problems)


def forget_shapes(model: ir.Model) -> None:
    """Drop what is known of the values inside the graphs, so that `infer_shapes` starts from inputs and weights."""
    for graph in main_graphs(model):
        for node in graph:
            for output in node.outputs:
                if not output.is_graph_output():
                    output.shape = None
