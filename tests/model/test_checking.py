from __future__ import annotations

import os
import pathlib
import sys

import numpy as np
import onnx
import pytest

from onnxslim.commands.inspect import inspect
from onnxslim.errors import ExternalDataError, ModelUnreadable, OutputError
from onnxslim.model import open_model, save_model


def saved(tmp_path: pathlib.Path) -> tuple[onnx.ModelProto, pathlib.Path]:
    text = (
        '<ir_version: 10, opset_import: ["" : 21]> '
        "g (float[2,3] x) => (float[3,2] y) { y = Transpose <perm=[1,0]> (x) }"
    )
    return onnx.parser.parse_model(text), tmp_path / "model.onnx"


def test_a_name_that_is_no_utf8_is_called_so(tmp_path: pathlib.Path) -> None:
    model, path = saved(tmp_path)
    model.graph.node[0].doc_string = "what it does"
    path.write_bytes(model.SerializeToString().replace(b"what it", b"\xff\xfe\xc3( it"))
    assert inspect(path).nodes == 1, "documentation is of no account"
    path.write_bytes(model.SerializeToString().replace(b"Transpose", b"\x97ranspose"))
    with pytest.raises(ModelUnreadable, match="no UTF-8"):
        open_model(path)


def test_an_attribute_that_refers_to_one_of_no_function_is_called_so(tmp_path: pathlib.Path) -> None:
    model, path = saved(tmp_path)
    model.graph.node[0].attribute[0].ref_attr_name = "order"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelUnreadable, match=r"'perm' of .* refers to an attribute of a function"):
        open_model(path)


@pytest.mark.parametrize("kind", [0, 99])
def test_an_input_of_no_type_is_called_so_and_other_types_are_forgotten(tmp_path: pathlib.Path, kind: int) -> None:
    model, path = saved(tmp_path)
    model.graph.output[0].type.tensor_type.elem_type = kind
    path.write_bytes(model.SerializeToString())
    assert inspect(path).nodes == 1
    model.graph.input[0].type.tensor_type.elem_type = kind
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelUnreadable, match="the input 'x' has no element type"):
        open_model(path)


def test_weights_with_a_second_name_are_refused(tmp_path: pathlib.Path) -> None:
    model, path = saved(tmp_path)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((2, 3), np.float32), "w"))
    model.graph.node[0].input[0] = "w"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    open_model(path)
    os.link(tmp_path / "weights", tmp_path / "again")
    with pytest.raises(ExternalDataError, match="hard link"):
        open_model(path)


@pytest.mark.skipif(sys.platform != "linux", reason="other platforms have no such names")
def test_paths_that_are_no_utf8_are_refused(tmp_path: pathlib.Path) -> None:
    model, path = saved(tmp_path)
    onnx.save(model, path)
    odd = path.with_name(os.fsdecode(b"m\xff.onnx"))
    with pytest.raises(OutputError, match="no UTF-8"):
        save_model(open_model(path), odd)
    path.rename(odd)
    with pytest.raises(ModelUnreadable, match="no UTF-8"):
        open_model(odd)


@pytest.mark.parametrize("location", ["nowhere.bin", "../outside.bin", "/etc/hostname"])
def test_tensors_of_an_attribute_that_lie_elsewhere_are_checked(tmp_path: pathlib.Path, location: str) -> None:
    model, path = saved(tmp_path)
    held = model.graph.node.add(op_type="Custom", domain="own", input=["x"], output=["z"]).attribute.add(
        name="many", type=onnx.AttributeProto.TENSORS
    )
    tensor = held.tensors.add(name="t", dims=[1], data_type=1, data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    model.opset_import.add(domain="own", version=1)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ExternalDataError, match=r"missing|outside"):
        open_model(path)


def test_a_graph_without_outputs_is_called_so(tmp_path: pathlib.Path) -> None:
    model, path = saved(tmp_path)
    del model.graph.output[:]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelUnreadable, match="no outputs"):
        open_model(path)
