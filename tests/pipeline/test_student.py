"""A student takes the place of a model where all that the model takes and gives fits, and else says what does not."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx_ir as ir
import pytest
from distilled_models import images, network, normalized_network
from sample_models import from_text

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.errors import BadOptionValue, ModelNotFound, ModelUnreadable
from onnxslim.model import open_model, save_model
from onnxslim.pipeline.student import open_student, replace_by
from onnxslim.runtime.session import Session


def opened(student: ir.Model, model: ir.Model, folder: pathlib.Path) -> ir.Model:
    path = folder / "student.onnx"
    ir.save(student, path)
    return open_student(str(path), model, images(4), Session.of)


def test_it_takes_the_place_with_the_names_of_dimensions_of_the_model(tmp_path: pathlib.Path) -> None:
    model = network()
    save_model(model, tmp_path / "model.onnx")
    model = open_model(tmp_path / "model.onnx")
    student = opened(normalized_network(17, inputs="float[batch,3,8,8] x", dtype="float[batch,5]"), model, tmp_path)
    wanted = Session.of(student).run(images(4))["y"]
    replace_by(model, student)
    save_model(model, tmp_path / "result.onnx")
    result = open_model(tmp_path / "result.onnx")
    assert [str(value.shape) for value in result.graph.inputs] == ["[N,3,8,8]"]
    assert [str(value.shape) for value in result.graph.outputs] == ["[N,5]"]
    np.testing.assert_array_equal(Session.of(result).run(images(4))["y"], wanted)


def test_a_student_of_any_size_gets_the_sizes_of_the_model(tmp_path: pathlib.Path) -> None:
    model = network()
    infer_shapes(model)
    student = opened(normalized_network(inputs="float[N,3,H,W] x"), model, tmp_path)
    replace_by(model, student)
    assert str(model.graph.inputs[0].shape) == "[N,3,8,8]"


def test_inputs_and_outputs_come_in_the_order_of_the_model(tmp_path: pathlib.Path) -> None:
    def pair(text: str) -> ir.Model:
        return from_text(f'<ir_version: 8, opset_import: ["" : 18]> g {text}')

    model = pair("(float[N] a, float[N] b) => (float[N] y, float[N] z) { y = Sub (a, b) z = Add (a, b) }")
    student = pair("(float[N] b, float[N] a) => (float[N] z, float[N] y) { y = Sub (a, b) z = Add (a, b) }")
    ir.save(student, tmp_path / "s.onnx")
    feeds = {name: np.ones(3, np.float32) for name in "ab"}
    found = open_student(str(tmp_path / "s.onnx"), model, feeds, Session.of)
    assert [value.name for value in (*found.graph.inputs, *found.graph.outputs)] == ["a", "b", "y", "z"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": "float[1,3,8,8] x"}, "its input 'x' is 1x3x8x8 and no other, that of the model Nx3x8x8"),
        ({"inputs": "float[N,3,9,9] x"}, "its input 'x' is Nx3x9x9, that of the model Nx3x8x8"),
        ({"inputs": "float[3,8,8] x"}, "its input 'x' is 3x8x8"),
        ({"inputs": "float[N,3,8,8] x, float[N] z"}, "its inputs are 'x', 'z', those of the model 'x'"),
        ({"inputs": "float16[N,3,8,8] x"}, "FLOAT16"),
        ({"output": "r"}, "its outputs are 'r', those of the model 'y'"),
        ({"dtype": "float[N,6]"}, "its output 'y' is Nx6, that of the model Nx5"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, str], words: str, tmp_path: pathlib.Path) -> None:
    model = network()
    with pytest.raises(BadOptionValue) as caught:
        opened(normalized_network(**change), model, tmp_path)  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert "student.onnx" in str(caught.value.where)
    assert caught.value.hint


def test_outputs_that_show_their_size_only_when_it_runs_are_compared_as_well(tmp_path: pathlib.Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[N,3,8,8] x) => (float[A,B] y) { y = Flatten (x) }'
    with pytest.raises(BadOptionValue, match="its output 'y' is 4x192, that of the model 4x5"):
        opened(from_text(text), network(), tmp_path)


def test_a_file_that_is_no_model_is_refused_as_any_other(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ModelNotFound):
        open_student(str(tmp_path / "none.onnx"), network(), images(4), Session.of)
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ModelUnreadable):
        open_student(str(tmp_path / "bad.onnx"), network(), images(4), Session.of)
