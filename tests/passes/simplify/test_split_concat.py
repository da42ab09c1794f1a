"""What is taken apart and put together again, or the other way round, is passed by; at other borders it is not."""

from __future__ import annotations

import onnx_ir as ir
import onnxslim.passes.simplify.split_concat as pieces
import pytest
from sample_models import from_text

from onnxslim.analysis.inference import Inference

CASES = {
    "all parts in order": (
        "(float[N,6] x) => (float[N,6] y) { a, b = Split <axis = 1> (x) y = Concat <axis = -1> (a, b) }",
        1,
    ),
    "another order": (
        "(float[N,6] x) => (float[N,6] y) { a, b = Split <axis = 1> (x) y = Concat <axis = 1> (b, a) }",
        0,
    ),
    "another axis": (
        "(float[N,6] x) => (float[M,3] y) { a, b = Split <axis = 1> (x) y = Concat <axis = 0> (a, b) }",
        0,
    ),
    "one is missing": (
        "(float[N,6] x) => (float[N,4] y) { a, b, c = Split <axis = 1> (x) y = Concat <axis = 1> (a, b) }",
        0,
    ),
    "at the same borders": (
        """(float[N,2] x, float[N,4] z) => (float[N,2] p, float[N,4] q) {
            s = Constant <value_ints = [2, 4]> () a = Concat <axis = 1> (x, z) p, q = Split <axis = 1> (a, s) }""",
        1,
    ),
    "at other borders": (
        """(float[N,2] x, float[N,4] z) => (float[N,4] p, float[N,2] q) {
            s = Constant <value_ints = [4, 2]> () a = Concat <axis = 1> (x, z) p, q = Split <axis = 1> (a, s) }""",
        0,
    ),
    "borders that nobody knows": (
        """(float[N,A] x, float[N,B] z) => (float[N,C] p, float[N,D] q) {
            a = Concat <axis = 1> (x, z) p, q = Split <axis = 1> (a) }""",
        0,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_pieces(case):
    text, expected = CASES[case]
    model = from_text(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')
    outputs = [value.name for value in model.graph.outputs]
    known = Inference(model)
    known.run()
    assert pieces.join_pieces(model, known) == expected
    assert [value.name for value in model.graph.outputs] == outputs
    last = [value.producer().op_type for value in model.graph.outputs]
    assert (last == ["Identity"] * len(last)) == bool(expected)
    ir.to_proto(model)
