"""Each rule is proved on levels: the op of integers and the floats between DQ and Q that it becomes make the same.

Random tensors, as other rules are proved on, hardly ever are levels, scales and zero points that fit each other.
"""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.rewrite.driver import fixpoint
from onnxslim.rewrite.reader import load_rules, rule_files
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import Target

PACKAGE = "onnxslim.passes.dequantize"
CPU = Target("cpu", "a processor", "avx512_vnni", 1)
OPSET = 17

CONV = (
    'auto_pad = "NOTSET", dilations = [1, 1], group = 2, kernel_shape = [3, 3], pads = [1, 0, 1, 2], strides = [2, 1]'
)
FLOAT = "(f, xs, xz, t, ts, tz, b)"
TURNED, PLAIN = "(f, xs, xz, t, ts, tz, b, ys, yz)", "(f, xs, xz, m, ms, mz, e, ys, yz)"
CASES: dict[str, str] = {
    "q_linear_conv_bias": f"y = QLinearConv <{CONV}> (x, xs, xz, w, ws, wz, ys, yz, b)",
    "q_linear_conv": "y = QLinearConv (x, xs, xz, v, k, kz, ys, yz)",
    "q_linear_mat_mul": "y = QLinearMatMul (x, xs, xz, m, ms, mz, ys, yz)",
    "q_gemm_turned": f"f = Reshape (x, r) y = com.microsoft.QGemm <alpha=1.0, transA=0, transB=1> {TURNED}",
    "q_gemm_turned_2": f"f = Reshape (x, r) y = com.microsoft.QGemm <alpha = 1.0, transB = 1> {TURNED}",
    "q_gemm_turned_3": f"f = Reshape (x, r) y = com.microsoft.QGemm <transB = 1> {TURNED}",
    "q_gemm": f"f = Reshape (x, r) y = com.microsoft.QGemm <alpha=1.0, transA=0, transB=0> {PLAIN}",
    "q_gemm_2": f"f = Reshape (x, r) y = com.microsoft.QGemm <alpha = 1.0> {PLAIN}",
    "q_gemm_3": "f = Reshape (x, r) y = com.microsoft.QGemm (f, xs, xz, m, k, kz, e, ys, yz)",
    "q_gemm_float_turned": f"f = Reshape (x, r) y = com.microsoft.QGemm <alpha=1.0, transA=0, transB=1> {FLOAT}",
    "q_gemm_float_turned_2": f"f = Reshape (x, r) y = com.microsoft.QGemm <alpha = 1.0, transB = 1> {FLOAT}",
    "q_gemm_float_turned_3": f"f = Reshape (x, r) y = com.microsoft.QGemm <transB = 1> {FLOAT}",
    "q_linear_add": "y = com.microsoft.QLinearAdd (x, xs, xz, u, us, uz, ys, yz)",
    "q_linear_mul": "y = com.microsoft.QLinearMul (x, xs, xz, u, us, uz, ys, yz)",
    "q_linear_where": "c = Less (x, u) y = com.microsoft.QLinearWhere (c, x, xs, xz, u, us, uz, ys, yz)",
    "mat_mul_integer": "i = MatMulInteger (x, m, xz, mz) g = Cast <to = 1> (i) z = Mul (xs, ms) y = Mul (g, z)",
    "mat_mul_integer_no_zero": "i = MatMulInteger (x, m, xz) g = Cast <to = 1> (i) z = Mul (xs, ms) y = Mul (g, z)",
    "conv_integer": f"i = ConvInteger <{CONV}> (x, w, xz, kz) g = Cast <to = 1> (i) z = Mul (xs, k) y = Mul (g, z)",
    "mat_mul_integer_to_float": "y = com.microsoft.MatMulIntegerToFloat (x, m, xs, ms, xz, mz, h)",
    "mat_mul_integer_to_float_plain": "y = com.microsoft.MatMulIntegerToFloat (x, m, xs, k, xz, kz)",
    "dynamic_mat_mul": "f = DequantizeLinear (x, xs, xz) y = com.microsoft.DynamicQuantizeMatMul (f, m, ms, mz, h)",
    "dynamic_mat_mul_plain": "f = DequantizeLinear (x, xs, xz) y = com.microsoft.DynamicQuantizeMatMul (f, m, ms, mz)",
}
"""A use of each rule on x, levels [2,4,8,8]; the weights below."""


def levels(generator: np.random.Generator, kind: type, *shape: int) -> np.ndarray:
    info = np.iinfo(kind)
    return generator.integers(info.min, info.max + 1, shape).astype(kind)


def weights(generator: np.random.Generator, kind: type) -> dict[str, np.ndarray]:
    """Return weights of 7 bits, of which no two products saturate on any processor, scales and zero points."""

    def small(*shape: int) -> np.ndarray:
        return levels(generator, np.int8, *shape) // 2

    def scale(*shape: int) -> np.ndarray:
        return generator.uniform(0.01, 0.03, shape).astype(np.float32)

    middle = 120 if kind is np.uint8 else -3
    return {
        **{"xs": scale(), "us": scale(), "ys": np.float32(0.25), "k": scale()},
        **{name: np.array(middle, kind) for name in ("xz", "uz", "yz")},
        **{"w": small(6, 2, 3, 3), "ws": scale(6), "wz": np.zeros(6, np.int8)},
        **{"v": small(6, 4, 3, 3), "kz": np.array(0, np.int8)},
        **{"m": small(8, 5), "ms": scale(5), "mz": np.zeros(5, np.int8)},
        **{"t": small(6, 8), "ts": scale(6), "tz": np.zeros(6, np.int8)},
        **{"b": generator.integers(-99, 99, 6).astype(np.int32), "e": generator.integers(-99, 99, 5).astype(np.int32)},
        **{"h": generator.normal(size=5).astype(np.float32), "r": np.array([-1, 8])},
    }


def model_of(name: str, kind: type) -> ir.Model:
    generator = np.random.default_rng(len(name))
    element, result = np.dtype(kind).name, "float" if FLOATS.search(name) else np.dtype(kind).name
    text = f"""<ir_version: 9, opset_import: ["" : {OPSET}, "com.microsoft" : 1]>
        g ({element}[2,4,8,8] x, {element}[2,4,8,8] u) => ({result}[] y) {{ {CASES[name]} }}"""
    used = {word: array for word, array in weights(generator, kind).items() if re.search(rf"\b{word}\b", CASES[name])}
    model = from_text(text, **used)
    infer_shapes(model)
    return model


FLOATS = re.compile("float|integer|dynamic")
"""Rules whose results are floats."""
BOTH = ("q_gemm", "q_linear_add", "q_linear_mul", "q_linear_where", "q_linear_mat_mul", "q_linear_conv")
"""Ops that ONNX Runtime has kernels of for int8 data as well."""


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in CASES for kind in (np.uint8, np.int8) if kind is np.uint8 or name in BOTH],
)
def test_both_sides_make_the_same(name: str, kind: type) -> None:
    model = model_of(name, kind)
    feeds = {value.name: levels(np.random.default_rng(1), kind, 2, 4, 8, 8) for value in model.graph.inputs}
    before = Session.of(model, CPU, optimize=False).run(feeds)["y"]
    (rule,) = [rule for rule in load_rules(PACKAGE, OPSET) if rule.name == name]
    assert fixpoint(model, [rule], always=True).counts == {name: 1}
    after = Session.of(model, CPU, optimize=False).run(feeds)["y"]
    assert after.dtype == before.dtype
    if before.dtype == np.float32:
        tolerance = 0.05 if "dynamic" in name else 1e-5  # the data were rounded on the way
        assert np.abs(before - after).max() <= tolerance * np.abs(before).max()
    else:
        apart = np.abs(before.astype(np.int32) - after.astype(np.int32))
        assert apart.max() <= 1  # a half is rounded either way
        assert (apart == 0).mean() > 0.98


def test_every_rule_has_a_case() -> None:
    assert [rule.name for rule in load_rules(PACKAGE, OPSET)] == list(CASES)
    ((_, text),) = rule_files(PACKAGE)
    assert len(re.findall(r"^(?:match|or)\b", text, re.MULTILINE)) == len(CASES)
