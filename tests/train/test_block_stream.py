"""What blocks read and should make is what the models give by themselves."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from distilled_models import images, residual_network
from sample_models import from_text
from story import make_context

from onnxslim.analysis.blocks import Dataflow
from onnxslim.analysis.linear_layer import linear_layers
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.analysis.specialize import infer_at
from onnxslim.observe.batches import held_batches
from onnxslim.observe.probe import truncated
from onnxslim.runtime.session import Session
from onnxslim.train.block_stream import BlockStream, NotBySample


def stream(student: ir.Model, teacher: ir.Model, data: dict[str, np.ndarray], layers: float = 1) -> BlockStream:
    for model in (student, teacher):
        infer_shapes(model)
    context = make_context(teacher, data)
    nodes = [use.node for layer in linear_layers(student.graph) for use in layer.uses]
    flow = Dataflow(student.graph, nodes, infer_at(student, {name: array[:1].shape for name, array in data.items()}))
    taught = {value.name: value for node in teacher.graph for value in node.outputs}
    batches = held_batches(student, context.samples)
    found = flow.blocks(layers)
    return BlockStream(
        student, teacher, lambda value: taught.get(value.name), flow.order, found, batches, context.open_session
    )


def given(model: ir.Model, name: str, data: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(Session.of(truncated(model, [name])).run(data)[name])


def test_blocks_read_what_the_student_makes_by_now_and_should_make_what_the_teacher_makes() -> None:
    student, teacher, data = residual_network(), residual_network(), images(40)
    value = student.graph.initializers["w0"]
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(0.5), name="w0")  # type: ignore[union-attr]
    values = stream(student, teacher, data)
    first = values.values(0)
    np.testing.assert_array_equal(first.inputs["x"], data["x"])
    np.testing.assert_allclose(first.targets["s0"], given(teacher, "s0", data), rtol=1e-5, atol=1e-5)
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(3), name="w0")  # type: ignore[union-attr]
    second = values.values(1)
    np.testing.assert_allclose(second.inputs["s0"], given(student, "s0", data), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(second.originals["s0"], given(teacher, "s0", data), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(second.targets["s1"], given(teacher, "s1", data), rtol=1e-5, atol=1e-5)


def test_a_value_without_a_row_for_each_sample_is_named() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[N,4] x) => (float[N,4] y) {
        t = Transpose (x)  a = MatMul (w, t)  u = Transpose (a)  y = MatMul (u, v) }"""
    model = from_text(text, w=np.ones((4, 4), np.float32), v=np.ones((4, 4), np.float32))
    values = stream(model, model.clone(), {"x": np.ones((40, 4), np.float32)}, layers=0)
    values.values(0)
    with pytest.raises(NotBySample) as caught:
        values.values(1)
    assert caught.value.value == "a"
