"""A copy at given sizes knows all that follows from them."""

from __future__ import annotations

import onnx_ir as ir
from sample_models import from_text

from onnxslim.analysis.specialize import infer_at, specialize_shapes

TEXT = """
<ir_version: 8, opset_import: ["": 17]>
g (float[N,4] x, float[N,M] z) => (float[K,L] y) <int64[1] two = {2}> {
    s = Shape (x)
    t = Mul (s, two)
    e = Expand (x, s)
    y = Tile (e, t)
}
"""


def shape(value: ir.Value) -> list[int]:
    assert value.shape is not None
    return list(value.shape.numpy())


def test_shape_arithmetic_is_followed() -> None:
    model = ir.from_onnx_text(TEXT)
    copy = specialize_shapes(model, {"x": (3, 4), "z": (3, 5)})
    assert [node.op_type for node in copy.graph if node.outputs[0].uses() or node.outputs[0].is_graph_output()] == [
        "Expand",
        "Tile",
    ]
    assert shape(copy.graph.outputs[0]) == [18, 32]
    assert [value.shape for value in model.graph.inputs] == [ir.Shape(["N", 4]), ir.Shape(["N", "M"])]


def test_what_is_not_said_is_one() -> None:
    copy = specialize_shapes(ir.from_onnx_text(TEXT), {"x": (2, 4)})
    assert [shape(value) for value in copy.graph.inputs] == [[2, 4], [1, 1]]


def test_looking_at_a_model_leaves_it_as_it_is() -> None:
    model = ir.from_onnx_text(TEXT)
    before = ir.to_proto(model).SerializeToString()
    sight = infer_at(model, {"x": (3, 4), "z": (3, 5)})
    made = [value for node in model.graph for value in node.outputs]
    assert [sight.shape(value) for value in made] == [(2,), (2,), (3, 4), (18, 32)]
    assert [sight.is_constant(value) for value in made] == [True, True, False, False]
    assert sight.is_constant(model.graph.initializers["two"])
    assert ir.to_proto(model).SerializeToString() == before


def test_without_sizes_the_symbolic_ones_are_not_known() -> None:
    model = ir.from_onnx_text(TEXT)
    sight = infer_at(model, None)
    assert sight.shape(model.graph.inputs[0]) == (None, 4)
    assert sight.shape(model.graph[2].outputs[0]) == (None, 4)
    assert not sight.is_constant(model.graph[0].outputs[0])


def test_what_the_file_declares_of_other_sizes_is_not_believed() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (int64[2,7] y) { y = NonZero (x) }"""
    )
    assert infer_at(model, {"x": (3, 4)}).shape(model.graph.outputs[0]) == (2, None)
    assert infer_at(model, None).shape(model.graph.outputs[0]) == (2, 7)


def test_an_input_that_is_an_output_as_well_has_its_shape() -> None:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[N,4] x) => (float[N,4] y, float[N,4] x) { y = Relu (x) }'
    graph = specialize_shapes(from_text(text), {"x": [2, 4]}).graph
    assert [list(value.shape or ()) for value in (*graph.inputs, *graph.outputs)] == [[2, 4]] * 3
