"""Branches of Ifs: each is quantized by what its own samples give it, and put back where it was."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnxslim.passes.quant import Quant
from onnxslim.passes.quant.codes import QuantCode
from sample_models import from_text
from story import VNNI, make_context

from onnxslim.analysis.float_form import float_form
from onnxslim.model import open_model, save_model
from onnxslim.model.edit import names_in
from onnxslim.model.nesting import graphs_within, nested_graphs, nodes_within
from onnxslim.pipeline.interface import Change, NoteCode
from onnxslim.runtime.session import Session

HEAD = '<ir_version: 9, opset_import: ["" : 17]> g (float[1,4,8,8] x) => (float[1,4,8,8] y)'
CONDITION = "m = ReduceMean <keepdims = 0> (x) zero = Constant <value = float {0}> () c = Greater (m, zero)"
THEN = """then_branch = t () => (float[1,4,8,8] tz) {
    [first] ta = Conv <pads = [1, 1, 1, 1]> (x, u)  tr = Relu (ta)  [second] tz = Conv (tr, v) }"""
ELSE = """else_branch = e () => (float[1,4,8,8] ez) {
    [third] ea = Conv <pads = [1, 1, 1, 1]> (x, u)  es = Relu (ea)  [fourth] ez = Conv (es, w) }"""
BOTH = f"{HEAD} {{ {CONDITION} [choice] y = If (c) < {THEN}, {ELSE} > }}"
SIZES = {"u": (8, 4, 3, 3), "v": (4, 8, 1, 1), "w": (4, 8, 1, 1), "o": (4, 4, 1, 1)}


def net(text: str = BOTH) -> ir.Model:
    """Return a model with those weights of its text that `SIZES` knows."""
    generator = np.random.default_rng(5)
    drawn = {name: generator.normal(size=size).astype(np.float32) for name, size in SIZES.items()}
    return with_weights(text, {name: array for name, array in drawn.items() if f", {name})" in text})


def with_weights(text: str, weights: dict[str, np.ndarray]) -> ir.Model:
    """Return a model whose weights are initializers of its main graph, wherever they are read."""
    declared = ", ".join(f"float[{','.join(map(str, array.shape))}] {name}" for name, array in weights.items())
    return from_text(text.replace("] x)", f"] x, {declared})", 1), **weights)


def pictures(count: int, *, seed: int = 0, signs: tuple[int, ...] = (1, -1)) -> np.ndarray:
    """Return samples, shape [count, 4, 8, 8], whose means have these signs in turn."""
    drawn = np.random.default_rng(seed).normal(size=(count, 4, 8, 8)).astype(np.float32)
    means = drawn.mean(axis=(1, 2, 3), keepdims=True)
    wanted = np.resize(np.array(signs, np.float32), count)[:, None, None, None]
    return drawn - means + 0.5 * wanted


def quantize(model: ir.Model, samples: np.ndarray, **options) -> Change:
    return Quant(**options).run(model, make_context(model, {"x": samples}, target=VNNI))


def run(model: ir.Model, samples: np.ndarray) -> np.ndarray:
    session = Session.of(model, VNNI)
    return np.concatenate([session.run({"x": sample[None]})["y"] for sample in samples])


def sqnr(reference: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10(np.square(reference).sum() / np.square(reference - found).sum()))


def ops(graph: ir.Graph) -> Counter[str]:
    return Counter(node.op_type for node in graph)


def branches(model: ir.Model) -> list[ir.Graph]:
    return [graph for node in model.graph for graph in nested_graphs(node)]


def check_file(model: ir.Model, path) -> ir.Model:
    """Check the file of a model, and that no value has the name of another that it can see; return it as opened."""
    save_model(model, path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    return open_model(path)


def test_both_branches_are_quantized(tmp_path):
    model, unseen = net(), pictures(32, seed=1)
    expected = run(model, unseen)
    change = quantize(model, pictures(64))
    assert change.modified
    assert [ops(graph)["QuantizeLinear"] for graph in branches(model)] == [3, 3]
    for signs in ((0, 2), (1, 2)):
        part = slice(*signs[:1], None, signs[1])
        assert sqnr(expected[part], run(model, unseen)[part]) > 30  # 8 bits give two layers some 35 dB
    assert [layer.layer for layer in change.layers] == ["first", "second", "third", "fourth"]
    assert {row.layer: row.became for row in change.sensitivity} == dict.fromkeys(
        ("first", "second", "third", "fourth"), "int8"
    )
    opened = check_file(model, tmp_path / "model.onnx")
    np.testing.assert_array_equal(run(opened, unseen), run(model, unseen))
    floats = float_form(model)
    assert floats is not None
    np.testing.assert_array_equal(run(floats, unseen), expected)
