"""Symbolic shapes: names survive, and names that are no words do no harm."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from onnxslim.analysis.shapes import forget_shapes, infer_shapes


def model_with(dimension: str) -> ir.Model:
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,4] x) => (y) '
        "{ a = Concat <axis = 0> (x, x) b = Shape (a) y = Reshape (a, b) }"
    )
    model.graph.inputs[0].shape = ir.Shape([dimension, 4])
    return model


def dimensions(value: ir.Value) -> list[str]:
    assert value.shape is not None
    return [str(size.value) if isinstance(size, ir.SymbolicDim) else str(size) for size in value.shape]


def test_dimensions_are_formulas_of_the_names() -> None:
    model = model_with("batch")
    assert infer_shapes(model) == ()
    assert dimensions(model.graph[0].outputs[0]) == ["2*batch", "4"]


@pytest.mark.parametrize("name", ["p2o.Dynamic.0", "a:b", "x y"])
def test_names_that_are_no_words_come_back(name: str) -> None:
    model = model_with(name)
    assert infer_shapes(model) == ()
    assert dimensions(model.graph.inputs[0]) == [name, "4"]
    assert name in dimensions(model.graph[0].outputs[0])[0]


def test_question_marks_are_not_equal_to_each_other() -> None:
    model = ir.from_onnx_text('<ir_version: 8, opset_import: ["": 17]> g (float[N,M] x) => (y) { y = Relu (x) }')
    model.graph.inputs[0].shape = ir.Shape(["?", "?"])
    assert infer_shapes(model) == ()
    assert dimensions(model.graph.inputs[0]) == ["?", "?"]


def test_the_library_leaves_no_notes_in_the_model() -> None:
    model = model_with("N")
    infer_shapes(model)
    assert not any(value.metadata_props for node in model.graph for value in node.outputs)


def test_shapes_can_be_forgotten_and_learnt_again() -> None:
    model = model_with("N")
    infer_shapes(model)
    forget_shapes(model)
    assert model.graph[0].outputs[0].shape is None
    infer_shapes(model)
    assert dimensions(model.graph[0].outputs[0]) == ["2*N", "4"]


def test_a_node_that_is_wrong_is_told_not_raised() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2] x, float[3] y) => (z) { z = Add (x, y) }'
    )
    (problem,) = infer_shapes(model)
    assert problem.startswith("Add")
    assert "[2, 3] do not broadcast" in problem
