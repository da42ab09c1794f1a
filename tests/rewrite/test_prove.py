"""Every rule on disk proves itself, at every opset where it applies; wrong rules are found out."""

from __future__ import annotations

import importlib
import pathlib
import re

import numpy as np
import onnx.defs
import onnx.helper
import pytest
from sample_models import from_text

from onnxslim.analysis.evaluate import evaluate
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.errors import RuleError
from onnxslim.pipeline.discovery import PACKAGE
from onnxslim.rewrite.driver import fixpoint
from onnxslim.rewrite.prove import (
    Disproved,
    NeverRan,
    check_site,
    difference,
    prove_property,
    prove_static,
    schema_versions,
    verify_site,
)
from onnxslim.rewrite.reader import load_rules, read_rules, rule_files, rule_names
from onnxslim.rewrite.rule import find_schema


def newest_opset():
    """Return the newest opset that the installed onnx and ONNX Runtime both know."""
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    feeds = {"x": np.zeros(1, np.float32)}
    opsets = range(onnx.defs.onnx_opset_version(), 17, -1)
    return next(opset for opset in opsets if evaluate([node], feeds, ["y"], {"": opset}, reference=False))


NEWEST = newest_opset()
OPSETS = tuple(range(NEWEST, 10, -1))
OLDER_OPSETS = (10, 9, 8, 7)
"""Where a rule that applies at none of OPSETS (an op that is no more) is proved."""


def rules_on_disk():
    root = pathlib.Path(importlib.import_module(PACKAGE).__file__).parent
    for folder in sorted({file.parent for file in root.rglob("*.rules")}):
        package = ".".join((PACKAGE, *folder.relative_to(root).parts))
        for file, text in rule_files(package):
            yield from (pytest.param(package, name, id=name) for name in rule_names(text, file))


RULES = list(rules_on_disk())


def test_every_left_side_that_is_written_is_proved():
    """Each `match` and each `or` below it is a rule of its own; templates make more of one."""
    root = pathlib.Path(importlib.import_module(PACKAGE).__file__).parent
    texts = {file: file.read_text(encoding="utf-8") for file in root.rglob("*.rules")}
    assert {file.stem for file in texts} >= {"algebra", "convolution", "shapes", "transposes"}
    for file, text in texts.items():
        left_sides = re.findall(r"^(?:match|or)\b", text, re.MULTILINE)
        assert len(list(rule_names(text, file))) >= len(left_sides) > 0, file.name
    assert (
        len(RULES)
        == len({case.values for case in RULES})
        == sum(len(list(rule_names(text, file))) for file, text in texts.items())
    )


def meaning(rule):
    """Return what the ops of a rule take at its opset, but for element types: most new versions only add some."""

    def signature(schema):
        attributes = tuple((a.name, str(a.type), str(a.default_value), a.required) for a in schema.attributes.values())
        inputs = tuple((each.name, str(each.option)) for each in (*schema.inputs, *schema.outputs))
        return schema.name, tuple(sorted(attributes)), inputs

    names = {(node.domain, node.op_type) for _, body in rule.bodies() for node in body.operations()}
    schemas = [find_schema(domain, name, rule.opset) for domain, name in sorted(names)]
    return tuple(signature(schema) for schema in schemas if schema is not None)


@pytest.mark.parametrize(("package", "name"), RULES)
def test_rule_holds(package, name):
    """At every version of its ops, from opset 11 to the newest that ONNX Runtime has kernels for; most draws where a
    version takes something else."""
    proved, meanings = set(), set()
    for opset in (*OPSETS, *OLDER_OPSETS):
        if opset in OLDER_OPSETS and proved:
            break
        rule = next((rule for rule in load_rules(package, opset).rules if rule.name == name), None)
        if rule is None or schema_versions(rule) in proved:
            continue  # the same versions of the same ops mean the same
        try:
            proof = prove_property(rule, examples=5 if not proved else 2 if meaning(rule) not in meanings else 1)
        except NeverRan:
            assert not proved, f"{name} never ran at opset {opset}, and does so at a newer one"
            continue
        assert proof.ran >= 1
        proved.add(schema_versions(rule))
        meanings.add(meaning(rule))
    assert proved, f"{name} applies at none of {OPSETS + OLDER_OPSETS}"


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


@pytest.mark.parametrize("name", rule_names(WRONG))
def test_wrong_rule_is_disproved(name):
    rule = next(rule for rule in prove_static(WRONG, 21) if rule.name == name)
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


def test_static_proof_names_the_line():
    with pytest.raises(RuleError, match=r"my\.rules:2"):
        prove_static("\nr (x) => (y)\nmatch { y = NoSuchOp (x) }\nrewrite { y = Relu (x) }", 21, "my.rules")


@pytest.mark.parametrize(
    ("expected", "got", "why"),
    [
        (np.zeros(2, np.float32), np.zeros(3, np.float32), "shape"),
        (np.zeros(2, np.float32), np.zeros(2, np.float64), "type"),
        (np.array([1, 2]), np.array([1, 3]), "other elements"),
        (np.array([np.nan, 1.0]), np.array([1.0, 1.0]), "no number"),
        (np.array([np.inf, 1.0]), np.array([1.0, 1.0]), "infinite"),
        (np.array([np.inf]), np.array([-np.inf]), "infinite"),
        (np.array([1.0]), np.array([1.1]), "differs by"),
        (np.array([np.nan, np.inf, 1.0]), np.array([np.nan, np.inf, 1.0]), None),
        (np.array([np.nan]), np.array([np.nan]), None),
    ],
)
def test_difference(expected, got, why):
    answer = difference(expected, got)
    assert answer is None if why is None else why in answer


WRONG_IN_PLACE = """
half (float[...S] x) => (float[...S] y)
match   { a = Relu (x)  y = Neg (a) }
rewrite { y = Neg (x) }
right (float[...S] x) => (float[...S] y)
match   { a = Abs (x)  y = Abs (a) }
rewrite { y = Abs (x) }
"""


def test_verify_at_the_site_refuses_a_wrong_rewrite():
    model = from_text(
        """<ir_version: 10, opset_import: ["" : 21]> g (float[N,"2*N"] x) => (float[N,"2*N"] y, float[N,"2*N"] z) {
        a = Relu (x)  y = Neg (a)  b = Abs (x)  z = Abs (b) }""".replace('"2*N"', "M")
    )
    infer_shapes(model)
    generator = np.random.default_rng(0)
    applied = fixpoint(
        model, read_rules(WRONG_IN_PLACE, 21), accept=lambda match, plan: verify_site(match, plan, generator)
    )
    assert applied.counts == {"right": 1}
    assert [each.rule.split(" at ")[0] for each in applied.refused] == ["half"]
    assert "differs" in applied.refused[0].reason
    assert [node.op_type for node in model.graph] == ["Relu", "Neg", "Abs"]


@pytest.mark.parametrize("declared", ["float[?]", "float[N,?]", "float", "float[3,?,N]"])
def test_verify_makes_up_sizes_that_nothing_tells(declared):
    model = from_text(f"""<ir_version: 10, opset_import: ["" : 21]> g ({declared} x) => ({declared} y) {{
        a = Abs (x)  y = Abs (a) }}""")
    rules = read_rules("r (x) => (y) match { a = Abs (x) y = Abs (a) } rewrite { y = Neg (x) }", 21)
    applied = fixpoint(model, rules, accept=lambda match, plan: verify_site(match, plan, np.random.default_rng(0)))
    assert applied.counts == {}
    assert "differs" in applied.refused[0].reason


def test_verify_says_nothing_about_a_site_that_is_too_large():
    model = from_text("""<ir_version: 10, opset_import: ["" : 21]> g (float[99999,99999] x) => (float[99999,99999] y) {
        a = Abs (x)  y = Abs (a) }""")
    rules = read_rules("r (x) => (y) match { a = Abs (x) y = Abs (a) } rewrite { y = Neg (x) }", 21)
    checks = []

    def accept(match, plan):
        checks.append(check_site(match, plan, np.random.default_rng(0)))
        return checks[-1].difference

    assert fixpoint(model, rules, accept=accept).counts == {"r": 1}
    assert [check.ran for check in checks] == [False]
