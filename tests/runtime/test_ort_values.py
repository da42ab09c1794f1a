"""Arrays of types that numpy lacks go into a session and come back as they were."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxslim
from onnxslim.pipeline.difference import difference
from onnxslim.pipeline.probes import InputProbe, rounded_otherwise
from onnxslim.runtime.ort_values import ML_DTYPES, PACKED
from onnxslim.runtime.session import Session


def cast_there_and_back(number):
    """A model that gives its input as float32, and that as what it was."""
    nodes = [onnx.helper.make_node("Cast", ["x"], ["wide"], to=1)]
    back = [onnx.helper.make_node("Cast", ["wide"], ["narrow"], to=number)]
    values = {name: onnx.helper.make_tensor_value_info(name, number, ["N"]) for name in ("x", "narrow")}
    wide = onnx.helper.make_tensor_value_info("wide", 1, ["N"])
    graph = onnx.helper.make_graph(nodes + back, "cast", [values["x"]], [wide, values["narrow"]])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("count", [6, 5, 0])
@pytest.mark.parametrize("kind", ML_DTYPES)
def test_arrays_go_in_and_come_back(kind, count):
    dtype, word = ML_DTYPES[kind]
    numbers = np.array([0, 1, 3, 5, 2, 7] if word.name.startswith("U") else [0, 1, -3, 5, -2, 7])[:count]
    session = Session.of(onnxslim.optimize(cast_there_and_back(int(word)), check=False).model)
    assert session.inputs[0].dtype == dtype
    fed = numbers.astype(np.float32).astype(dtype)
    outputs = session.run({"x": fed})
    np.testing.assert_array_equal(outputs["wide"], fed.astype(np.float32))
    assert outputs["narrow"].dtype == dtype
    np.testing.assert_array_equal(outputs["narrow"].astype(np.float32), fed.astype(np.float32))
    session.prepare({"x": fed})()


@pytest.mark.parametrize("kind", ML_DTYPES)
def test_a_model_of_such_a_type_is_simplified_and_checked(kind):
    word = ML_DTYPES[kind][1]
    model = cast_there_and_back(int(word))
    model.graph.node[1].input[0] = "same"
    model.graph.node.insert(1, onnx.helper.make_node("Reshape", ["wide", "flat"], ["turned"]))
    model.graph.node.insert(2, onnx.helper.make_node("Reshape", ["turned", "flat"], ["same"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1]), "flat"))
    (record,) = onnxslim.optimize(model, measure=False).report.passes
    assert record.kept
    assert record.nodes[1] < record.nodes[0]
    assert record.reason == "outputs unchanged"


@pytest.mark.parametrize("kind", [kind for kind, (_, word) in ML_DTYPES.items() if word not in PACKED])
def test_other_numbers_of_such_a_type_are_seen(kind):
    one = np.array([1, 2, 4]).astype(ML_DTYPES[kind][0])
    assert difference(one, one) is None
    assert difference(one, (one.astype(np.float32) * [1, 1, 0.5]).astype(one.dtype)) is not None
    feeds = rounded_otherwise(InputProbe(lambda: {"x": one}), np.random.default_rng(0))
    assert feeds is None or feeds["x"].dtype == one.dtype


def test_scalars_stay_scalars():
    kind = "tensor(bfloat16)"
    dtype, word = ML_DTYPES[kind]
    x = onnx.helper.make_tensor_value_info("x", int(word), [])
    i = onnx.helper.make_tensor_value_info("i", onnx.TensorProto.INT64, [])
    y = onnx.helper.make_tensor_value_info("y", int(word), None)
    z = onnx.helper.make_tensor_value_info("z", onnx.TensorProto.INT64, None)
    nodes = [onnx.helper.make_node("Identity", ["x"], ["y"]), onnx.helper.make_node("Identity", ["i"], ["z"])]
    graph = onnx.helper.make_graph(nodes, "scalars", [x, i], [y, z])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    outputs = Session.of(onnxslim.optimize(model, check=False).model).run(
        {"x": np.array(3).astype(dtype), "i": np.array(5)}
    )
    assert (outputs["y"].shape, float(outputs["y"])) == ((), 3)
    assert (outputs["z"].shape, int(outputs["z"])) == ((), 5)


def test_on_a_device_they_are_exchanged_and_not_bound(monkeypatch):
    word = ML_DTYPES["tensor(float8e5m2)"][1]
    session = Session.of(onnxslim.optimize(cast_there_and_back(int(word)), check=False).model)
    session._device = "cuda"
    monkeypatch.setattr(session, "_bound", None)
    fed = np.array([1, 2]).astype(ML_DTYPES["tensor(float8e5m2)"][0])
    np.testing.assert_array_equal(session.run({"x": fed})["wide"], [1, 2])
    session.prepare({"x": fed})()
