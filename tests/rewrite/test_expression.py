"""Algebra becomes ONNX text; several alternatives and words for ops become rules."""

from __future__ import annotations

import pytest

from onnxslim.errors import RuleError
from onnxslim.rewrite.expression import write_out
from onnxslim.rewrite.reader import read_rules, rule_names


@pytest.mark.parametrize(
    ("algebra", "onnx"),
    [
        ("{ y = x * z }", "{y = Mul (x, z)  }"),
        ("{ y = x - -2 }", "{_1 = Constant <value_int = -2> ()  y = Sub (x, _1)  }"),
        ("{ y = a + b * c }", "{_1 = Mul (b, c)  y = Add (a, _1)  }"),
        ("{ y = (a < b) & !c }", "{_1 = Less (a, b)  _2 = Not (c)  y = And (_1, _2)  }"),
        ("{ y = @p[@q] }", "{_1 = Constant <value = @p> ()  _2 = Constant <value = @q> ()  y = Gather (_1, _2)  }"),
        ("{ d = Abs (x) y = Abs (x) / d }", "{d = Abs (x)  y = Div (d, d)  }"),
        ("{ y = Clip (x, , w) }", "{y = Clip (x, , w)  }"),
        ("{ y = F (x, [@p]) }", "{_1 = Constant <value_ints = @p> ()  y = F (x, _1)  }"),
        ("{ y = x }", "{y = Identity (x)  }"),
        ("{\n y = F <a = 1> (x)\n}", "{\ny = F <a = 1> (x)  \n}"),
    ],
)
def test_algebra(algebra, onnx):
    assert write_out(algebra, "f:1") == onnx


@pytest.mark.parametrize("body", ["{ y = x ~ z }", "{ y = }", "{ y = F (x }", "{ y = F <a (x) }", "{ y z = x }"])
def test_what_does_not_read_names_the_line(body):
    with pytest.raises(RuleError, match="does not read") as caught:
        write_out(body, "f.rules:7")
    assert str(caught.value.where) == "f.rules:7"


def test_spellings_and_words_are_rules_of_their_own():
    text = """r for F G = Relu Abs | Neg Exp (x) => (y)
    match { y = F (G (x)) } or { y = G (F (x)) }
    rewrite { y = F (x) }"""
    assert rule_names(text, "<text>") == ("r_relu", "r_relu_2", "r_neg", "r_neg_2")
    assert [node.op_type for node in read_rules(text, 17)[3].match.operations()] == ["Neg", "Exp"]
