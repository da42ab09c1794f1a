"""Weights in a temporary file are those of the model: for its copies, for sessions, and in files that are written."""

from __future__ import annotations

import os
import pathlib
import shutil

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from sample_models import from_text

from onnxslim.model import file_bytes, open_model, save_model
from onnxslim.model.mapped import SpilledTensor, release_pages
from onnxslim.model.spilling import read_in, spilled
from onnxslim.runtime.session import Session

X = np.random.default_rng(1).normal(size=(2, 128)).astype(np.float32)


def weights() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    large = {name: generator.normal(size=(128, 256)).astype(np.float32) for name in ("w", "c")}
    return large | {"b": generator.normal(size=256).astype(np.float32)}


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    """Return the path of a model with a large weight, one in a Constant node, a small one, and one of strings."""
    model = from_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,128] x) => (float[N,256] y, string[1] t, float[2] f) {
            p = MatMul (x, w)  q = MatMul (x, c)  s = Add (p, q)  y = Add (s, b)  t = Identity (names)
            f = ConstantOfShape <value = float[1] {2.0}> (n)
        }""",
        **weights(),
        n=np.array([2], np.int64),
    )
    proto = ir.to_proto(model)
    (stored,) = (tensor for tensor in proto.graph.initializer if tensor.name == "c")
    proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["c"], name="constant", value=stored))
    proto.graph.initializer.remove(stored)
    proto.graph.initializer.append(onnx.helper.make_tensor("names", onnx.TensorProto.STRING, [1], [b"a"]))
    onnx.save(proto, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def answer(model: ir.Model | pathlib.Path) -> np.ndarray:
    return np.asarray(Session.of(model, pack=False).run({"x": X}, ["y"])["y"])


def spilled_names(model: ir.Model) -> list[str]:
    return [name for name, value in model.graph.initializers.items() if isinstance(value.const_value, SpilledTensor)]


def test_copies_and_sessions_share_what_was_spilled(path: pathlib.Path) -> None:
    model = open_model(path)
    expected = answer(path)
    with spilled(model):
        assert spilled_names(model) == ["w"], "neither small ones, nor those of Constant nodes, nor strings"
        copy = model.clone()
        assert copy.graph.initializers["w"].const_value is model.graph.initializers["w"].const_value
        np.testing.assert_allclose(answer(copy), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(copy.graph.initializers["w"].const_value.numpy(), weights()["w"])
        release_pages()
        np.testing.assert_array_equal(copy.graph.initializers["w"].const_value.numpy(), weights()["w"])
        (folder,) = {tensor.base_dir for tensor in [copy.graph.initializers["w"].const_value]}
        assert file_bytes(path, copy) == path.stat().st_size, "the file is none of the model's own"
        read_in(copy)
    assert not os.path.exists(folder)
    assert not spilled_names(copy)
    np.testing.assert_allclose(answer(copy), expected, rtol=1e-5, atol=1e-5)


def test_a_model_is_written_whole_while_its_weights_are_spilled(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out" / "out.onnx"
    out.parent.mkdir()
    model = open_model(path)
    with spilled(model):
        save_model(model, out)
    assert [file.name for file in out.parent.iterdir()] == ["out.onnx"]
    before, after = onnx.load(path).graph, onnx.load(out).graph
    assert [node.op_type for node in after.node] == [node.op_type for node in before.node]
    stored = [{each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer} for graph in (before, after)]
    assert stored[0].keys() == stored[1].keys()
    assert all(np.array_equal(stored[0][name], stored[1][name]) for name in stored[0])
    np.testing.assert_array_equal(answer(out), answer(path))


def test_what_was_read_can_go_once_its_weights_are_spilled(path: pathlib.Path) -> None:
    """A tensor of a file that was parsed keeps all of what was parsed."""
    model = open_model(path)
    with spilled(model):
        kinds = {type(value.const_value) for value in model.graph.initializers.values() if value.name != "names"}
        kinds |= {type(node.attributes["value"].as_tensor()) for node in model.graph if "value" in node.attributes}
        assert kinds == {SpilledTensor, ir.Tensor}


def test_weights_stay_where_they_are_without_room_for_them(
    path: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    external = tmp_path / "external.onnx"
    onnx.save_model(onnx.load(path), external, save_as_external_data=True, location="data", size_threshold=1024)
    model = open_model(external)
    with spilled(model):
        assert not spilled_names(model), "they lie in a file of the model's own"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    model = open_model(path)
    with spilled(model):
        assert not spilled_names(model)

    def refuse(_: object) -> None:
        raise OSError("no such device")

    monkeypatch.setattr(shutil, "disk_usage", refuse)
    with spilled(model):
        assert not spilled_names(model)


def test_tied_weights_stay_one_and_keep_what_is_told_of_them() -> None:
    tensor = ir.Tensor(weights()["w"], name="w", doc_string="told", metadata_props={"k": "v"})
    model = from_text('<ir_version: 8, opset_import: ["" : 17]> g (float[1] x) => (float[1] y) { y = Relu (x) }')
    for name in ("a", "b"):
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
        model.graph.register_initializer(value)
    with spilled(model):
        first, second = (value.const_value for value in model.graph.initializers.values())
        assert isinstance(first, SpilledTensor)
        assert first is second
        assert os.path.getsize(first.path) == tensor.nbytes
        read_in(model)
    first, second = (value.const_value for value in model.graph.initializers.values())
    assert first is second
    assert (first.doc_string, dict(first.metadata_props)) == ("told", {"k": "v"})


def test_what_was_not_read_in_can_still_be_read(path: pathlib.Path) -> None:
    model = open_model(path)
    with spilled(model):
        pass
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), weights()["w"])


def test_constants_that_were_changed_before_are_written_as_they_are_now(tmp_path: pathlib.Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,128] x) => (float[N,256] y) {
        c = Constant <value_floats = [1.0, 2.0]> ()  s = ReduceSum <keepdims = 0> (c)  p = MatMul (x, w)  y = Add (p, s)
    }"""
    source, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(ir.to_proto(from_text(text, w=weights()["w"])), source)
    model = open_model(source)
    model.graph.initializers["c"].const_value = ir.tensor(np.float32([3, 4]), name="c")
    with spilled(model):
        assert spilled_names(model) == ["w"]
        save_model(model, out)
    np.testing.assert_allclose(answer(out), answer(source) + 4, rtol=1e-5, atol=1e-5)
