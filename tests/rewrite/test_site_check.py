"""Rewrites are checked where they are made: on random data of the types and shapes of the site."""

from __future__ import annotations

import numpy as np
import pytest
from sample_models import from_text

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.rewrite.driver import fixpoint
from onnxslim.rewrite.reader import read_rules
from onnxslim.rewrite.site_check import check_site, difference


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


def differs_by(match, plan):
    return check_site(match, plan, np.random.default_rng(0)).difference


def test_verify_at_the_site_refuses_a_wrong_rewrite():
    model = from_text(
        """<ir_version: 10, opset_import: ["" : 21]> g (float[N,"2*N"] x) => (float[N,"2*N"] y, float[N,"2*N"] z) {
        a = Relu (x)  y = Neg (a)  b = Abs (x)  z = Abs (b) }""".replace('"2*N"', "M")
    )
    infer_shapes(model)
    applied = fixpoint(model, read_rules(WRONG_IN_PLACE, 21), accept=differs_by)
    assert applied.counts == {"right": 1}
    assert [site.split(" at ")[0] for site in applied.refused] == ["half"]
    assert "differs" in next(iter(applied.refused.values()))
    assert [node.op_type for node in model.graph] == ["Relu", "Neg", "Abs"]


@pytest.mark.parametrize("declared", ["float[?]", "float[N,?]", "float", "float[3,?,N]"])
def test_verify_makes_up_sizes_that_nothing_tells(declared):
    model = from_text(f"""<ir_version: 10, opset_import: ["" : 21]> g ({declared} x) => ({declared} y) {{
        a = Abs (x)  y = Abs (a) }}""")
    rules = read_rules("r (x) => (y) match { a = Abs (x) y = Abs (a) } rewrite { y = Neg (x) }", 21)
    applied = fixpoint(
        model, rules, accept=lambda match, plan: check_site(match, plan, np.random.default_rng(0)).difference
    )
    assert applied.counts == {}
    assert "differs" in next(iter(applied.refused.values()))


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
