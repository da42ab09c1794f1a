"""Gradients of elementwise ops that hang on how many operands there are, or on what no schema tells."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.ops.fact import Unknowable
from onnxslim.ops.gradient import Gradient, GradientSite
from onnxslim.ops.parameters import read
from onnxslim.ops.signatures import OpName

QUICK_GELU = 1.702
"""What ONNX Runtime takes for `alpha` of its own QuickGelu."""


def total(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """Sum: what comes back goes to all operands."""
    return dict.fromkeys(site.wanted, site.incoming())


def mean(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """Mean: all operands have an equal share."""
    return dict.fromkeys(site.wanted, site.op("Mul", site.incoming(), 1 / len(site.node.inputs)))


def extreme(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """Max, Min: operands that are the result, element by element, share what comes back equally."""
    chosen = {
        index: site.mask(site.op("Equal", site.operand(index), site.result())) for index in range(len(site.node.inputs))
    }
    share = site.op("Div", site.incoming(), site.op("Sum", *chosen.values())) if len(chosen) > 1 else site.incoming()
    return {index: site.op("Mul", chosen[index], share) for index in site.wanted}


def power(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """Pow: by the base; by the exponent, where of a base of 0 or less the logarithm is taken for 0."""
    op, base, gradient = site.op, site.operand(), site.incoming()
    number = constant(site.operand(1))
    made: dict[int, ir.Value | None] = {}
    if 0 in site.wanted and number is not None and number.size == 1:
        made[0] = _constant_power(site, float(number.item()))
    elif 0 in site.wanted:
        exponent = op("CastLike", site.operand(1), base)
        steep = op("And", op("Equal", base, 0.0), op("Less", exponent, 1.0))
        made[0] = _power(site, exponent, op("Sub", exponent, 1.0), steep)
    if 1 in site.wanted:
        logarithm = op("Log", op("Where", op("Greater", base, 0.0), base, site.build.number(1, base)))
        made[1] = op("CastLike", op("Mul", op("Mul", gradient, site.result()), logarithm), site.operand(1))
    return made


def _constant_power(site: GradientSite, exponent: float) -> ir.Value | None:
    """Return the gradient of a base. ONNX Runtime has kernels for squares and cubes; other powers take a hundred times
    as long."""
    op, base, gradient = site.op, site.operand(), site.incoming()
    if exponent in (0.0, 1.0):
        return gradient if exponent else None
    if exponent == 2.0:
        return op("Mul", op("Mul", gradient, exponent), base)
    number, less = (site.build.number(power, base) for power in (exponent, exponent - 1))
    return _power(site, number, less, op("Equal", base, 0.0) if exponent < 1 else None)


def _power(site: GradientSite, exponent: ir.Value, less: ir.Value, steep: ir.Value | None) -> ir.Value:
    """Return the gradient of a base: 0 where the derivative is infinite, as it is of roots at 0."""
    op, base = site.op, site.operand()
    if steep is not None:
        zero = site.mask(steep)
        base, exponent = op("Add", base, zero), op("Sub", exponent, op("Mul", exponent, zero))
    return op("Mul", op("Mul", site.incoming(), exponent), op("Pow", base, less))


def dropout(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """Dropout: as it is in inference; in training, what was kept, and scaled as it was.

    Raises:
        Unknowable: Whether it is in training is computed when the model runs.
    """
    training = constant(site.operand(2)) if site.has(2) else False
    if training is None:
        raise Unknowable
    if not training:
        return {0: site.incoming()}
    kept = site.op("CastLike", site.result(1), site.incoming())
    ratio = site.op("CastLike", site.operand(1), site.incoming()) if site.has(1) else site.build.number(0.5, kept)
    scale = site.op("Sub", site.build.number(1, kept), ratio)
    return {0: site.op("Div", site.op("Mul", site.incoming(), kept), scale)}


def quick_gelu(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """QuickGelu: y = x * s with s = sigmoid (alpha * x), so that dy/dx = s + alpha * y * (1 - s)."""
    op, alpha = site.op, read(site, "alpha", QUICK_GELU)
    gate = op("Sigmoid", op("Mul", site.operand(), alpha))
    rest = op("Sub", site.build.number(1, gate), gate)
    slope = op("Add", gate, op("Mul", op("Mul", site.result(), alpha), rest))
    return {0: op("Mul", site.incoming(), slope)}


GRADIENTS: Mapping[OpName, Gradient] = {
    ("", "Sum"): total,
    ("", "Mean"): mean,
    ("", "Max"): extreme,
    ("", "Min"): extreme,
    ("", "Pow"): power,
    ("", "Dropout"): dropout,
    ("com.microsoft", "QuickGelu"): quick_gelu,
}
