from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.model import canonicalize
from onnxslim.rewrite.match import find_match
from onnxslim.rewrite.mismatch import describe
from onnxslim.rewrite.reader import read_rules
from onnxslim.rewrite.signature import equal_sizes


def site(body, rule, opset=17, inputs="float[2,3] x, float[2,3] w", outputs="float[2,3] y", **weights):
    model = from_text(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) {{ {body} }}', **weights
    )
    canonicalize(model)
    infer_shapes(model)
    (rule,) = read_rules(rule, opset)
    node = next(node for node in model.graph if node.outputs[0].name == "y")
    reasons = []
    match = find_match(rule, node, reasons)
    return match, [describe(reason) for reason in reasons]


MUL_RELU = "r (x, z) => (y)\nmatch { a = Relu (x)  y = Mul (a, z) }\nrewrite { y = Mul (x, z) }"


def test_commutative_ops_match_both_ways():
    for body in ("a = Relu (x)  y = Mul (a, w)", "a = Relu (x)  y = Mul (w, a)"):
        match, _ = site(body, MUL_RELU)
        assert match.values["x"].name == "x"
        assert match.values["z"].name == "w"


def test_all_ways_are_tried():
    nested = """r (x, z) => (y)
    match   { a = Relu (x)  b = Neg (x)  c = Add (a, z)  y = Mul (c, b) }
    rewrite { y = Mul (x, z) }"""
    match, _ = site("a = Relu (x)  b = Neg (x)  c = Add (w, a)  y = Mul (b, c)", nested)
    assert match.values["z"].name == "w"
    match, reasons = site("a = Relu (x)  b = Neg (w)  c = Add (w, a)  y = Mul (b, c)", nested)
    assert match is None
    assert any("two different values" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("body", "outputs", "reason"),
    [
        ("y = Mul (x, w)", "float[2,3] y", "made by no Relu"),
        ("a = Neg (x)  y = Mul (a, w)", "float[2,3] y", "is Neg, not Relu"),
        ("a = Relu (x)  y = Mul (a, w)", "float[2,3] y, float[2,3] a", "is an output of the graph"),
        ("a = Relu (x)  y = Mul (a, w)  z = Neg (a)", "float[2,3] y, float[2,3] z", "is needed elsewhere"),
        ("a = Relu (x)  y = Mul (a, a)", "float[2,3] y", "is a value inside the pattern"),
    ],
)
def test_a_non_match_carries_its_reason(body, outputs, reason):
    match, reasons = site(body, MUL_RELU, outputs=outputs)
    assert match is None
    assert any(reason in each for each in reasons)


def test_use_in_a_subgraph_is_a_use():
    body = """a = Relu (x)  y = Mul (a, w)  z = If (c) <
        then_branch = t () => (float[2,3] p) { p = Neg (a) }, else_branch = e () => (float[2,3] q) { q = Neg (x) } >"""
    match, reasons = site(
        body, MUL_RELU, inputs="float[2,3] x, float[2,3] w, bool c", outputs="float[2,3] y, float[2,3] z"
    )
    assert match is None
    assert any("needed elsewhere" in each for each in reasons)


def test_attributes():
    rule = "r <e> (x) => (y)\nmatch { a = Elu <alpha = @e> (x)  y = Elu <alpha = @e> (a) }\nrewrite { y = Relu (x) }"
    assert site("a = Elu (x)  y = Elu <alpha = 1.0> (a)", rule)[0].attributes["e"].attribute.value == 1.0
    assert site("a = Elu (x)  y = Elu <alpha = 0.5> (a)", rule)[0] is None
    plain = "r (x) => (y)\nmatch { a = Elu (x)  y = Elu <alpha = 0.5> (a) }\nrewrite { y = Relu (x) }"
    assert site("a = Elu <alpha = 1.0> (x)  y = Elu <alpha = 0.5> (a)", plain)[0] is not None
    assert site("a = Elu <alpha = 2.0> (x)  y = Elu <alpha = 0.5> (a)", plain)[0] is None
    assert site("a = Elu (x)  y = Elu (a)", plain)[0] is None


HALF = "r (x) => (y)\nmatch { h = Constant <value_float = 0.5> ()  y = Mul (x, h) }\nrewrite { y = Relu (x) }"


@pytest.mark.parametrize(
    ("literal", "matches"),
    [
        (np.array(0.5, np.float32), True),
        (np.full((2, 3), 0.5, np.float32), True),
        (np.array(0.5000001, np.float32), True),
        (np.array(0.51, np.float32), False),
        (np.array([0.5, 0.4, 0.5], np.float32), False),
    ],
)
def test_literals(literal, matches):
    match, _ = site("y = Mul (h, x)", HALF, inputs="float[2,3] x, float[1] h", h=literal)
    assert (match is not None) == matches


def test_literal_must_be_known_and_small():
    assert site("y = Mul (w, x)", HALF)[1]
    assert (
        site("y = Mul (w, x)", HALF, inputs="float[300,300] x, float[1] w", w=np.full((300, 300), 0.5, np.float32))[0]
        is None
    )


def test_literal_with_several_elements_and_a_bound_one():
    rule = """r <c> (x) => (y)
    match   { s = Constant <value_ints = [3, 2]> ()  a = Reshape (x, s)
              k = Constant <value_float = @c> ()  y = Mul (a, k) }
    rewrite { a = Neg (x)  y = Elu <alpha = @c> (a) }"""
    weights = {"s": np.array([3, 2], np.int64), "k": np.array([7], np.float32)}
    inputs, outputs = "float[2,3] x, int64[2] s, float[1] k", "float[3,2] y"
    match, _ = site("a = Reshape (x, s)  y = Mul (a, k)", rule, inputs=inputs, outputs=outputs, **weights)
    assert match.attributes["c"].attribute.as_float() == 7
    weights["k"] = np.array([7, 8], np.float32)
    match, reasons = site("a = Reshape (x, s)  y = Mul (a, k)", rule, inputs=inputs, outputs=outputs, **weights)
    assert match is None
    assert any("is no FLOAT" in each for each in reasons)


def test_optional_inputs():
    rule = "r (x, low, high) => (y)\nmatch { y = Clip (x, low, high) }\nrewrite { y = Clip (x, low, high) }"
    match, _ = site("y = Clip (x, , h)", rule, inputs="float[2,3] x, float[1] h", h=np.array(1, np.float32))
    assert match.values["low"] is None
    assert match.values["high"].name == "h"
    match, _ = site("y = Clip (x)", rule)
    assert match.values["high"] is None
    only = "r (x, high) => (y)\nmatch { y = Clip (x, , high) }\nrewrite { y = Clip (x, , high) }"
    assert site("y = Clip (x, h, h)", only, inputs="float[2,3] x, float[1] h", h=np.array(1, np.float32))[0] is None


def test_further_outputs_may_be_there_if_nobody_reads_them():
    rule = "r (x) => (y)\nmatch { y = Dropout (x) }\nrewrite { y = Identity (x) }"
    assert site("y, m = Dropout (x)", rule)[0] is not None
    assert site("y, m = Dropout (x)  z = Not (m)", rule, outputs="float[2,3] y, bool[2,3] z")[0] is None


@pytest.mark.parametrize(
    ("signature", "matches"),
    [
        ("(float[2,3] x) => (y)", True),
        ("(float[N,N] x) => (y)", False),
        ("(float[N,M] x) => (float[N,M] y)", True),
        ("(float[N,M] x) => (float[M,N] y)", False),
        ("(int64[N,M] x) => (y)", False),
        ("(floating[...S] x) => (any[...S] y)", True),
        ("(T[...,3] x) => (T[2,...] y)", True),
        ("(float[1...] x) => (y)", False),
        ("(float[2,3,...] x) => (float[2,3,1...] y)", True),
        ("(float[2,3,4,...] x) => (y)", False),
        ("(float[N] | float[N,M] x) => (y)", True),
        ("(float[1?,2,3] x) => (y)", True),
        ("(float[A*B,M] x) => (float[A*B,M] y)", True),
    ],
)
def test_signature_is_a_guard(signature, matches):
    match, reasons = site("y = Relu (x)", f"r {signature}\nmatch {{ y = Relu (x) }}\nrewrite {{ y = Abs (x) }}")
    assert (match is not None) == matches, reasons


def test_products_of_sizes_are_checked():
    rule = """r <group> (float[N,C*group,...] x, float[M,C,...] w) => (y)
    match   { y = Conv <group = @group> (x, w) }
    rewrite { y = Relu (x) }"""
    inputs, outputs = "float[1,4,8] x, float[4,2,3] w", "float[1,4,6] y"
    assert site("y = Conv <group = 2> (x, w)", rule, inputs=inputs, outputs=outputs)[0] is not None
    match, reasons = site("y = Conv <group = 1> (x, w)", rule, inputs=inputs, outputs=outputs)
    assert match is None
    assert "C*group is 2, not 4" in reasons


def test_two_unknown_sizes_are_never_equal():
    rule = "r (float[...S] x) => (float[...S] y)\nmatch { y = Relu (x) }\nrewrite { y = Abs (x) }"
    assert site("y = Relu (x)", rule, inputs="float[N] x", outputs="float[N] y")[0] is not None
    assert not equal_sizes(ir.SymbolicDim(None), ir.SymbolicDim(None))


@pytest.mark.parametrize("node", ["Transpose (x)", "Transpose <perm = [1,0]> (x)"])
@pytest.mark.parametrize("pattern", ["Transpose (x)", "Transpose <perm = [1,0]> (x)", "Transpose <perm = @p> (x)"])
def test_attributes_that_are_left_out_have_the_default_that_the_shapes_say(node, pattern):
    parameters = " <perm: ints> (x) => (y)".replace("perm", "p") if "@p" in pattern else " (x) => (y)"
    rule = f"r{parameters}\nmatch {{ t = {pattern}  y = Neg (t) }}\nrewrite {{ y = Relu (x) }}"
    match, reasons = site(f"t = {node}  y = Neg (t)", rule, outputs="float[3,2] y")
    assert match is not None, reasons
    if "@p" in pattern:
        assert tuple(match.attributes["p"].attribute.as_ints()) == (1, 0)


def test_another_permutation_than_the_default_is_another():
    for node, pattern in (("Transpose (x)", "<perm = [0,1]>"), ("Transpose <perm = [0,1]> (x)", "")):
        rule = f"r (x) => (y)\nmatch {{ t = Transpose {pattern} (x)  y = Neg (t) }}\nrewrite {{ y = Relu (x) }}"
        assert site(f"t = {node}  y = Neg (t)", rule, outputs="float[N,M] y")[0] is None


@pytest.mark.parametrize("pool", ["strides = [1,1], pads = [0,0,0,0], ", "strides = [1,1], dilations = [1,1], ", ""])
def test_ones_and_zeros_that_are_written_out_are_the_default(pool):
    rule = """r <k> (x) => (y)
    match   { p = MaxPool <kernel_shape = @k> (x)  y = Neg (p) }
    rewrite { y = Relu (x) }"""
    body = f"p = MaxPool <{pool}kernel_shape = [2,2]> (x)  y = Neg (p)"
    match, reasons = site(body, rule, inputs="float[1,1,4,4] x", outputs="float[1,1,3,3] y")
    assert match is not None, reasons
    assert (
        site(body.replace("<", "<ceil_mode = 1, "), rule, inputs="float[1,1,4,4] x", outputs="float[1,1,3,3] y")[0]
        is None
    )
