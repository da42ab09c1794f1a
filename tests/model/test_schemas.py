from __future__ import annotations

import pathlib
import re

import onnx
import pytest

from onnxslim.errors import ModelUnreadable
from onnxslim.model import open_model


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("y = Div (x)", "(Div) has 1 inputs, and its operator takes 2"),
        ("y = Mod (x, x, x)", "(Mod) has 3 inputs, and its operator takes 2"),
        ("y = Resize ()", "(Resize) has 0 inputs, and its operator takes 1 to 4"),
        ("y = Sum ()", "(Sum) has 0 inputs, and its operator takes 1 or more"),
        ("y, z = Relu (x)", "(Relu) has 2 outputs, and its operator takes 1"),
        ("y = Concat (x, x)", "(Concat) lacks the attribute 'axis'"),
        ("y = Constant ()", "(Constant) holds no constant"),
        ("y = Constant <value_int = 1.5> ()", "(Constant) holds no constant: its attributes are 'value_int'"),
        ("y = Constant <wert = 1.5> ()", "(Constant) holds no constant: its attributes are 'wert'"),
        ("y = Elu <alpha = 1> (x)", "(Elu) has the attribute 'alpha' as int, and its operator takes float"),
    ],
)
@pytest.mark.parametrize("within", ["graph", "function"])
def test_a_node_that_is_not_as_its_operator_is_called_so(
    tmp_path: pathlib.Path, call: str, words: str, within: str
) -> None:
    header = '<ir_version: 10, opset_import: ["" : 21, "own": 1]> g (float[2] x) => (float[2] y)'
    text = f"{header} {{ {call} }}"
    if within == "function":
        text = f'{header} {{ y = own.f (x) }} <domain: "own", opset_import: ["" : 21]> f (x) => (y) {{ {call} }}'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    with pytest.raises(ModelUnreadable, match=re.escape(words)):
        open_model(tmp_path / "model.onnx")


def test_the_operator_set_of_a_function_says_how_many_outputs_there_are(tmp_path: pathlib.Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "own": 1]>
        g (float[1, 2] x, float[2] s) => (float[1, 2] y) { y = own.f (x, s) }
        <domain: "own", opset_import: ["" : 9]>
        f (x, s) => (y) { y, a, b, c, d = BatchNormalization (x, s, s, s, s) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    open_model(tmp_path / "model.onnx", inline=False)


@pytest.mark.parametrize(("given", "words"), [("", "holds no constant"), ("<v = 2.0>", None)])
def test_a_constant_that_a_call_does_not_give_is_called_so(
    tmp_path: pathlib.Path, given: str, words: str | None
) -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 21, "own": 1]> g (float x) => (float y) {{ y = own.f {given} (x) }}
        <domain: "own", opset_import: ["" : 21]>
        f <v> (x) => (y) {{ c = Constant <value_float: float = @v> () y = Mul (x, c) }}"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    if words is None:
        assert len(open_model(tmp_path / "model.onnx").graph) == 1
        return
    with pytest.raises(ModelUnreadable, match=words):
        open_model(tmp_path / "model.onnx")


def test_an_operator_that_came_later_is_called_so(tmp_path: pathlib.Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 9, "own": 1]> g (float[2] x) => (float[2] y) {
        z = Unheard (x) y = HardSwish (z) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    with pytest.raises(ModelUnreadable, match=r"HardSwish.* is no operator of opset 9"):
        open_model(tmp_path / "model.onnx")
