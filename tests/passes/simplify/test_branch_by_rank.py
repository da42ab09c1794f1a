"""Which branch is taken is told by the rank that a later op demands, and only then."""

from __future__ import annotations

import onnxslim.passes.simplify.branch_by_rank as by_rank
import pytest
from sample_models import from_text

from onnxslim.analysis.inference import Inference
from onnxslim.model.constants import constant

BRANCHES = """c = Equal (n, one)
    v = If (c) <
        then_branch = squeezed () => (s) { s = Squeeze (x, one) },
        else_branch = whole () => (w) { w = Identity (x) } >"""
CASES = {
    "two axes are demanded": (f"{BRANCHES} y = Gemm (v, k)", True),
    "through what adds axes": (
        f"{BRANCHES} u = Unsqueeze (v, one) q = Squeeze (u, one) r = Relu (q) y = Gemm (r, k)",
        True,
    ),
    "three axes, behind one that is added": (
        f"{BRANCHES} u = Unsqueeze (v, one) y = RNN <hidden_size = 4> (u, f, f)",
        True,
    ),
    "any rank will do": (f"{BRANCHES} y = MatMul (v, k)", None),
    "demanded in a branch that may not run": (
        f"""{BRANCHES} y = If (c) <
            then_branch = yes () => (p) {{ p = Gemm (v, k) }}, else_branch = no () => (o) {{ o = Relu (v) }} >""",
        None,
    ),
    "neither branch is ruled out": (
        BRANCHES.replace("w = Identity (x)", "w = Squeeze (x, two)") + " y = Gemm (v, k)",
        None,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_condition(case):
    body, expected = CASES[case]
    model = from_text(
        f"""<ir_version: 8, opset_import: ["" : 17]> g
        (float[N,1,4] x, int64[1] n, float[4,4] k, float[1,4,4] f) => (float y) {{
            one = Constant <value_ints = [1]> ()  two = Constant <value_ints = [2]> ()  {body} }}"""
    )
    known = Inference(model)
    known.run()
    count = by_rank.decide_by_rank(model, known)
    condition = constant(next(node for node in model.graph if node.op_type == "If").inputs[0])
    assert count == (expected is not None)
    assert (None if condition is None else bool(condition)) is expected
