"""Factors whose rank is full are multiplied out, exactly, and only those."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnxslim.passes.lowrank.fusing import fuse
from sample_models import from_text

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.pipeline.selection import Selection
from onnxslim.runtime.session import Session

GENERATOR = np.random.default_rng(0)


def model(text: str, shapes: dict[str, tuple[int, ...]]) -> ir.Model:
    names = "".join(f", float {name}" for name in shapes)
    made = from_text(
        '<ir_version: 10, opset_import: ["" : 17]> ' + text.replace(") => (", f"{names}) => (", 1),
        **{name: GENERATOR.normal(size=shape).astype(np.float32) for name, shape in shapes.items()},
    )
    infer_shapes(made)
    return made


FUSED = {
    "two products": (
        "g (float[N,3,8] x) => (float[N,3,8] y) { a = MatMul (x, u) y = MatMul (a, v) }",
        {"u": (8, 8), "v": (8, 8)},
    ),
    "gemm behind gemm": (
        "g (float[N,8] x) => (float[N,6] y) { a = Gemm (x, u, b) y = Gemm <transB=1> (a, v, c) }",
        {"u": (8, 9), "b": (9,), "v": (6, 9), "c": (6,)},
    ),
    "gemm behind a product": (
        "g (float[N,8] x) => (float[N,6] y) { a = MatMul (x, u) y = Gemm (a, v, c) }",
        {"u": (8, 9), "v": (9, 6), "c": (6,)},
    ),
    "a product behind gemm": (
        "g (float[N,8] x) => (float[N,6] y) { a = Gemm (x, u, b) y = MatMul (a, v) }",
        {"u": (8, 9), "b": (9,), "v": (9, 6)},
    ),
    "1x1 behind a window": (
        "g (float[N,4,9,9] x) => (float[N,6,5,5] y)"
        " { a = Conv <strides=[2,2], pads=[1,1,1,1]> (x, u, b) y = Conv (a, v, c) }",
        {"u": (36, 4, 3, 3), "b": (36,), "v": (6, 36, 1, 1), "c": (6,)},
    ),
    "a window behind 1x1": (
        "g (float[N,8,9,9] x) => (float[N,6,9,9] y) { a = Conv (x, u) y = Conv <pads=[1,1,1,1]> (a, v, c) }",
        {"u": (8, 8, 1, 1), "v": (6, 8, 3, 3), "c": (6,)},
    ),
    "a window without padding behind 1x1 with bias": (
        "g (float[N,8,9,9] x) => (float[N,6,7,7] y) { a = Conv (x, u, b) y = Conv (a, v) }",
        {"u": (8, 8, 1, 1), "b": (8,), "v": (6, 8, 3, 3)},
    ),
}
KEPT = {
    "a rank that is low": (
        "g (float[N,3,8] x) => (float[N,3,8] y) { a = MatMul (x, u) y = MatMul (a, v) }",
        {"u": (8, 3), "v": (3, 8)},
    ),
    "something reads what is between": (
        "g (float[N,3,8] x) => (float[N,3,8] y) { a = MatMul (x, u) b = MatMul (a, v) y = Add (a, b) }",
        {"u": (8, 8), "v": (8, 8)},
    ),
    "a padded window behind a bias": (
        "g (float[N,8,9,9] x) => (float[N,6,9,9] y) { a = Conv (x, u, b) y = Conv <pads=[1,1,1,1]> (a, v) }",
        {"u": (8, 8, 1, 1), "b": (8,), "v": (6, 8, 3, 3)},
    ),
    "two windows": (
        "g (float[N,8,9,9] x) => (float[N,6,5,5] y) { a = Conv (x, u) y = Conv (a, v) }",
        {"u": (8, 8, 3, 3), "v": (6, 8, 3, 3)},
    ),
    "a rectifier between": (
        "g (float[N,3,8] x) => (float[N,3,8] y) { a = MatMul (x, u) b = Relu (a) y = MatMul (b, v) }",
        {"u": (8, 8), "v": (8, 8)},
    ),
}


def outputs(model: ir.Model) -> np.ndarray:
    shape = [size if isinstance(size, int) else 2 for size in model.graph.inputs[0].shape or ()]
    data = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    return Session.of(model).run({"x": data})["y"]


@pytest.mark.parametrize("name", FUSED)
def test_factors_of_full_rank_are_multiplied_out(name: str) -> None:
    before = model(*FUSED[name])
    after = before.clone()
    infer_shapes(after)
    (note,) = fuse(after)
    assert "multiplied out" in note.action
    assert len(list(after.graph)) == 1
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    wanted = outputs(before)
    assert np.abs(wanted - outputs(after)).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("name", KEPT)
def test_everything_else_stays(name: str) -> None:
    before = model(*KEPT[name])
    assert fuse(before) == []


def test_a_chain_of_three_becomes_one() -> None:
    before = model(
        "g (float[N,8] x) => (float[N,8] y) { a = MatMul (x, u) b = MatMul (a, v) y = MatMul (b, w) }",
        {"u": (8, 8), "v": (8, 8), "w": (8, 8)},
    )
    assert len(fuse(before)) == 2
    assert len(list(before.graph)) == 1


def test_names_choose_factors() -> None:
    text, shapes = FUSED["two products"]
    for name in shapes:
        for patterns in ({"exclude": (name,)}, {"include": (name,)}):
            before = model(text, shapes)
            assert not fuse(before, Selection(**patterns, model=before, original=before))
    before = model(text, shapes)
    assert fuse(before, Selection(("u", "v"), (), before, before))
