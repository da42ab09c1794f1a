"""Quantization-aware training: what comes out is the same QDQ model with other integers and scales, and is better."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from distilled_models import error, images, network
from onnxslim.passes.qat import Qat
from onnxslim.passes.quant import Quant
from onnxslim.passes.simplify import Simplify
from sample_models import from_text
from story import make_context, nodes_of

import onnxslim
from onnxslim.analysis.quantized import quantized_layers
from onnxslim.pipeline.interface import NoteKind
from onnxslim.pipeline.options import make_pass
from onnxslim.runtime.session import Session
from onnxslim.train.fake_quantization import quantized_student

FAST = Qat(epochs=8, batch=16, rate=2e-3)


def quantized(teacher: ir.Model, **options: Any) -> ir.Model:
    model = teacher.clone()
    context = make_context(teacher, images())
    Simplify().run(model, context)
    assert make_pass("quant", {"float_time": 0.0, **options}).run(model, context).modified
    return model


@pytest.mark.parametrize("options", [{}, {"weights": "int4"}, {"weights": "int2"}], ids=str)
def test_it_is_better_afterwards_and_of_the_same_form(options: dict[str, str]) -> None:
    teacher, off = network(), network(noise=0.0 if options else 0.2)  # of 8 bits a good net loses next to nothing
    model = quantized(off, **options)
    before, form, layers = error(model, teacher), [node.op_type for node in model.graph], quantized_layers(model)
    change = dataclasses.replace(FAST, epochs=6).run(model, make_context(teacher, images(512)))
    assert change.modified, change.notes
    assert [node.op_type for node in model.graph] == form
    assert quantized_layers(model) == layers
    assert error(model, teacher) < 0.9 * before


@pytest.mark.parametrize("options", [{}, {"weights": "int4"}, {"weights": "int2"}], ids=str)
def test_a_student_gives_what_the_quantized_model_gives(options: dict[str, str]) -> None:
    teacher = network()
    model = quantized(teacher, **options)
    student = quantized_student(model, model.clone())
    assert student.stored
    feeds = images(16, 5)
    expected = Session.of(model, optimize=False).run(feeds)["y"]
    found = Session.of(student.model, optimize=False).run(feeds)["y"]
    np.testing.assert_allclose(found, expected, atol=0.02 * float(np.abs(expected).max()))


def test_a_scale_that_is_repeated_for_each_channel_grows_with_the_one_that_rounds() -> None:
    teacher = network()
    model = quantized(teacher, exclude=("d",))
    student = quantized_student(model, model.clone())
    ((copies, scale),) = student.repeated.items()
    assert copies not in student.factors
    before = scale.const_value.numpy().copy()  # type: ignore[union-attr]
    student.write({student.factors[scale]: np.full(before.shape, np.log(2), np.float32)})
    np.testing.assert_allclose(scale.const_value.numpy(), 2 * before, rtol=1e-6)  # type: ignore[union-attr]
    np.testing.assert_array_equal(copies.const_value.numpy(), scale.const_value.numpy())  # type: ignore[union-attr]
    assert copies.const_value.shape != scale.const_value.shape  # type: ignore[union-attr]
    expected = Session.of(model, optimize=False).run(images(16, 5))["y"]
    found = Session.of(quantized_student(model, model.clone()).model, optimize=False).run(images(16, 5))["y"]
    np.testing.assert_allclose(found, expected, atol=0.02 * float(np.abs(expected).max()))


def test_levels_of_each_channel_end_where_its_zero_point_says() -> None:
    levels, zeros = np.array([[-8, 7], [-8, 7]]), np.array([-8, 5])
    model = from_text(
        """<ir_version: 10, opset_import: ["" : 21]> g (float[N,2] x) => (float[N,2] y) {
            w = DequantizeLinear <axis = 0> (levels, scale, zero)  y = MatMul (x, w) }""",
        levels=levels.astype(ml_dtypes.int4),
        zero=zeros.astype(ml_dtypes.int4),
        scale=np.array([0.5, 0.25], np.float32),
    )
    student = quantized_student(model, model.clone())
    found = Session.of(student.model, optimize=False).run({"x": np.eye(2, dtype=np.float32)})["y"]
    np.testing.assert_array_equal(found, (levels - zeros[:, None]) * np.array([[0.5], [0.25]]))


def test_what_was_not_trained_is_written_back_as_it_was() -> None:
    model = quantized(network())
    before = {name: value.const_value.numpy().copy() for name, value in model.graph.initializers.items()}  # type: ignore[union-attr]
    quantized_student(model, model.clone()).write({})
    for name, array in before.items():
        np.testing.assert_array_equal(model.graph.initializers[name].const_value.numpy(), array, err_msg=name)  # type: ignore[union-attr]


def test_scales_of_biases_stay_the_product_of_those_that_they_are_added_on() -> None:
    teacher = network()
    model = quantized(network(noise=0.2))
    assert FAST.run(model, make_context(teacher, images())).modified
    checked = 0
    for node in model.graph:
        scales = [
            maker.inputs[1].const_value.numpy()
            for value in node.inputs
            if value is not None and (maker := value.producer()) is not None and maker.op_type == "DequantizeLinear"
        ]
        if len(scales) == 3:
            np.testing.assert_array_equal(scales[2].reshape(-1), (scales[0] * scales[1]).reshape(-1).astype(np.float32))
            checked += 1
    assert checked


def test_a_model_of_floats_stays_as_it_is() -> None:
    model = network()
    before = nodes_of(model.graph)
    change = FAST.run(model, make_context(network(), images()))
    assert not change.modified
    assert change.notes[0].kind is NoteKind.LEFT_ALONE
    assert "quant makes some" in change.notes[0].reason
    assert nodes_of(model.graph) == before


def test_what_is_excluded_keeps_its_integers() -> None:
    teacher = network()
    model = quantized(network(noise=0.2))
    names = [value.name for value in model.graph.initializers.values() if value.dtype == ir.DataType.INT8]
    kept = names[0]
    before = {name: model.graph.initializers[name].const_value.numpy().copy() for name in names}  # type: ignore[union-attr,index]
    dataclasses.replace(FAST, exclude=(str(kept),)).run(model, make_context(teacher, images()))
    changed = {
        name
        for name, array in before.items()
        if (model.graph.initializers[name].const_value.numpy() != array).any()  # type: ignore[union-attr,index]
    }
    assert changed == {*names} - {kept}


def test_it_runs_behind_quant() -> None:
    assert Quant.name in Qat.after


def test_scales_of_weights_and_of_what_flows_between_are_learned() -> None:
    teacher = network()
    model = quantized(network(noise=0.2))
    scales = {
        value.name: value.const_value.numpy().copy()  # type: ignore[union-attr]
        for node in model.graph
        if node.op_type == "QuantizeLinear"
        or (node.op_type == "DequantizeLinear" and node.inputs[0].dtype.bitwidth == 8)  # type: ignore[union-attr]
        if (value := node.inputs[1]) is not None
    }
    assert FAST.run(model, make_context(teacher, images())).modified
    for name, array in scales.items():
        assert (model.graph.initializers[name].const_value.numpy() != array).all(), name  # type: ignore[union-attr,index]
        np.testing.assert_allclose(model.graph.initializers[name].const_value.numpy(), array, rtol=0.5)  # type: ignore[union-attr,index]


def test_zeros_of_few_bits_move_and_those_of_sparse_weights_stay() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[N,64] x) => (float[N,64] y) {
        w = DequantizeLinear (q, s)  y = MatMul (x, w) }"""
    scale = np.float32(0.5)
    for cut, kept in ((0.0, 0), (0.7, 1)):
        levels = np.clip(np.rint(np.where(np.abs(weight) < cut, 0, weight) / scale), -7, 7).astype(np.int8)
        model = from_text(text, q=levels, s=scale)
        assert len(quantized_student(model, model.clone()).masks) == kept


def test_a_stored_weight_that_two_nodes_read_is_one_weight() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[N,4] x) => (float[N,4] y) {
        w = DequantizeLinear (q, s)  a = MatMul (x, w)  v = DequantizeLinear (q, s)  y = MatMul (a, v) }"""
    model = from_text(text, q=np.arange(-8, 8, dtype=np.int8).reshape(4, 4), s=np.float32(0.1))
    student = quantized_student(model, model.clone())
    assert len(student.parameters) == 2  # the weight and the scale
    assert {stored.name for stored in student.stored} == {student.parameters[0]}


def test_names_of_the_model_are_not_taken_for_those_of_the_student() -> None:
    model = from_text(
        """<ir_version: 10, opset_import: ["" : 21]> g (float[N,4] x) => (float[N,4] y) {
        w = DequantizeLinear (q, s)  a = MatMul (x, w)  y = Add (a, taken) }""",
        q=np.arange(-8, 8, dtype=np.int8).reshape(4, 4), s=np.float32(0.1), taken=np.ones(4, np.float32),
    )  # fmt: skip
    taken = model.graph.initializers["taken"]
    taken.name = "q/real"
    student = quantized_student(model, model.clone())
    student.write({name: np.zeros((4, 4), np.float32) for name in student.parameters[:1]})
    assert not model.graph.initializers["q"].const_value.numpy().any()  # type: ignore[union-attr]


def test_what_is_excluded_keeps_its_scale() -> None:
    teacher = network()
    model = quantized(network(noise=0.2))
    node = next(node for node in model.graph if node.op_type == "DequantizeLinear" and node.inputs[0].is_initializer())  # type: ignore[union-attr]
    weight, scale = (value.name for value in node.inputs[:2] if value is not None)
    before = [model.graph.initializers[name].const_value.numpy().copy() for name in (weight, scale)]  # type: ignore[union-attr,index]
    assert dataclasses.replace(FAST, exclude=(str(weight),)).run(model, make_context(teacher, images())).modified
    for name, array in zip((weight, scale), before, strict=True):
        np.testing.assert_array_equal(model.graph.initializers[name].const_value.numpy(), array)  # type: ignore[union-attr,index]


CUT = "prune:ratio=0.4:align=1:compensate=false:refit=false:sensitivity=false"
ROUNDED = "quant:float_time=0,qat:epochs=8:batch=16:rate=0.002"


def stored(model: ir.Model) -> list[np.ndarray]:
    """Return the integers of weights."""
    return [each.integers.const_value.numpy() for each in quantized_student(model, model.clone()).stored]  # type: ignore[union-attr]


def widths(model: ir.Model) -> list[int]:
    """Return how many channels come out of its convolutions."""
    return [len(array) for array in stored(model) if array.ndim == 4]


def test_what_pruning_and_rounding_have_cost_is_won_back_in_one_training(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "net.onnx"
    onnxslim.save_model(network(), path)
    rounded, joint = (
        onnxslim.optimize(path, passes=passes, data=images(), measure=False, goal="size").model
        for passes in (f"{CUT},{ROUNDED.split(',')[0]}", f"{CUT},{ROUNDED}")
    )
    assert widths(joint) == widths(rounded)
    assert max(widths(joint)) < 8
    assert error(joint, network()) < 0.5 * error(rounded, network())


def test_zeros_that_were_made_on_purpose_stay_zero_while_rounded_weights_are_trained(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "net.onnx"
    onnxslim.save_model(network(), path)
    before, after = (
        onnxslim.optimize(path, passes=passes, data=images(), measure=False, goal="size").model
        for passes in ("sparsify:ratio=0.7,quant:float_time=0", f"sparsify:ratio=0.7,{ROUNDED}")
    )
    pairs = zip(stored(before), stored(after), strict=True)
    sparse = [(one, other) for one, other in pairs if np.mean(one == 0) > 0.5]
    assert sparse
    assert all(not other[one == 0].any() for one, other in sparse)
    assert any((one != other).any() for one, other in sparse)


def test_pruning_and_quantizing_may_take_turns(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "net.onnx"
    onnxslim.save_model(network(), path)
    once = f"{CUT.replace('0.4', '0.25')},{ROUNDED}"
    result = onnxslim.optimize(
        path, passes=f"{once},dequantize,{once}", as_written=True, data=images(), measure=False, goal="size"
    )
    records = result.report.passes
    assert [record.name for record in records if record.kept].count("qat") == 2
    cuts = [
        {layer.layer: (layer.before, layer.after) for layer in record.layers}
        for record in records
        if record.name == "prune"
    ]
    assert any(
        first[1] == cuts[1][layer][0] > cuts[1][layer][1] for layer, first in cuts[0].items() if layer in cuts[1]
    )
    assert widths(result.model)
