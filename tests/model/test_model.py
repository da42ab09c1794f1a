"""Opening and saving: what comes in goes out, and nothing is ever half-written."""

from __future__ import annotations

import errno
import os
import pathlib

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest
from round_trip import run, there_and_back, write
from zoo import MODELS

from onnxslim.errors import ModelNotFound, ModelUnreadable, ModelUnsupported, OutputError
from onnxslim.model import (
    canonicalize,
    open_model,
    release_constants,
    restored,
    save_model,
    weight_bytes,
)
from onnxslim.model.nesting import nodes_within

RESNET8 = MODELS / "fashion_resnet8.onnx"

CONSTANTS = """
<ir_version: 8, opset_import: ["": 17], metadata_props: ["author": "someone"]>
g (float[N,4] x) => (float[N,4] y) {
    one = Constant <value_float = 1.0> ()
    two = Constant <value = float[4] {1.0, 2.0, 3.0, 4.0}> ()
    a = Add (x, one)
    y = Mul (a, two)
}
"""

NESTED = """
<ir_version: 8, opset_import: ["": 17]>
g (bool c, float[N] x) => (float[N] y) {
    y = If (c) <
        then_branch = t () => (float[N] u) { k = Constant <value_float = 2.0> () u = Mul (x, k) },
        else_branch = e () => (float[N] v) { v = Neg (x) }
    >
}
"""

FUNCTION = """
<ir_version: 8, opset_import: ["": 17, "local": 1]>
g (float[N] x) => (float[N] y) { y = local.Twice (x) }
<domain: "local", opset_import: ["": 17]>
Twice (a) => (b) { b = Add (a, a) }
"""


@pytest.mark.parametrize("text", [CONSTANTS, NESTED, FUNCTION])
def test_what_comes_in_goes_out(tmp_path: pathlib.Path, text: str) -> None:
    path = write(tmp_path, text)
    before, after = onnx.load(path), onnx.load(there_and_back(path))
    for field in ("input", "output", "name"):
        assert str(getattr(before.graph, field)) == str(getattr(after.graph, field))
    assert [node.op_type for node in before.graph.node] == [node.op_type for node in after.graph.node]
    assert list(before.metadata_props) == list(after.metadata_props)
    assert [function.name for function in before.functions] == [function.name for function in after.functions]
    assert not after.graph.value_info, "the file told no inner shapes before"
    onnx.checker.check_model(after, full_check=True)


def test_a_second_trip_changes_no_byte(tmp_path: pathlib.Path) -> None:
    first = there_and_back(write(tmp_path, CONSTANTS))
    save_model(open_model(first), tmp_path / "second.onnx")
    assert first.read_bytes() == (tmp_path / "second.onnx").read_bytes()


def test_constants_are_initializers_inside_and_nodes_outside(tmp_path: pathlib.Path) -> None:
    model = open_model(write(tmp_path, CONSTANTS))
    assert [node.op_type for node in model.graph] == ["Add", "Mul"]
    assert set(model.graph.initializers) == {"one", "two"}
    assert [node.op_type for node in restored(model).graph] == ["Constant", "Constant", "Add", "Mul"]
    assert release_constants(model) == 2
    assert [node.op_type for node in restored(model).graph] == ["Add", "Mul"]


def test_a_constant_that_a_pass_changed_is_written_with_its_new_value(tmp_path: pathlib.Path) -> None:
    model = open_model(write(tmp_path, CONSTANTS))
    model.graph.initializers["one"].const_value = ir.tensor(np.float32(5), name="one")
    save_model(model, tmp_path / "out.onnx")
    (y,) = run(tmp_path / "out.onnx", x=np.zeros((1, 4), np.float32))
    np.testing.assert_array_equal(y, [[5, 10, 15, 20]])


def test_constants_in_subgraphs_too(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, NESTED)
    model = open_model(path)
    assert not any(node.op_type == "Constant" for graph in model.graphs() for node in graph)
    again = there_and_back(path)
    for choice in (True, False):
        feeds = {"c": np.array(choice), "x": np.arange(3, dtype=np.float32)}
        np.testing.assert_array_equal(run(path, **feeds)[0], run(again, **feeds)[0])


def test_weights_of_models_older_than_ir_version_4_are_no_inputs_in_what_is_written(tmp_path: pathlib.Path) -> None:
    weight = onnx.numpy_helper.from_array(np.ones((4,), np.float32), "w")
    proto = onnx.parser.parse_model(
        '<ir_version: 3, opset_import: ["": 7]> g (float[4] w, float[N,4] x) => (float[N,4] y) { y = Mul (x, w) }'
    )
    proto.graph.initializer.append(weight)
    onnx.save(proto, tmp_path / "model.onnx")
    model = open_model(tmp_path / "model.onnx")
    assert [value.name for value in model.graph.inputs] == ["x"]
    model.graph.register_initializer(
        ir.Value(
            name="new", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([4]), const_value=ir.tensor([0.0] * 4)
        )
    )
    save_model(model, tmp_path / "again.onnx")
    after = onnx.load(tmp_path / "again.onnx")
    assert after.ir_version == 4
    assert [value.name for value in after.graph.input] == ["x"]
    onnx.checker.check_model(after)


def test_since_ir_version_4_an_input_with_a_default_stays_an_input(tmp_path: pathlib.Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[4] w, float[N,4] x) => (float[N,4] y) { y = Mul (x, w) }'
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4,), np.float32), "w"))
    onnx.save(proto, tmp_path / "model.onnx")
    assert [value.name for value in open_model(tmp_path / "model.onnx").graph.inputs] == ["w", "x"]


def test_the_long_name_of_the_default_domain(tmp_path: pathlib.Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["ai.onnx": 17]> g (float[N] x) => (float[N] y) { y = ai.onnx.Relu (x) }'
    )
    onnx.save(proto, tmp_path / "model.onnx")
    model = open_model(tmp_path / "model.onnx")
    assert dict(model.opset_imports) == {"": 17}
    assert [node.domain for node in model.graph] == [""]


def test_a_missing_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ModelNotFound, match="no such file"):
        open_model(tmp_path / "nothing.onnx")


def test_a_folder(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ModelNotFound, match="folder"):
        open_model(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(range(256)), "not an ONNX model"),
        (b"just some text, no model", "not an ONNX model"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "no ONNX graph"),
        (RESNET8.read_bytes()[:100_000], "truncated"),
    ],
)
def test_what_is_no_model(tmp_path: pathlib.Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelUnreadable, match=message):
        open_model(path)


@pytest.mark.parametrize("opset", [0, 99])
def test_opsets_out_of_range(tmp_path: pathlib.Path, opset: int) -> None:
    proto = onnx.load(RESNET8)
    proto.opset_import[0].version = opset
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(ModelUnsupported, match=f"opset {opset}"):
        open_model(tmp_path / "model.onnx")


def test_training_graphs_are_refused_rather_than_lost(tmp_path: pathlib.Path) -> None:
    proto = onnx.load(RESNET8)
    proto.training_info.add().algorithm.name = "step"
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(ModelUnsupported, match="training"):
        open_model(tmp_path / "model.onnx")


@pytest.mark.parametrize("failing", ["save", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_half_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException
) -> None:
    model = open_model(RESNET8)
    out = tmp_path / "out.onnx"
    out.write_bytes(b"what was here before")

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(ir if failing == "save" else os, failing, fail)
    with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt):
        save_model(model, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]
    assert out.read_bytes() == b"what was here before"


def test_a_folder_that_is_not_there(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        save_model(open_model(RESNET8), tmp_path / "no" / "such" / "out.onnx")


def test_every_opset_from_7_on_opens(tmp_path: pathlib.Path) -> None:
    for opset in range(7, onnx.defs.onnx_opset_version() + 1):
        text = f'<ir_version: 8, opset_import: ["": {opset}]> g (float[N] x) => (float[N] y) {{ y = Relu (x) }}'
        path = write(tmp_path, text)
        assert dict(open_model(path).opset_imports) == {"": opset}


def test_a_model_in_memory_without_a_form_is_only_copied() -> None:
    model = ir.from_onnx_text(CONSTANTS)
    copy = restored(model)
    assert [node.op_type for node in copy.graph] == ["Constant", "Constant", "Add", "Mul"]
    canonicalize(copy)
    assert [node.op_type for node in copy.graph] == ["Add", "Mul"]


def test_maps_as_classifiers_give_them_survive(tmp_path: pathlib.Path) -> None:
    make = onnx.helper
    nodes = [
        make.make_node(
            "LinearClassifier",
            ["x"],
            ["label", "scores"],
            domain="ai.onnx.ml",
            classlabels_ints=[0, 1],
            coefficients=[1.0, 2.0, -1.0, -2.0],
            intercepts=[0.0, 0.0],
            post_transform="SOFTMAX",
        ),
        make.make_node("ZipMap", ["scores"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
    ]
    kind = make.make_map_type_proto(onnx.TensorProto.INT64, make.make_tensor_type_proto(onnx.TensorProto.FLOAT, []))
    graph = make.make_graph(
        nodes,
        "g",
        [make.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 2])],
        [
            make.make_tensor_value_info("label", onnx.TensorProto.INT64, ["N"]),
            make.make_value_info("maps", make.make_sequence_type_proto(kind)),
        ],
    )
    opsets = [make.make_opsetid("", 17), make.make_opsetid("ai.onnx.ml", 3)]
    proto = make.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.save(proto, tmp_path / "model.onnx")
    again = there_and_back(tmp_path / "model.onnx")
    assert str(onnx.load(again).graph.output) == str(proto.graph.output)
    feeds = {"x": np.eye(2, dtype=np.float32)}
    assert run(again, **feeds)[1] == run(tmp_path / "model.onnx", **feeds)[1]


def test_a_dimension_of_minus_one_is_unknown_inside_and_minus_one_outside(tmp_path: pathlib.Path) -> None:
    proto = onnx.parser.parse_model(CONSTANTS)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    onnx.save(proto, tmp_path / "model.onnx")
    model = open_model(tmp_path / "model.onnx")
    assert model.graph.inputs[0].shape == ir.Shape([None, 4])
    assert str(onnx.load(there_and_back(tmp_path / "model.onnx")).graph.input) == str(proto.graph.input)


def test_words_have_no_bytes(tmp_path: pathlib.Path) -> None:
    path = write(
        tmp_path,
        '<ir_version: 8, opset_import: ["": 17]> g (int64[N] x) => (string[N] y) '
        '{ words = Constant <value_strings = ["one", "two"]> () y = Gather (words, x) }',
    )
    assert weight_bytes(open_model(path)) == 0
    there_and_back(path)


def test_nodes_of_a_file_out_of_order_are_sorted(tmp_path: pathlib.Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (bool c, float[2] x) => (float[2] y) {
        a = Relu (x)
        b = If (c) <then_branch = t () => (float[2] e) { d = Exp (a) e = Neg (d) },
                    else_branch = f () => (float[2] k) { k = Abs (a) }>
        y = Sqrt (b) }"""
    proto = onnx.parser.parse_model(text)
    for graph in (proto.graph, proto.graph.node[1].attribute[0].g):
        reordered = list(graph.node)[::-1]
        del graph.node[:]
        graph.node.extend(reordered)
    onnx.save(proto, tmp_path / "model.onnx")
    model = open_model(tmp_path / "model.onnx")
    assert [node.op_type for node in nodes_within(model.graph)] == ["Relu", "If", "Exp", "Neg", "Abs", "Sqrt"]


def test_a_plain_graph_out_of_order_is_sorted_and_one_in_order_stays() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) {
        b = Exp (x)  a = Relu (x)  y = Add (a, b) }"""
    model = ir.from_onnx_text(text)
    canonicalize(model)
    assert [node.op_type for node in model.graph] == ["Exp", "Relu", "Add"]
    last = model.graph[2]
    model.graph.remove(last)
    model.graph.insert_before(model.graph[0], [last])
    canonicalize(model)
    assert [node.op_type for node in model.graph] == ["Exp", "Relu", "Add"]


def test_functions_that_stay_calls_are_sorted(tmp_path: pathlib.Path) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[N] x) => (float[N] y) { y = local.Twice (x) }
        <domain: "local", opset_import: ["": 17]>
        Twice (a) => (r) { r = Mul (a, two) two = Constant <value_float = 2.0> () }"""
    )
    onnx.save(proto, tmp_path / "model.onnx")
    model = open_model(tmp_path / "model.onnx", inline=False)
    assert [node.op_type for node in next(iter(model.functions.values()))] == ["Constant", "Mul"]
    model.clone()
