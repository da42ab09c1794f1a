"""Every rule on disk proves itself, at every opset where it applies; wrong rules are found out."""

from __future__ import annotations

import importlib
import pathlib
import re

import pytest

from onnxslim.rewrite.reader import read_rules, rule_names
from onnxslim.testing.rule_proof import Disproved, prove_property, prove_rule, rules_of

PACKAGE = "onnxslim.passes"
ON_LEVELS = "dequantize"
"""A folder whose rules are proved by tests of its own: random tensors are no levels, scales and zero points."""


def rules_on_disk():
    root = pathlib.Path(importlib.import_module(PACKAGE).__file__).parent
    for folder in sorted({file.parent for file in root.rglob("*.rules")} - {root / ON_LEVELS}):
        package = ".".join((PACKAGE, *folder.relative_to(root).parts))
        yield from (pytest.param(package, name, id=name) for name in rules_of(package))


RULES = list(rules_on_disk())


def test_every_left_side_that_is_written_is_proved():
    """Each `match` and each `or` below it is a rule of its own; templates make more of one."""
    root = pathlib.Path(importlib.import_module(PACKAGE).__file__).parent
    files = [file for file in root.rglob("*.rules") if file.parent.name != ON_LEVELS]
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    assert {file.stem for file in texts} >= {"algebra", "convolution", "shapes", "transposes"}
    for file, text in texts.items():
        left_sides = re.findall(r"^(?:match|or)\b", text, re.MULTILINE)
        assert len(list(rule_names(text, file))) >= len(left_sides) > 0, file.name
    assert (
        len(RULES)
        == len({case.values for case in RULES})
        == sum(len(list(rule_names(text, file))) for file, text in texts.items())
    )


@pytest.mark.parametrize(("package", "name"), RULES)
def test_rule_holds(package, name):
    assert prove_rule(package, name)


WRONG = """
# c may widen the product.
matmul_add_any (float[M,K] a, float[K,N] b, float[P,M,N] c) => (y)
match   { t = MatMul (a, b)  y = Add (t, c) }
rewrite { y = Gemm (a, b, c) }

# The shift of the normalization is forgotten.
batch_normalization_unshifted <epsilon>
    (float[N,C,H,W] x, float[M,C,R,S] w, float[M] b, float[M] scale, float[M] bias, float[M] mean, float[M] var) => (y)
match {
    t = Conv (x, w, b)
    y = BatchNormalization <epsilon = @epsilon> (t, scale, bias, mean, var)
}
rewrite {
    e = Constant <value_float = @epsilon> ()
    v = Add (var, e)
    d = Sqrt (v)
    k = Div (scale, d)
    turned = Transpose (w)
    scaled = Mul (turned, k)
    weight = Transpose (scaled)
    c = Sub (b, mean)
    shift = Mul (c, k)
    y = Conv (x, weight, shift)
}

# Integers round, so that the order of product and quotient matters.
integers_mul_div (int64[N] x, int64[N] a, int64[N] b) => (y)
match   { t = Mul (x, a)  y = Div (t, b) }
when    { zero = Constant <value_int = 0> ()  n = Equal (b, zero)  ok = Not (n) }
rewrite { c = Div (a, b)  y = Mul (x, c) }
"""


@pytest.mark.parametrize("name", rule_names(WRONG, "<text>"))
def test_wrong_rule_is_disproved(name):
    rule = next(rule for rule in read_rules(WRONG, 21) if rule.name == name)
    with pytest.raises(Disproved, match=name):
        prove_property(rule, examples=30)


def test_rule_whose_left_side_never_runs_is_disproved():
    (rule,) = read_rules(
        """never (float[2,3] a, float[2,3] b) => (y)
        match   { y = MatMul (a, b) }
        rewrite { y = Add (a, b) }""",
        21,
    )
    with pytest.raises(Disproved, match="never ran"):
        prove_property(rule, examples=3)


def test_rule_whose_right_side_does_not_run_is_disproved():
    (rule,) = read_rules(
        """doubles (double[N] x) => (y)
        match   { a = Neg (x)  y = Neg (a) }
        rewrite { y = HardSigmoid (x) }""",
        21,
    )
    with pytest.raises(Disproved, match="does not run"):
        prove_property(rule, examples=3)
