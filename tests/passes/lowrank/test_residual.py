"""What layers are added to is found, and they make up for what it lacks."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from mutate_rows import lost_seeing_and_blind
from onnxslim.passes.lowrank import Lowrank
from onnxslim.passes.lowrank.layer import find_layers
from onnxslim.passes.lowrank.residual import find_terms
from sample_models import from_text

from onnxslim.analysis.shapes import infer_shapes

GENERATOR = np.random.default_rng(0)

RESIDUAL = """<ir_version: 10, opset_import: ["" : 17]>
g (float[N,5,64] x, float u, float v, float b, float c) => (float[N,5,64] y) {
    p = MatMul (x, u) q = Add (p, b) r = MatMul (x, v) s = Add (r, c) t = Add (s, q) y = Relu (t)
}"""


def model(text: str = RESIDUAL) -> ir.Model:
    made = from_text(text, **{name: weight(64, 64) for name in "uv"}, **{name: weight(64) for name in "bc"})
    infer_shapes(made)
    return made


def weight(*shape: int) -> np.ndarray:
    return (GENERATOR.normal(size=shape) / 8).astype(np.float32)


def terms(of: ir.Model) -> list[str]:
    return list(find_terms(find_layers(of, smallest=1)[0]).values())


def test_both_terms_are_found() -> None:
    assert terms(model()) == ["s", "q"]


@pytest.mark.parametrize(
    ("before", "after"),
    [("y = Relu (t)", "y = Add (t, s)"), ("t = Add (s, q)", "t = Mul (s, q)")],
)
def test_what_is_read_elsewhere_is_not_a_sum(before: str, after: str) -> None:
    assert "q" not in terms(model(RESIDUAL.replace(before, after)))


def test_what_the_other_term_lacks_is_made_up_for() -> None:
    data = (GENERATOR.normal(size=(260, 5, 64)) @ (np.diag(np.linspace(0.1, 1, 64)) @ weight(64, 64))).astype(
        np.float32
    )
    step = Lowrank(rank=0.4, align=4)
    seeing, blind = lost_seeing_and_blind(model(), step, "find_terms", data[:200], data[200:])
    assert seeing < 0.9 * blind
