"""Blocks: they hold each layer once, end where nothing else goes on, and begin where others end."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text
from zoo import zoo_file

from onnxslim.analysis.blocks import WHOLE, Block, Dataflow
from onnxslim.analysis.linear_layer import linear_layers
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.analysis.specialize import infer_at
from onnxslim.model import open_model

HEAD = """<ir_version: 8, opset_import: ["" : 18]> g """
RESIDUAL = """(float[N,4] x) => (float[N,4] y) {
    a = MatMul (x, w)  b = Relu (a)
    c = MatMul (b, w1)  d = Relu (c)  e = MatMul (d, w2)  f = Add (e, b)  h = Relu (f)
    y = MatMul (h, w3) }"""
MASKED = """(float[N,4] x, float[N,4] mask) => (float[N,4] y) {
    m = Neg (mask)
    a = MatMul (x, w)  b = Add (a, m)
    c = MatMul (b, w1)  y = Add (c, m) }"""
TWO_OUTPUTS = """(float[N,4] x) => (float[N,4] y, float[N,4] z) {
    a = MatMul (x, w)  y = MatMul (a, w1)  z = MatMul (a, w2) }"""

Told = list[tuple[str, str]]


def flow_of(model: ir.Model) -> Dataflow:
    infer_shapes(model)
    shapes = {
        value.name or "": [size if isinstance(size, int) else 2 for size in value.shape or ()]
        for value in model.graph.inputs
    }
    layers = [use.node for layer in linear_layers(model.graph) for use in layer.uses]
    return Dataflow(model.graph, layers, infer_at(model, shapes))


def told(blocks: list[Block]) -> Told:
    return [
        (" ".join(str(v.name) for v in block.inputs), " ".join(str(v.name) for v in block.ends)) for block in blocks
    ]


@pytest.mark.parametrize(
    ("text", "layers", "expected"),
    [
        pytest.param(RESIDUAL, 1, [("x", "b"), ("b", "h"), ("h", "y")], id="between cuts"),
        pytest.param(RESIDUAL, 0, [("x", "b"), ("b", "d"), ("d", "e"), ("b e", "y")], id="layers"),
        pytest.param(RESIDUAL, 2, [("x", "h"), ("h", "y")], id="two layers at least"),
        pytest.param(RESIDUAL, WHOLE, [("x", "y")], id="whole"),
        # what no layer had a part in leads around cuts
        pytest.param(MASKED, 1, [("x", "a"), ("m a", "c")], id="a mask"),
        pytest.param(TWO_OUTPUTS, 1, [("x", "a"), ("a", "y z")], id="two outputs"),
    ],
)
def test_blocks(text: str, layers: float, expected: Told) -> None:
    weights = {name: np.eye(4, dtype=np.float32) for name in ("w", "w1", "w2", "w3") if f"{name})" in text}
    assert told(flow_of(from_text(HEAD + text, **weights)).blocks(layers)) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("b h", [("x", "b"), ("b", "h"), ("h", "y")]),
        ("f", [("x", "f"), ("f", "y")]),
        ("b f", [("x", "b"), ("b", "f"), ("f", "y")]),
        ("d", [("x", "y")]),
        ("", [("x", "y")]),
    ],
)
def test_blocks_end_where_they_may(names: str, expected: Told) -> None:
    model = from_text(HEAD + RESIDUAL, **{name: np.eye(4, dtype=np.float32) for name in ("w", "w1", "w2", "w3")})
    assert told(flow_of(model).blocks(1, lambda value: value.name in names.split())) == expected


@pytest.mark.parametrize("layers", [0, 1, 3, WHOLE])
@pytest.mark.parametrize("path", [("onnx", "cifar10_resnet20.onnx"), ("fashion", "resnet18.onnx")], ids=str)
def test_blocks_hold_each_layer_once_and_run_in_order(path: tuple[str, str], layers: float) -> None:
    model = open_model(zoo_file(*path))
    flow = flow_of(model)
    known = {*model.graph.inputs, *model.graph.initializers.values()}
    for node in flow.order:
        assert known.issuperset(value for value in node.inputs if value is not None)
        known.update(node.outputs)
    assert set(flow.order) == set(model.graph)
    blocks = flow.blocks(layers)
    held = [node for block in blocks for node in block.nodes if node in flow.layers]
    assert sorted(map(id, held)) == sorted(map(id, flow.layers))
    for block in blocks[:-1]:
        assert sum(node in flow.layers for node in block.nodes) >= layers
        assert len(block.ends) == 1
    if layers == 1:
        for block, following in itertools.pairwise(blocks):
            assert following.inputs == block.ends
