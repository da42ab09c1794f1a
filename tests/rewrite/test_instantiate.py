"""What the right side of a rule is at a site, and why it sometimes is nothing."""

from __future__ import annotations

import numpy as np
import pytest
from sample_models import from_text

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.model import canonicalize
from onnxslim.rewrite.instantiate import BodyEvaluation
from onnxslim.rewrite.match import find_match
from onnxslim.rewrite.mismatch import CannotCompute, NotApplicable
from onnxslim.rewrite.reader import read_rules


def instance(rule, body, inputs="float[2] x", opset=17, body_name="rewrite", output="float", **weights):
    names = "".join(f", float[1] {name}" for name in weights)
    model = from_text(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}{names}) => ({output}[M] y) {{ {body} }}', **weights
    )
    canonicalize(model)
    infer_shapes(model)
    (rule,) = read_rules(rule, opset)
    match = find_match(rule, model.graph.outputs[0].producer())
    return BodyEvaluation(match, getattr(rule, body_name))


ONE = np.ones(1, np.float32)


@pytest.mark.parametrize(
    ("rule", "body", "weights", "reason"),
    [
        (
            "r (x, z) => (y)\nmatch { y = Add (x, z) }\nrewrite { y = Elu <alpha = @z> (x) }",
            "y = Add (x, x)",
            {},
            "not known",
        ),
        (
            "r (x, z) => (y)\nmatch { y = Add (x, z) }\nrewrite { y = Elu <alpha = @z> (x) }",
            "y = Add (x, w)",
            {"w": np.ones(2, np.float32)},
            "z is no FLOAT",
        ),
        (
            "r (x, a, b) => (y)\nmatch { y = Clip (x, a, b) }\nrewrite { y = Min (x, b) }",
            "y = Clip (x)",
            {},
            "Min needs",
        ),
        (
            "r (x, a, b) => (y)\nmatch { y = Clip (x, a, b) }\nrewrite { n = Neg (a)  y = Min (x, n) }",
            "y = Clip (x)",
            {},
            "needs",
        ),
        (
            "r <kind> (x) => (y)\nmatch { y = RandomNormalLike <dtype = @kind> (x) }\n"
            "rewrite { c = Constant <value_int = @kind> ()  z = Cast <to = 1> (c)  y = Add (x, z) }",
            "y = RandomNormalLike (x)",
            {},
            "an attribute that is not there",
        ),
    ],
)
def test_refuses_with_a_reason(rule, body, weights, reason):
    with pytest.raises(NotApplicable, match=reason):
        instance(rule, body, **weights).plan()


def test_what_cannot_be_computed():
    rule = "r (x, z) => (y)\nmatch { y = Add (x, z) }\nrewrite { n = Reshape (z, z)  y = Mul (x, n) }"
    with pytest.raises(CannotCompute, match="cannot be computed"):
        instance(rule, "y = Add (x, w)", w=ONE).plan()


def test_a_literal_takes_the_type_of_what_it_meets():
    rule = """r (x, z) => (y)
    match   { y = Add (x, z) }
    rewrite { h = Constant <value_float = 0.5> ()  n = Mul (z, h)  s = Neg (x)  t = Mul (s, h)  y = Sub (t, n) }"""
    plan = instance(rule, "y = Add (x, w)", inputs="double[2] x", output="double", w=np.ones(1)).plan()
    assert {name: str(array.dtype) for name, array in plan.arrays.items()} == {"h": "float64", "n": "float64"}
    assert [node.body.op_type for node in plan.nodes] == ["Neg", "Mul", "Sub"]


def test_missing_summand_is_zero_of_the_right_type():
    rule = """r (floating[N,K] x, floating[K,M] w, floating[M] b = 0) => (y)
    match   { y = Gemm (x, w, b) }
    rewrite { c = Neg (b)  y = Gemm (x, w, c) }"""
    inputs = "double[2,3] x"
    plan = instance(rule, "y = Gemm (x, w)", inputs=inputs, w=np.ones((3, 4))).plan()
    assert plan.arrays["c"].shape == (4,)
    assert plan.arrays["c"].dtype == np.float64
    with pytest.raises(NotApplicable, match="size of b is not known"):
        instance(rule, "y = Gemm (x, w)", inputs="double[2,3] x, double[3,M] w")


def test_static_shapes_are_known_in_a_body():
    rule = """r (x) => (y)
    match   { y = Abs (x) }
    when    { s = Shape (x)  n = Size (x)  e = Equal (s, n)  ok = Not (e) }
    rewrite { y = Identity (x) }"""
    assert instance(rule, "y = Abs (x)", inputs="float[2,3] x", body_name="when").holds()
    assert not instance(rule, "y = Abs (x)", inputs="float[2] x", body_name="when").holds()
    with pytest.raises(NotApplicable, match="`when` reads is not known"):
        instance(rule, "y = Abs (x)", inputs="float[N] x", body_name="when").holds()
