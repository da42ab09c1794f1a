"""Which nodes run in int8, and which stay float because of what lies around them."""

from __future__ import annotations

import numpy as np
import pytest
from onnxslim.passes.quant.codes import QuantCode
from onnxslim.passes.quant.plan import make_plan
from onnxslim.passes.quant.table import load_table
from sample_models import from_text

from onnxslim.analysis.shapes import infer_shapes


def in_int8(body: str, target: str = "cpu") -> tuple[set[str], dict[str, str]]:
    """Return the first values of the sites of a net, and the codes of what is left in float."""
    model = from_text(
        f"""<ir_version: 9, opset_import: ["" : 17]> g (float[N,4,8,8] x) => (float[N,4,8,8] y) {{ {body} }}""",
        w=np.ones((4, 4, 1, 1), np.float32),
    )
    infer_shapes(model)
    plan = make_plan(model, load_table(target))
    return {site.key for site in plan.sites}, {note.subject: note.code for note in plan.left}


STREAM = (
    "a = Conv (x, w) t = Tanh (a) [s] s = Add (t, a) b = Conv (s, w) u = Tanh (b) [r] r = Add (s, u) y = Conv (r, w)"
)


def test_sums_of_what_float_ops_make_stay_float():
    """In int8 each would be rounded, and the next one be made of it; what convolutions read of them is rounded once."""
    sites, left = in_int8(STREAM)
    assert sites == {"a", "b", "y"}
    assert left["s"] == QuantCode.FLOAT_OPERAND.word
    assert left["r"] == QuantCode.FLOAT_OPERAND.word


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("a = Conv (x, w) t = Tanh (a) c = Conv (t, w) s = Add (t, c) y = Conv (s, w)", "the tensor is int8 anyway"),
        ("a = Conv (x, w) m = ReduceMean (a) t = Tanh (m) s = Add (a, t) y = Conv (s, w)", "one number is rounded"),
        ("a = Conv (x, w) c = Conv (x, w) s = Add (a, c) y = Conv (s, w)", "both are int8"),
        ("a = Conv (x, w) t = Tanh (a) s = Mul (a, t) y = Conv (s, w)", "products follow no products"),
    ],
)
def test_other_sums_and_products_are_int8(body, why):
    assert "s" in in_int8(body)[0], why


def test_where_everything_is_int8_sums_are():
    assert {"s", "r"} <= in_int8(STREAM, "qdq")[0]
