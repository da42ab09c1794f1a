"""Gradients are numbers where ops end, jump, overflow or divide by nothing, in float32 as in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from gradient_proof import Runner, differentiated
from op_draw import Array, Case

EXTREMES: Sequence[tuple[str, dict[str, Any], list[float], list[float]]] = [
    # Far out, where exponentials overflow.
    ("Sigmoid", {}, [-1000, 0, 1000], [0, 0.25, 0]),
    ("Tanh", {}, [-1000, 0, 1000], [0, 1, 0]),
    ("Softplus", {}, [-1000, 0, 100, 1000], [0, 0.5, 1, 1]),
    ("Softsign", {}, [-1e10, 0, 1e10], [0, 1, 0]),
    ("Erf", {}, [-1000, 1000], [0, 0]),
    ("Elu", {}, [-1000, 1000], [0, 1]),
    ("Celu", {"alpha": 2.0}, [-1000, 1000], [0, 1]),
    ("Selu", {}, [-1000, 1000], [0, 1.0507010]),
    ("Mish", {}, [-1000, 1000], [0, 1]),
    ("Gelu", {}, [-1000, 1000], [0, 1]),
    ("Gelu", {"approximate": "tanh"}, [-1000, 1e6], [0, 1]),
    ("com.microsoft::Gelu", {}, [-1000, 1000], [0, 1]),
    ("com.microsoft::FastGelu", {}, [-1000, 1e6], [0, 1]),
    ("com.microsoft::QuickGelu", {}, [-1000, 1000], [0, 1]),
    ("HardSwish", {}, [-1e6, 1e6], [0, 1]),
    ("Softmax", {}, [-1000, 0, 1000], [0, 0, 0]),
    ("LogSoftmax", {}, [-1000, 0, 1000], [1, 1, -2]),
    ("ReduceLogSumExp", {}, [100, -1000, 100], [0.5, 0, 0.5]),
    # At kinks and ends.
    ("Relu", {}, [-1, 0, 1], [0, 0, 1]),
    ("Abs", {}, [-1, 0, 1], [-1, 0, 1]),
    ("HardSigmoid", {}, [-10, 0, 10], [0, 0.2, 0]),
    ("ReduceL1", {}, [-1, 0, 1], [-1, 0, 1]),
    # Shared by those that are as large.
    ("ReduceMax", {}, [1, 3, 3], [0, 0.5, 0.5]),
    ("ReduceMin", {}, [1, 1, 1, 3], [1 / 3, 1 / 3, 1 / 3, 0]),
    # At 0.
    ("Sqrt", {}, [0, 4], [0, 0.25]),
    ("ReduceL2", {}, [0, 0], [0, 0]),
    ("ReduceSumSquare", {}, [0, 1], [0, 2]),
    ("LpNormalization", {}, [0, 0], [0, 0]),
    ("LpNormalization", {"p": 1}, [0, 0], [0, 0]),
    ("ReduceProd", {}, [2, 3, 4], [12, 8, 6]),
    ("ReduceProd", {}, [0, 3, 4], [12, 0, 0]),
    ("ReduceProd", {}, [0, 3, 0], [0, 0, 0]),
    # Where there is no deviation.
    ("LayerNormalization", {}, [2, 2, 2], [0, 0, 0]),
]


def gradients(op: str, attributes: dict[str, Any], operands: Sequence[Array]) -> list[Array]:
    """Return the gradients of the sum of what a node makes, by all its operands."""
    domain, _, op_type = op.rpartition("::")
    made = differentiated(Case((domain, op_type), list(operands), attributes), 21)
    given = {f"c0_{index}": operand for index, operand in enumerate(operands)}
    seeds = {f"seed_{name}": np.ones_like(array) for name, array in Runner(made.forward)(given).items()}
    found = Runner(made.backward)(given | seeds)
    return [found[f"d_{name}"] for name in given if f"d_{name}" in found]


@pytest.mark.parametrize(("op", "attributes", "numbers", "expected"), EXTREMES)
def test_a_gradient_is_a_number_where_it_is_hard(
    op: str, attributes: dict[str, Any], numbers: list[float], expected: list[float]
) -> None:
    operands = [np.array(numbers, np.float32)]
    operands += [np.ones(len(numbers), np.float32)] if op == "LayerNormalization" else []
    found, *_ = gradients(op, attributes, operands)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("op", "operands", "expected"),
    [
        # 0 to a power, and powers of negative numbers: by the base, and by the exponent.
        ("Pow", ([0, 0, 0], [0, 1, 2]), ([0, 1, 0], [0, 0, 0])),
        ("Pow", ([-2, -2], [2, 3]), ([-4, 12], [0, 0])),
        ("Pow", ([0, 1, 4], [0.5]), ([0, 0.5, 0.25], [2 * np.log(4)])),
        ("Max", ([1, 2, 3], [3, 2, 1], [0, 2, 3]), ([0, 1 / 3, 0.5], [1, 1 / 3, 0], [0, 1 / 3, 0.5])),
        ("Min", ([1, 2], [1, 1]), ([0.5, 0], [0.5, 1])),
        ("Clip", ([-1, 0, 1, 2, 3], 0, 2), ([0, 1, 1, 1, 0], 1, 1)),
        ("Clip", ([-1, 1, 3], 2, 0), ([0, 0, 0], 0, 3)),  # the upper end wins
        ("PRelu", ([-2, 0, 2], [0.5]), ([0.5, 1, 1], [-2])),
    ],
)
def test_operands_share_what_comes_back(op: str, operands: Sequence[Any], expected: Sequence[Any]) -> None:
    found = gradients(op, {}, [np.array(numbers, np.float32) for numbers in operands])
    for own, numbers in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, numbers, rtol=1e-6, atol=1e-6)


def test_a_dropout_in_training_lets_back_what_it_let_through() -> None:
    case = Case(
        ("", "Dropout"), [np.ones((20, 20), np.float32), np.float32(0.4), np.array(True)], {}, frozenset({1, 2})
    )
    made = differentiated(case, 21)
    made.backward.graph.output.extend(made.forward.graph.output)
    found = Runner(made.backward)({"c0_0": case.operands[0], "seed_y0_0": np.ones((20, 20), np.float32)})
    assert 0 < (found["d_c0_0"] == 0).sum() < 400
    np.testing.assert_allclose(found["d_c0_0"], found["y0_0"], rtol=1e-6)  # of ones, it is what came out
