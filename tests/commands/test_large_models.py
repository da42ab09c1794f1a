"""Lossy runs of large models hold their weights once."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest
from zoo import MODELS

import onnxslim
from onnxslim.commands import optimize as optimizing
from onnxslim.model.mapped import SpilledTensor
from onnxslim.pipeline import attempt as attempting
from onnxslim.pipeline.interface import Change, Context, Kind, Pass
from onnxslim.pipeline.measured import MeasuredModel


@dataclasses.dataclass(frozen=True)
class Halve(Pass):
    """Halve the weights of the classifier."""

    name: ClassVar[str] = "halve"
    kind: ClassVar[Kind] = Kind.LOSSY

    def run(self, model: ir.Model, context: Context) -> Change:
        value = model.graph.initializers["f.weight"]
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy() * np.float32(0.5), name="f.weight")
        return Change(True)


def test_weights_lie_in_a_file_and_sessions_that_nobody_asked_for_are_closed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    made: list[MeasuredModel] = []
    folders: set[str] = set()

    class Recorded(MeasuredModel):
        def __init__(self, *arguments):  # type: ignore[no-untyped-def]  # those of the class
            super().__init__(*arguments)
            made.append(self)

    @dataclasses.dataclass(frozen=True)
    class Look(Halve):
        def run(self, model: ir.Model, context: Context) -> Change:
            assert made
            assert not any("session" in each.__dict__ for each in made)
            tensors = [value.const_value for value in model.graph.initializers.values()]
            folders.update(str(tensor.base_dir) for tensor in tensors if isinstance(tensor, SpilledTensor))
            assert all(map(os.path.exists, folders))
            return super().run(model, context)

    def run(step: Pass, name: str) -> onnxslim.Result:
        calib, test = (str(MODELS / f"fashion_{part}.npz") for part in ("calib", "test"))
        output = tmp_path / name
        model = MODELS / "fashion_resnet8.onnx"
        return onnxslim.optimize(model, [step], data=calib, val=test, measure=False, output=output)

    plain = run(Halve(), "plain.onnx")
    for module in (optimizing, attempting):
        monkeypatch.setattr(module, "MeasuredModel", Recorded)
    monkeypatch.setattr(optimizing, "LARGE", 0)
    result = run(Look(), "large.onnx")
    assert len(folders) == 1
    assert not any(map(os.path.exists, folders))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["large.onnx", "plain.onnx"]
    for name, value in result.model.graph.initializers.items():
        expected = plain.model.graph.initializers[name].const_value
        assert value.const_value is not None
        assert expected is not None
        assert not isinstance(value.const_value, ir.ExternalTensor)
        np.testing.assert_array_equal(value.const_value.numpy(), expected.numpy())
