from __future__ import annotations

import numpy as np
import onnx_ir as ir
from sample_models import from_text

from onnxslim.model import canonicalize
from onnxslim.rewrite.driver import fixpoint
from onnxslim.rewrite.identity import eliminate_identity
from onnxslim.rewrite.reader import load_rules, read_rules

RULES = """
relu_relu (x) => (y)
match   { a = Relu (x)  y = Relu (a) }
rewrite { y = Relu (x) }
neg_neg (x) => (y)
match   { a = Neg (x)  y = Neg (a) }
rewrite { y = Identity (x) }
"""


def ops(graph):
    return [node.op_type for node in graph]


def chain(length, op="Relu"):
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["N"]))
    nodes, value = [], x
    for place in range(length):
        nodes.append(ir.Node("", op, [value], name=f"n{place}"))
        value = nodes[-1].outputs[0]
        value.name = f"v{place}"
    return ir.Model(ir.Graph([x], [value], nodes=nodes, opset_imports={"": 17}, name="chain"), ir_version=8)


def test_fixpoint_of_a_long_chain():
    model = chain(10_000)
    assert fixpoint(model, read_rules(RULES, 17)).counts == {"relu_relu": 9_999}
    assert ops(model.graph) == ["Relu"]
    assert model.graph.outputs[0].name == "v9999"
    model = chain(401, "Neg")
    assert fixpoint(model, read_rules(RULES, 17)).counts == {"neg_neg": 200}
    assert ops(model.graph) == ["Neg"]


def test_fixpoint_is_the_same_each_time():
    texts = set()
    for _ in range(3):
        model = chain(7)
        fixpoint(model, read_rules(RULES, 17))
        texts.add(ir.to_proto(model).SerializeToString(deterministic=True))
    assert len(texts) == 1


def test_pass_through_keeps_the_names_of_inputs_and_outputs():
    model = chain(2, "Neg")
    fixpoint(model, read_rules(RULES, 17))
    assert ops(model.graph) == ["Identity"]
    assert [v.name for v in (*model.graph.inputs, *model.graph.outputs)] == ["x", "v1"]
    assert fixpoint(model, read_rules(RULES, 17)).counts == {}


def test_subgraphs_are_rewritten_where_they_are():
    model = from_text("""<ir_version: 8, opset_import: ["" : 17]> g (bool c, float[N] x) => (float[N] y) {
        o = Relu (x)
        y = If (c) <
            then_branch = t () => (float[N] p) { a = Relu (x)  b = Relu (a)  p = Neg (b) },
            else_branch = e () => (float[N] q) { q = Relu (o) }
        >
    }""")
    assert fixpoint(model, read_rules(RULES, 17)).counts == {"relu_relu": 1}  # never across the border of a graph
    branches = list(model.graph)[1].attributes
    assert ops(branches["then_branch"].as_graph()) == ["Relu", "Neg"]
    assert ops(branches["else_branch"].as_graph()) == ["Relu"]


def test_functions_get_constant_nodes():
    model = from_text("""<ir_version: 10, opset_import: ["" : 21, "f" : 1]>
    g (float[N] x) => (float[N] y) { y = f.f (x) }
    <domain: "f", opset_import: ["" : 21]> f (x) => (y) {
        a = Constant <value_float = 2.0> ()  b = Constant <value_float = 3.0> ()  t = Mul (x, a)  y = Mul (t, b) }""")
    rules = [rule for rule in load_rules("onnxslim.passes.simplify", 21) if rule.name == "mul_mul"]
    assert fixpoint(model, rules).counts == {"mul_mul": 1}
    (function,) = model.functions.values()
    assert sorted(ops(function)) == ["Constant", "Constant", "Constant", "Mul"]
    made = [n for n in function if n.op_type == "Constant" and n.outputs[0].uses()]
    assert ir.convenience.get_const_tensor(made[0].outputs[0]).numpy() == 6
    ir.to_proto(model)


def test_a_rewrite_must_pay():
    rules = read_rules("r (x) => (y)\nmatch { y = Relu (x) }\nrewrite { a = Neg (x)  y = Neg (a) }", 17)
    model = chain(1)
    assert fixpoint(model, rules).counts == {}
    assert ops(model.graph) == ["Relu"]


def test_shared_large_weight_is_not_doubled():
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,600] x, float[600,600] w, float c)
        => (float[N,600] y, float[N,600] z) { t = MatMul (x, w)  y = Mul (t, c)  z = MatMul (t2, w)  t2 = Neg (x) }"""
    text = text.replace("z = MatMul (t2, w)  t2 = Neg (x)", "t2 = Neg (x)  z = MatMul (t2, w)")
    rules = [rule for rule in load_rules("onnxslim.passes.simplify", 17) if rule.name == "matmul_scale_mul"]
    weights = {"w": np.ones((600, 600), np.float32), "c": np.array(2, np.float32)}
    assert fixpoint(from_text(text, **weights), rules).counts == {}
    alone = text.replace("z = MatMul (t2, w)", "z = Neg (t2)")
    assert fixpoint(from_text(alone, **weights), rules).counts == {"matmul_scale_mul": 1}


def test_a_rule_that_raises_is_skipped_and_named(monkeypatch):
    from onnxslim.rewrite import driver

    find = driver.find_match

    def broken(rule, node, reasons=None):
        if rule.name == "relu_relu":
            raise ValueError("of all things")
        return find(rule, node, reasons)

    monkeypatch.setattr(driver, "find_match", broken)
    model = from_text("""<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) {
        a = Relu (x)  b = Relu (a)  c = Neg (b)  y = Neg (c) }""")
    applied = fixpoint(model, read_rules(RULES, 17))
    assert applied.counts == {"neg_neg": 1}
    assert applied.broken == {"relu_relu": "ValueError: of all things"}


def test_accept_has_the_last_word():
    model = chain(3)
    applied = fixpoint(model, read_rules(RULES, 17), accept=lambda match, plan: "not today")
    assert applied.counts == {}
    assert list(applied.refused) == ["relu_relu at n1", "relu_relu at n2"]


def test_two_results():
    rules = read_rules(
        """r (x) => (y, z)
        match   { z = Neg (x)  a = Relu (z)  y = Relu (a) }
        rewrite { z = Neg (x)  y = Relu (z) }""",
        17,
    )
    model = from_text("""<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y, float[N] w) {
        z = Neg (x)  w = Abs (z)  a = Relu (z)  y = Relu (a) }""")
    assert fixpoint(model, rules).counts == {"r": 1}
    assert sorted(ops(model.graph)) == ["Abs", "Neg", "Relu"]
    seen = {"x"}
    for node in model.graph:  # sorted again
        assert {value.name for value in node.inputs} <= seen
        seen |= {value.name for value in node.outputs}


def test_known_result_of_a_graph_output():
    model = from_text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1] w) => (float[1] y) { a = Neg (w)  y = Neg (a) }',
        w=np.ones(1, np.float32),
    )
    canonicalize(model)
    fixpoint(model, read_rules(RULES, 17))
    assert ops(model.graph) == ["Identity"]


def test_identity_of_an_outer_value_gives_a_branch_its_output():
    model = from_text("""<ir_version: 8, opset_import: ["" : 17]> g (bool c, float[N] x) => (float[N] y) {
        o = Relu (x)
        y = If (c) <
            then_branch = t () => (float[N] p) { p = Identity (o) },
            else_branch = e () => (float[N] q) { r = Neg (o)  q = Identity (r) }
        >
    }""")
    branches = list(model.graph)[1].attributes
    assert not eliminate_identity(branches["then_branch"].as_graph()[0])
    inner = branches["else_branch"].as_graph()
    assert eliminate_identity(inner[1])
    assert [value.name for value in inner.outputs] == ["q"]
    assert not eliminate_identity(inner[0])
    assert not eliminate_identity(ir.Node("", "Identity", [inner[0].outputs[0]]))
