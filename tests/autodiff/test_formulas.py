"""Formulas of gradients read, or say where they do not; and of one, just what is asked for is built."""

from __future__ import annotations

import collections
import importlib
import importlib.resources
import pkgutil
from collections.abc import Iterable

import numpy as np
import onnx_ir as ir
import pytest
from gradient_proof import Runner
from sample_models import from_text

from onnxslim.autodiff.formulas import nothing, read_formulas
from onnxslim.autodiff.reverse import graph_builder
from onnxslim.errors import RuleError
from onnxslim.ops import gradients
from onnxslim.ops.gradient import Declined, GradientSite

HEADER = '<ir_version: 10, opset_import: ["": 18]> g '


def site(body: str, wanted: Iterable[int], *, dtype: str = "float") -> tuple[ir.Model, GradientSite]:
    """Return a model of one node of inputs a and b, and its site; the gradient of the result is the input `seed`."""
    text = f"({dtype}[2, 3] a, {dtype}[2, 3] b, {dtype}[2, 3] seed) => ({dtype}[2, 3] c) {{ {body} }}"
    model = from_text(HEADER + text)
    (node,) = model.graph
    build = graph_builder(model)
    return model, GradientSite(node, build, (model.graph.inputs[2],), frozenset(wanted))


def built(model: ir.Model) -> list[str]:
    """Return the ops that were appended to the one node of a model."""
    return [node.op_type for node in model.graph][1:]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("Mul x => y", 3, "begins no gradient"),
        ("Mul (a, b) => (c) { da = dc", 3, "begins no gradient"),
        ("Mul (a, b) => (c) {\n    da = dc * d\n}", 3, "reads d, which nothing makes"),
        ("Mul (a, b) => (c) {\n    da = dc ~ b\n}", 4, "there is no '~' in rules"),
        ("Mul (a, b) => (c) {\n    da = dc *\n}", 5, "stands where a value should be"),
        ("Mul (a, b) => (c) { da = Sum <axis = ;> (dc) }", 3, "does not read"),
        ("Mod<fmod> (a, b) => (c) { da = dc }", 3, "no attribute=value: fmod"),
        ("Neg (x) => (y) { dx = -dy }\nNeg (x) => (y) { dx = dy }", 4, "never reached"),
        ("constant: Neg\nNeg (x) => (y) { dx = -dy }", 4, "never reached"),
        ("Mod (a, b) => (c) { da = dc }\nMod<fmod=1> (a, b) => (c) { da = dc }", 4, "never reached"),
    ],
)
def test_what_does_not_read_is_named_by_file_and_line(text: str, line: int, what: str) -> None:
    with pytest.raises(RuleError) as caught:
        read_formulas(f"# a comment: {{ }}\n\n{text}\n", "some.grads")
    assert what in str(caught.value)
    assert caught.value.where == f"some.grads:{line}"
    assert caught.value.hint


def test_of_a_formula_just_what_is_asked_for_is_built() -> None:
    rule = read_formulas("Mul (a, b) => (c) { da = dc * b  db = dc * Exp (a) }", "some.grads")["", "Mul"]
    model, at = site("c = Mul (a, b)", [0])
    assert set(rule(at)) == {0}
    assert built(model) == ["Mul"]
    model, at = site("c = Mul (a, b)", [1])
    assert set(rule(at)) == {1}
    assert built(model) == ["Exp", "Mul"]
    model, at = site("c = Mul (a, b)", [])
    assert rule(at) == {}
    assert built(model) == []


def test_what_two_gradients_share_is_built_once() -> None:
    rule = read_formulas("Mul (a, b) => (c) { e = Exp (c) da = dc * e  db = e * dc }", "some.grads")["", "Mul"]
    model, at = site("c = Mul (a, b)", [0, 1])
    assert set(rule(at)) == {0, 1}
    assert built(model) == ["Exp", "Mul", "Mul"]


def test_an_operand_without_a_formula_has_no_gradient() -> None:
    rule = read_formulas("Mul (a, b) => (c) { da = dc }", "some.grads")["", "Mul"]
    model, at = site("c = Mul (a, b)", [0, 1])
    assert rule(at) == {0: at.incoming()}
    assert built(model) == []


def test_an_operand_that_is_left_out_is_left_out_of_what_reads_it() -> None:
    rule = read_formulas("Clip (x, low, high) => (y) { dx = Clip (dy, low, high) }", "some.grads")["", "Clip"]
    model, at = site("c = Clip (a, , b)", [0])
    rule(at)
    made = list(model.graph)[-1]
    assert [value and value.name for value in made.inputs] == ["seed", None, "b"]
    model, at = site("c = Clip (a)", [0])
    rule(at)
    assert len(list(model.graph)[-1].inputs) == 1


def test_the_first_formula_whose_attributes_fit_is_taken() -> None:
    text = "Mod<fmod=0> (a, b) => (c) { da = Abs (dc) }\nMod<fmod=1> (a, b) => (c) { da = Neg (dc) }"
    rule = read_formulas(text, "some.grads")["", "Mod"]
    for body, op in (("Mod (a, b)", "Abs"), ("Mod <fmod = 1> (a, b)", "Neg"), ("Mod <fmod = 0> (a, b)", "Abs")):
        model, at = site(f"c = {body}", [0])
        rule(at)
        assert built(model) == [op]


def test_where_no_formula_is_for_the_attributes_the_node_is_named() -> None:
    rule = read_formulas("Mod<fmod=1> (a, b) => (c) { da = dc }", "some.grads")["", "Mod"]
    _, at = site("c = Mod (a, b)", [0])
    with pytest.raises(Declined, match="there is none for fmod=0"):
        rule(at)


def test_an_attribute_that_nobody_knows_is_an_error_of_the_formula() -> None:
    rule = read_formulas("Neg (x) => (y) { dx = dy * @slope }", "some.grads")["", "Neg"]
    _, at = site("c = Neg (a)", [0])
    with pytest.raises(RuleError, match="Neg c leaves slope out"):
        rule(at)


@pytest.mark.parametrize("dtype", ["float", "double", "float16"])
def test_numbers_take_the_type_of_the_gradients_and_integers_stay(dtype: str) -> None:
    text = "Neg (x) => (y) { dx = dy * 0.5 + CastLike (Gather (Shape (x), 1), dy) }"
    rule = read_formulas(text, "some.grads")["", "Neg"]
    _, at = site("c = Neg (a)", [0], dtype=dtype)
    made = rule(at)[0]
    assert made is not None
    assert made.dtype == at.operand().dtype


def test_a_truth_value_that_is_multiplied_is_made_a_number_once() -> None:
    text = "Neg (x) => (y) { positive = x > 0.0  dx = dy * positive + positive * !positive }"
    model, at = site("c = Neg (a)", [0], dtype="double")
    made = read_formulas(text, "some.grads")["", "Neg"](at)[0]
    assert made is not None
    assert made.dtype is ir.DataType.DOUBLE
    assert sorted(built(model)) == ["Add", "Cast", "Cast", "Greater", "Mul", "Mul", "Not"]


def test_an_attribute_is_that_of_the_node_or_its_default() -> None:
    rule = read_formulas("LeakyRelu (x) => (y) { dx = dy * @alpha }", "some.grads")["", "LeakyRelu"]
    for body, alpha in (("LeakyRelu (a)", 0.01), ("LeakyRelu <alpha = 0.25> (a)", 0.25)):
        model, at = site(f"c = {body}", [0])
        made = rule(at)[0]
        assert made is not None
        del model.graph.inputs[1]
        model.graph.outputs[:] = [made]
        (result,) = Runner(ir.to_proto(model))({name: np.ones((2, 3), np.float32) for name in ("a", "seed")}).values()
        np.testing.assert_allclose(result, alpha, rtol=1e-6)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_what_is_reduced_is_seen_with_its_axes_kept(keepdims: int) -> None:
    rule = read_formulas("ReduceMax (x, axes) => (y) { dx = dy + y }", "some.grads")["", "ReduceMax"]
    shape = "2, 1" if keepdims else "2"
    text = f"""(float[2, 3] x, float[{shape}] seed) => (float[{shape}] y) <int64[1] axes = {{-1}}>
        {{ y = ReduceMax <keepdims = {keepdims}> (x, axes) }}"""
    model = from_text(HEADER + text)
    (node,) = model.graph
    at = GradientSite(node, graph_builder(model), (model.graph.inputs[1],), frozenset({0}))
    made = rule(at)[0]
    assert made is not None
    assert list(made.shape or ()) == [2, 3]


def test_of_constant_ops_nothing_flows_back() -> None:
    found = read_formulas("constant: Floor com.microsoft::Strange", "some.grads")
    assert found == {("", "Floor"): nothing, ("com.microsoft", "Strange"): nothing}
    model, at = site("c = Floor (a)", [0])
    assert found["", "Floor"](at) == {}
    assert built(model) == []


def test_every_gradient_is_declared_once() -> None:
    folder = importlib.resources.files(gradients)
    texts = [file for file in folder.iterdir() if file.name.endswith(".grads")]
    modules = [
        importlib.import_module(f"{gradients.__name__}.{m.name}") for m in pkgutil.iter_modules(gradients.__path__)
    ]
    declared = [op for file in texts for op in read_formulas(file.read_text(encoding="utf-8"), file.name)]
    declared += [op for module in modules for op in module.GRADIENTS]
    assert len(texts) > 2
    assert {("", "Add"), ("", "ReduceSum"), ("", "Max"), ("com.microsoft", "FastGelu")} <= set(declared)
    assert [op for op, count in collections.Counter(declared).items() if count > 1] == []
