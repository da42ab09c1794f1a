"""Weights in files of their own: mapped, written beside, and never read from elsewhere."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest
from round_trip import run
from zoo import MODELS

from onnxslim.errors import ExternalDataError
from onnxslim.model import (
    external_tensors,
    file_bytes,
    open_model,
    save_model,
    weight_bytes,
    weight_files,
)

RESNET8 = MODELS / "fashion_resnet8.onnx"


@pytest.fixture
def external(tmp_path: pathlib.Path) -> pathlib.Path:
    onnx.save(
        onnx.load(RESNET8),
        tmp_path / "big.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=100,
    )
    return tmp_path / "big.onnx"


def test_external_data_is_mapped_and_written_beside(external: pathlib.Path) -> None:
    model = open_model(external)
    assert {tensor.location for tensor in external_tensors(model)} == {"weights.bin"}
    out = external.with_name("out.onnx")
    save_model(model, out)
    (data,) = weight_files(out)
    assert sorted(path.name for path in external.parent.iterdir()) == ["big.onnx", "out.onnx", data.name, "weights.bin"]
    assert file_bytes(out) == out.stat().st_size + data.stat().st_size
    assert weight_bytes(open_model(out)) == weight_bytes(open_model(RESNET8))
    image = np.random.default_rng(0).normal(size=(2, 1, 28, 28)).astype(np.float32)
    np.testing.assert_array_equal(run(out, image=image)[0], run(RESNET8, image=image)[0])


def test_external_data_that_is_gone(external: pathlib.Path) -> None:
    (external.parent / "weights.bin").unlink()
    with pytest.raises(ExternalDataError, match=r"missing: weights\.bin"):
        open_model(external)


def test_external_data_that_is_cut_short(external: pathlib.Path) -> None:
    data = external.parent / "weights.bin"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(ExternalDataError, match="cut short"):
        open_model(external)


@pytest.mark.parametrize("place", ["../weights.bin", "link.bin"])
def test_external_data_that_leaves_the_folder(external: pathlib.Path, place: str) -> None:
    inner = external.parent / "inner"
    inner.mkdir()
    (inner / "link.bin").symlink_to(external.parent / "weights.bin")
    proto = onnx.load(external, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = place
    (inner / "model.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ExternalDataError, match="outside the model's folder"):
        open_model(inner / "model.onnx")


def test_weights_that_the_input_reads_are_not_removed(external: pathlib.Path) -> None:
    out = external.with_name("out.onnx")
    save_model(open_model(external), out)
    (data,) = weight_files(out)
    read = out.rename(external.with_name("input.onnx"))
    model = open_model(read)
    weight = next(iter(model.graph.initializers.values()))
    weight.const_value = ir.tensor(weight.const_value.numpy() * 2, name=weight.name)
    save_model(model, out)
    assert data in list(weight_files(out))
    assert len(list(weight_files(out))) == 2
    image = np.zeros((2, 1, 28, 28), np.float32)
    np.testing.assert_array_equal(run(read, image=image)[0], run(RESNET8, image=image)[0])
