"""What `when` answers is kept for sites that look alike, and for those only."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text

from onnxslim.rewrite import condition
from onnxslim.rewrite.driver import fixpoint
from onnxslim.rewrite.instantiate import BodyEvaluation
from onnxslim.rewrite.reader import read_rules

IDENTICAL = """
# A permutation that permutes nothing.
nothing <p> (x) => (y)
match   { y = Transpose <perm = @p> (x) }
when    { ok = @p == [0,1,2] }
rewrite { y = x }
"""

SHORT = """
# An addition of zeros to what is short.
short (x, c) => (y)
match   { y = Add (x, c) }
when    { ok = (Size (x) < 10) & (c == 0.0) }
rewrite { y = x }
"""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Empty the answers; return a list of the sites at which `when` is evaluated from now on."""
    sites: list[str] = []
    evaluate = BodyEvaluation.holds

    def holds(self: BodyEvaluation) -> bool:
        sites.append(self.match.root.outputs[0].name or "")
        return evaluate(self)

    monkeypatch.setattr(condition, "_ANSWERS", {})
    monkeypatch.setattr(BodyEvaluation, "holds", holds)
    return sites


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_sites_that_look_alike_are_asked_once(asked: list[str]) -> None:
    model = from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[2,3,4] x, float[2,3,4] z)
        => (float[2,3,4] b, float[2,3,4] e, float[2,4,3] f) {
        a = Transpose <perm = [0, 1, 2]> (x)  b = Relu (a)  c = Transpose <perm = [0, 1, 2]> (z)  e = Sin (c)
        f = Transpose <perm = [0, 2, 1]> (x) }"""
    )
    applied = fixpoint(model, read_rules(IDENTICAL, 17))
    assert applied.counts == {"nothing": 2}
    assert ops(model) == ["Relu", "Sin", "Transpose"]
    assert asked == ["a", "f"]


def test_constants_and_shapes_are_part_of_what_a_site_looks_like(asked: list[str]) -> None:
    model = from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[2] x, float[20] z, float[2] w)
        => (float[2] a, float[20] b, float[2] c, float[2] d)
        <float[1] zero = {0}, float[1] one = {1}> {
        a = Add (x, zero)  b = Add (z, zero)  c = Add (x, one)  d = Add (w, zero) }"""
    )
    applied = fixpoint(model, read_rules(SHORT, 17))
    assert applied.counts == {"short": 2}
    assert sorted(asked) == ["a", "b", "c"]
    assert sorted(ops(model)) == ["Add", "Add", "Identity", "Identity"]


def test_a_symbol_is_no_number(asked: list[str]) -> None:
    text = """
# A vector of three.
three (x) => (y)
match   { y = Neg (Neg (x)) }
when    { ok = Shape (x) == [3] }
rewrite { y = x }
"""
    for size, count in ((3, 1), ("3", 0), (3, 1)):
        model = from_text("""<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) {
            a = Neg (x)  y = Neg (a) }""")
        model.graph.inputs[0].shape = ir.Shape([size])
        assert fixpoint(model, read_rules(text, 17)).counts.get("three", 0) == count


def test_what_is_not_known_is_not_asked_again(asked: list[str]) -> None:
    model = from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N] x, float[1] c) => (float[N] a, float[N] b) {
        a = Add (x, c)  b = Add (x, c) }"""
    )
    assert not fixpoint(model, read_rules(SHORT, 17)).counts
    assert asked == ["a"]


PRODUCTS = """
# Constant factors are one.
products (x, a, b) => (y)
match   { y = (x * a) * b }
rewrite { y = x * (a * b) }
"""


@pytest.mark.parametrize(
    ("kind", "a", "b", "count"),
    [("float16", 300, 300, 0), ("float16", 30, 30, 1), ("float", 300, 300, 1), ("float16", "inf", 30, 1)],
)
def test_no_constant_overflows(kind: str, a: object, b: object, count: int) -> None:
    numpy_kind = np.float16 if kind == "float16" else np.float32
    model = from_text(
        f"""<ir_version: 8, opset_import: ["" : 17]> g ({kind}[N] x, {kind} a, {kind} b) => ({kind}[N] y) {{
        t = Mul (x, a)  y = Mul (t, b) }}""",
        a=np.array(a, numpy_kind),
        b=np.array(b, numpy_kind),
    )
    assert fixpoint(model, read_rules(PRODUCTS, 17)).counts.get("products", 0) == count
