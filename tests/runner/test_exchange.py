"""Arrays of types that numpy lacks go into a session and come back as they were."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxslim
from onnxslim.runner.exchange import PACKED, RARE
from onnxslim.runner.session import Session


def cast_there_and_back(number):
    """A model that gives its input as float32, and that as what it was."""
    nodes = [onnx.helper.make_node("Cast", ["x"], ["wide"], to=1)]
    back = [onnx.helper.make_node("Cast", ["wide"], ["narrow"], to=number)]
    values = {name: onnx.helper.make_tensor_value_info(name, number, ["N"]) for name in ("x", "narrow")}
    wide = onnx.helper.make_tensor_value_info("wide", 1, ["N"])
    graph = onnx.helper.make_graph(nodes + back, "cast", [values["x"]], [wide, values["narrow"]])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("count", [6, 5, 0])
@pytest.mark.parametrize("kind", RARE)
def test_arrays_go_in_and_come_back(kind, count):
    dtype, word = RARE[kind]
    numbers = np.array([0, 1, 3, 5, 2, 7] if word.name.startswith("U") else [0, 1, -3, 5, -2, 7])[:count]
    session = Session.of(onnxslim.optimize(cast_there_and_back(int(word)), check=False).model)
    assert session.inputs[0].dtype == dtype
    fed = numbers.astype(np.float32).astype(dtype)
    outputs = session.run({"x": fed})
    np.testing.assert_array_equal(outputs["wide"], fed.astype(np.float32))
    assert outputs["narrow"].dtype == dtype
    np.testing.assert_array_equal(outputs["narrow"].astype(np.float32), fed.astype(np.float32))
    session.prepare({"x": fed})()


@pytest.mark.parametrize("kind", RARE)
def test_a_model_of_such_a_type_is_optimized_and_checked(kind):
    word = RARE[kind][1]
    result = onnxslim.optimize(cast_there_and_back(int(word)), measure=False)
    assert result.report.passes[0].reason
    assert word in PACKED or word.is_floating_point()
