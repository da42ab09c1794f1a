"""What reads a layer: how much errors of its outputs matter there, and when nothing is known of that."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from mutate_rows import lost_seeing_and_blind
from onnxslim.passes.lowrank import Lowrank
from onnxslim.passes.lowrank.layer import find_layers
from onnxslim.passes.lowrank.output_metric import OutputReader, find_readers
from sample_models import from_text

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import detect_target

GENERATOR = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape).astype(np.float32)


def model(text: str, **weights: np.ndarray) -> ir.Model:
    names = "".join(f", float {name}" for name in weights)
    made = from_text(
        '<ir_version: 10, opset_import: ["" : 20]> ' + text.replace(") => (", f"{names}) => (", 1), **weights
    )
    infer_shapes(made)
    return made


def readers(of: ir.Model) -> dict[str, OutputReader]:
    return find_readers(of.graph, find_layers(of, smallest=1)[0])


def opened(of: ir.Model) -> Session:
    return Session.of(of, detect_target("cpu"))


MATRICES = "g (float[N,3,4] x) => (float[N,3,5] y) {{ p = MatMul (x, w) q = Add (p, b) {0} y = MatMul (r, v) }}"


@pytest.mark.parametrize(
    ("function", "slope"),
    [
        ("r = Relu (q)", lambda q: np.float64(q > 0)),
        ("s = Sigmoid (q) r = Mul (q, s)", lambda q: (1 + q * (1 - 1 / (1 + np.exp(-q)))) / (1 + np.exp(-q))),
        ("r = Identity (q)", np.ones_like),
    ],
)
def test_what_errors_cost_behind_a_function(function: str, slope: object) -> None:
    w, b, v = weight(4, 6), weight(6), weight(6, 5)
    (reader,) = readers(model(MATRICES.format(function), w=w, b=b, v=v)).values()
    outputs = weight(50, 6) + np.sign(weight(50, 6))
    slopes = slope(outputs.astype(np.float64) + b)  # type: ignore[operator]
    wanted = (slopes.T @ slopes) * (v.astype(np.float64) @ v.T)
    near = np.abs(outputs + b).min(axis=1) > 0.1  # a kink is not where it can be stepped over
    slopes, outputs = slopes[near], outputs[near]
    wanted = (slopes.T @ slopes) * (v.astype(np.float64) @ v.T)
    np.testing.assert_allclose(reader.moment(outputs, opened), wanted, rtol=1e-2, atol=1e-2 * np.abs(wanted).max())


@pytest.mark.parametrize("function", ["Relu (p)", "Mul (p, c)"])
def test_windows_that_read_channels(function: str) -> None:
    text = f"""g (float[N,3,8,8] x) => (float[N,5,8,8] y) {{
        p = Conv (x, w, b) r = {function} y = Conv <pads=[1,1,1,1]> (r, v) }}"""
    v, c = weight(5, 4, 3, 3), weight(4, 1, 1)
    (reader,) = readers(model(text, w=weight(4, 3, 1, 1), b=weight(4), v=v, c=c)).values()
    outputs = np.abs(weight(20, 4)) + 0.1
    scale = np.ones(4) if function == "Relu (p)" else c.ravel().astype(np.float64)
    wanted = 20 * np.outer(scale, scale) * np.einsum("oikl,ojkl->ij", v, v)
    np.testing.assert_allclose(reader.moment(outputs, opened), wanted, rtol=1e-2, atol=1e-2 * np.abs(wanted).max())


def test_two_products_that_read_one_value_both_count() -> None:
    text = """g (float[N,4] x) => (float[N,5] y, float[N,3] z) {
        p = MatMul (x, w) r = Relu (p) y = MatMul (r, v) z = MatMul (p, u) }"""
    u, v = weight(6, 3), weight(6, 5)
    (reader,) = readers(model(text, w=weight(4, 6), v=v, u=u)).values()
    outputs = np.abs(weight(30, 6)) + 0.1
    wanted = 30 * (v.astype(np.float64) @ v.T + u.astype(np.float64) @ u.T)
    np.testing.assert_allclose(reader.moment(outputs, opened), wanted, rtol=1e-2, atol=1e-2 * np.abs(wanted).max())


@pytest.mark.parametrize(
    "rest",
    [
        "r = Softmax (p) y = MatMul (r, v)",
        "r = Add (p, x) y = MatMul (r, v)",
        "y = Relu (p)",
        "r = Mul (p, c) y = MatMul (r, v)",
        "r = Transpose <perm=[0,2,1]> (p) y = MatMul (r, v)",
    ],
)
def test_where_nothing_is_known(rest: str) -> None:
    text = f"g (float[N,6,6] x) => (float[N,6,6] y) {{ p = MatMul (x, w) {rest} }}"
    constants = {"v": weight(6, 6)} if "v)" in rest else {}
    assert not readers(model(text, w=weight(6, 6), **constants, **({"c": weight(6, 6)} if "c)" in rest else {})))


def test_splits_that_know_what_reads_them_lose_less_at_the_output() -> None:
    text = "g (float[N,64] x) => (float[N,48] y) { p = MatMul (x, w) r = Relu (p) y = MatMul (r, v) }"
    v = weight(128, 48) * np.where(np.arange(128) < 32, 1, 0.05)[:, None].astype(np.float32)
    x = weight(600, 64)
    before = model(text, w=weight(64, 128), v=v)
    step = Lowrank(rank=0.5, align=4, include=("w",))
    seeing, blind = lost_seeing_and_blind(before, step, "find_readers", x[:400], x[400:])
    assert seeing < 0.8 * blind


def test_layers_with_windows_are_not_asked() -> None:
    text = "g (float[N,3,8,8] x) => (float[N,5,6,6] y) { p = Conv (x, w) r = Relu (p) y = Conv (r, v) }"
    assert not readers(model(text, w=weight(4, 3, 3, 3), v=weight(5, 4, 1, 1)))
