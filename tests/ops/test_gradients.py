"""Every declared gradient is proved on drawn nodes of every operator set that training meets."""

from __future__ import annotations

import numpy as np
import pytest
from gradient_cases import drawn_for_gradient
from gradient_proof import prove_gradient
from op_cases import operator_sets
from op_draw import Draw

from onnxslim.autodiff.formulas import formulas, nothing
from onnxslim.autodiff.reverse import declared_gradients
from onnxslim.ops.signatures import OpName
from onnxslim.ops.traits import Trait

OLDEST, NEWEST = 18, 26
COUNT = 12
ROUNDING = Trait.QUANTIZES.ops | Trait.DEQUANTIZES.ops
"""Ops whose gradient is by intent not that of central differences: tests/ops/test_gradients_of_rounding.py."""
RANDOM = {op for op in Trait.RANDOM.ops if formulas().get(op) is nothing}
"""Ops that make other numbers at each run: differences tell nothing."""
CASES = [
    pytest.param(op, opset, id=f"{'::'.join(filter(None, op))}-{opset}")
    for op in sorted(declared_gradients().keys() - ROUNDING - RANDOM)
    for opset in sorted({max(opset, OLDEST) for opset in operator_sets(op, NEWEST)})
]


@pytest.mark.parametrize(("op", "opset"), CASES)
def test_a_gradient_is_that_of_central_differences(op: OpName, opset: int) -> None:
    random = np.random.default_rng([opset, *map(ord, op[1])])
    draw = Draw(random, opset)
    proved = sum(prove_gradient(drawn_for_gradient(op, draw), opset, random) for _ in range(COUNT))
    assert proved or formulas().get(op) is nothing, "no operand had a gradient: nothing was proved"
