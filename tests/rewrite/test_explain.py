from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.model import canonicalize
from onnxslim.rewrite.explain import near_misses
from onnxslim.rewrite.mismatch import Mismatch, MismatchCode, describe
from onnxslim.rewrite.reader import read_rules

MUL_RELU = """
mul_relu (float[N,M] x, float[N,M] z) => (y)
match { a = Relu (x)  y = Mul (a, z) }
rewrite { y = Mul (x, z) }
"""
ELU = "elu (x) => (y)\nmatch { a = Elu <alpha = 0.5> (x)  y = Relu (a) }\nrewrite { y = Relu (x) }"
TWO = "two (x, z) => (y)\nmatch { a = Mul (x, z)  y = Relu (a) }\nrewrite { a = Mul (x, z)  b = Abs (a)  y = Relu (b) }"
SAME = "same (x, z) => (y)\nmatch { a = Mul (x, z)  y = Relu (a) }\nrewrite { a = Abs (x)  y = Mul (a, z) }"
WHEN = """
when (float[N,M] x, float[N,M] z) => (y)
match { a = Mul (x, z)  y = Relu (a) }
when { s = ReduceSum <keepdims = 0> (z)  o = Constant <value_float = 0.0> ()  ok = Greater (s, o) }
rewrite { y = Mul (x, z) }
"""


NEGATIVE = np.full((2, 3), -1, np.float32)


def misses(body, rule, outputs="float[2,3] y", **weights):
    model = from_text(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[2,3] x, float[2,3] w, float[2,3] k) => ({outputs}) '
        f"{{ {body} }}",
        **weights,
    )
    canonicalize(model)
    infer_shapes(model)
    found = [miss.mismatch for miss in near_misses(model, read_rules(rule, 17))]
    return [(describe(mismatch, general=True), describe(mismatch)) for mismatch in found]


@pytest.mark.parametrize(
    ("body", "outputs", "rule", "reason"),
    [
        (
            "a = Relu (x)  y = Mul (a, w)  z = Neg (a)",
            "float[2,3] y, float[2,3] z",
            MUL_RELU,
            ("the Relu's output is needed elsewhere", "a is needed elsewhere"),
        ),
        (
            "a = Relu (x)  y = Mul (a, w)",
            "float[2,3] y, float[2,3] a",
            MUL_RELU,
            ("the Relu's output is an output of the graph", "a is an output of the graph"),
        ),
        ("a = Mul (x, w)  y = Relu (a)", "float[2,3] y", SAME, ("it would cost as much as before",) * 2),
    ],
)
def test_reasons_are_told_with_and_without_names(body, outputs, rule, reason):
    assert misses(body, rule, outputs) == [reason]


def test_types_payoff_and_attributes_are_reasons():
    ((reason, detail),) = misses("o = ReduceSum <keepdims = 0> (w)  a = Relu (x)  y = Mul (a, o)", MUL_RELU)
    assert reason == "z has a type or shape that the rule does not take"
    assert detail.startswith("z has the type FLOAT")
    ((reason, detail),) = misses("a = Mul (x, w)  y = Relu (a)", TWO)
    assert (reason.partition(":")[0], detail) == ("no fewer nodes would be left", "3 nodes would stand for 2")
    ((reason, _),) = misses("[e] a = Elu (x)  y = Relu (a)", ELU)
    assert reason == "alpha of the Elu is another"
    ((reason, _),) = misses("a = Elu (x)  y = Relu (a)", ELU)
    assert reason == "alpha of the Elu is another"


def test_a_condition_that_does_not_hold_is_a_reason():
    assert misses("a = Mul (x, k)  y = Relu (a)", WHEN, k=NEGATIVE) == [("`when` does not hold",) * 2]


@pytest.mark.parametrize(
    "body",
    [
        "y = Mul (x, w)",  # no Relu at all
        "a = Neg (x)  y = Mul (a, w)",
        "a = Relu (x)  y = Mul (a, w)",  # it applies
        "a = Relu (x)  y = Mul (a, a)",
    ],
)
def test_patterns_that_are_not_there_and_those_that_apply_are_no_misses(body):
    assert misses(body, MUL_RELU) == []


def test_rules_of_one_op_and_other_literals_are_silent():
    one = "one (x) => (y)\nmatch { y = Elu <alpha = 0.5> (x) }\nrewrite { y = Relu (x) }"
    assert misses("y = Elu (x)", one) == []
    half = """half (x) => (y)
    match { h = Constant <value_float = 0.5> ()  a = Mul (x, h)  y = Relu (a) }
    rewrite { y = Relu (x) }"""
    assert misses("a = Mul (x, k)  y = Relu (a)", half, k=NEGATIVE) == []


def test_a_node_is_no_value_though_it_is_called_as_its_output_is():
    assert misses("[a] a = Elu (x)  y = Relu (a)", ELU) == [("alpha of the Elu is another", "alpha of a is another")]


@pytest.mark.parametrize("code", MismatchCode)
def test_every_code_has_words_and_general_ones_name_nothing_of_the_model(code):
    value, made = ir.Value(name="secret"), ir.Node("", "Relu", [None], name="secret")
    made.outputs[0].name = "secret"
    for about in (value, made.outputs[0]):
        mismatch = Mismatch(code, ("p", 2, 3), made, about)
        assert "secret" not in describe(mismatch, general=True)
        assert describe(mismatch)


def test_the_model_stays_as_it_is():
    model = from_text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2,3] x, float[2,3] w) => (float[2,3] y) '
        "{ a = Mul (x, w)  y = Relu (a) }"
    )
    infer_shapes(model)
    before = [(node.op_type, len(node.outputs[0].uses())) for node in model.graph]
    assert np.size(list(near_misses(model, read_rules(SAME + "\n" + TWO, 17)))) == 2
    assert [(node.op_type, len(node.outputs[0].uses())) for node in model.graph] == before
