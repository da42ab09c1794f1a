"""Indices below the size of an axis run, and no larger one does; elements come from the inputs that are named."""

from __future__ import annotations

import numpy as np
import onnx.helper
import onnx_ir as ir
import pytest

from onnxslim.analysis.evaluate import evaluate
from onnxslim.ops.table import carried_inputs, index_into, moved_inputs

DATA = np.arange(20, dtype=np.float32).reshape(4, 5)
INDEXING = {
    "Gather": ("", (DATA, None), lambda index: np.array([index])),
    "GatherElements": ("", (DATA, None), lambda index: np.full((1, 5), index)),
    "GatherND": ("", (DATA, None), lambda index: np.array([[index, 0]])),
    "ScatterElements": ("", (DATA, None, np.zeros((1, 5), np.float32)), lambda index: np.full((1, 5), index)),
    "ScatterND": ("", (DATA, None, np.zeros((1, 5), np.float32)), lambda index: np.array([[index]])),
    "ArrayFeatureExtractor": ("ai.onnx.ml", (DATA, None), lambda index: np.array([index])),
}


@pytest.mark.parametrize("op_type", INDEXING)
def test_indices_must_stay_below_the_size_of_an_axis(op_type):
    domain, operands, of = INDEXING[op_type]
    node = onnx.helper.make_node(op_type, [f"x{at}" for at in range(len(operands))], ["y"], domain=domain)
    into = index_into(ir.from_proto(node), 1)
    assert into is not None
    bound = DATA.shape[into.axis or 0]
    for index, runs in ((bound - 1, True), (bound, False)):
        feeds = {f"x{at}": of(index) if operand is None else operand for at, operand in enumerate(operands)}
        assert (evaluate([node], feeds, ["y"], {"": 17, "ai.onnx.ml": 1}, reference=False) is not None) == runs


@pytest.mark.parametrize(
    ("text", "moved", "carried"),
    [
        ("Concat", (0, 1, 2), (0, 1, 2)),
        ("Where", (), (1, 2)),
        ("Reshape", (0,), (0,)),
        ("Clip", (), (0,)),
        ("Add", (), ()),
    ],
)
def test_inputs_whose_elements_are_those_of_the_result(text, moved, carried):
    node = ir.Node("", text, [ir.Value(name=f"x{at}") for at in range(3)])
    assert tuple(moved_inputs(node)) == moved
    assert tuple(carried_inputs(node)) == carried
