"""Quantization-aware training: what comes out is the same QDQ model with other integers and scales, and is better."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from distilled_models import error, images, network
from onnxslim.passes.qat import Qat
from onnxslim.passes.quant import Quant
from onnxslim.passes.simplify import Simplify
from story import make_context, nodes_of

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
    change = FAST.run(model, make_context(teacher, images()))
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
