"""Sparse tensors: opened as dense ones, and written sparse again."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.parser
import pytest
from round_trip import run, there_and_back

from onnxslim.model import (
    open_model,
    save_model,
)


@pytest.mark.parametrize("coordinates", [np.array([1, 5]), np.array([[0, 1], [1, 2]])])
def test_sparse_initializers_are_not_lost(tmp_path: pathlib.Path, coordinates: np.ndarray) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2,3] x) => (float[2,3] y) { y = Add (x, w) }'
    )
    values = onnx.numpy_helper.from_array(np.array([7, 9], np.float32), "w")
    indices = onnx.numpy_helper.from_array(coordinates.astype(np.int64), "w_indices")
    proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [2, 3]))
    onnx.save(proto, tmp_path / "model.onnx")
    (y,) = run(there_and_back(tmp_path / "model.onnx"), x=np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(y, [[0, 7, 0], [0, 0, 9]])


SPARSE = onnx.helper.make_sparse_tensor(
    onnx.numpy_helper.from_array(np.array([7, 9], np.float32), "values"),
    onnx.numpy_helper.from_array(np.array([1, 5], np.int64), "indices"),
    [2, 3],
)


@pytest.mark.parametrize(
    "text",
    [
        "g (float[2,3] x, bool c) => (float[2,3] y) { w = Constant () y = Add (x, w) }",
        "g (float[2,3] x, bool c) => (float[2,3] y) { y = If (c) <"
        "then_branch = t () => (float[2,3] u) { w = Constant () u = Add (x, w) },"
        "else_branch = e () => (float[2,3] v) { w2 = Constant () v = Add (x, w2) }> }",
        "g (float[2,3] x, bool c) => (float[2,3] y) { y = local.F (x) }"
        '<domain: "local", opset_import: ["": 17]> F (u) => (v) { w = Constant () v = Add (u, w) }',
        "g (float[2,3] x, bool c) => (float[2,3] y) { y = local.F (x, c) }"
        '<domain: "local", opset_import: ["": 17]> F (u, c) => (v) { v = If (c) <'
        "then_branch = t () => (a) { w = Constant () a = Add (u, w) },"
        "else_branch = e () => (b) { w2 = Constant () b = Add (u, w2) }> }",
    ],
    ids=["graph", "branch", "function", "branch in a function"],
)
@pytest.mark.parametrize("inline", [True, False])
def test_constants_with_a_sparse_value(tmp_path: pathlib.Path, text: str, inline: bool) -> None:
    proto = onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 17, "local": 1]>' + text)

    def fill(nodes: Iterable[onnx.NodeProto]) -> None:
        for node in nodes:
            for attribute in node.attribute:
                fill(attribute.g.node)
            if node.op_type == "Constant":
                node.attribute.append(onnx.helper.make_attribute("sparse_value", SPARSE))

    fill(proto.graph.node)
    for function in proto.functions:
        fill(function.node)
    onnx.save(proto, tmp_path / "model.onnx")
    save_model(open_model(tmp_path / "model.onnx", inline=inline), tmp_path / "out.onnx")
    feeds = {
        value.name: np.array(True) if value.name == "c" else np.zeros((2, 3), np.float32) for value in proto.graph.input
    }
    (y,) = run(tmp_path / "out.onnx", **feeds)
    np.testing.assert_array_equal(y, [[0, 7, 0], [0, 0, 9]])


def test_what_was_sparse_is_sparse_again_where_that_is_smaller(tmp_path: pathlib.Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[100] x) => (float[100] y) { w = Constant () y = Add (x, w) }'
    )
    values = onnx.numpy_helper.from_array(np.array([7, 9], np.float32), "values")
    indices = onnx.numpy_helper.from_array(np.array([1, 5], np.int64), "indices")
    sparse = onnx.helper.make_sparse_tensor(values, indices, [100])
    proto.graph.node[0].attribute.append(onnx.helper.make_attribute("sparse_value", sparse))
    onnx.save(proto, tmp_path / "model.onnx")
    again = there_and_back(tmp_path / "model.onnx")
    assert [tensor.values.name for tensor in onnx.load(again).graph.sparse_initializer] == ["w"]
    assert again.stat().st_size < 300
    np.testing.assert_array_equal(run(again, x=np.zeros(100, np.float32))[0][[1, 5]], [7, 9])
