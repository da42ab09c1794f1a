"""Chooses the ops that compute on activations of more bits, where everything is quantized and none can be float.

What an op reads and makes has one type: between ops of unlike types stands a pair of the other type behind the first,
which such targets run as one conversion. A tensor loses less only where all ops that make or read it do. The additions
and normalizations of a transformer may so be exact, and cost little, around products of 8 bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from onnxslim.pipeline.interface import Note, remark

from .cost import PlanCosts
from .integers import IntegerType
from .mixed import avoiding
from .plan import QuantPlan, sites_of
from .precision import Demands, choose
from .scales import Scale
from .sensitivity import PartErrors

TIMES = 2.0
"""The time of products of 16 and 8 bits in that of products of 8 bits, and of what they read. Assumed."""
CONVERTED = 3 / 5
"""The time of a conversion from 8 bits to 16, or back, in that of one from float: 3 bytes in place of 5."""


@dataclasses.dataclass(frozen=True)
class WideActivations:
    """What activations of more bits bring."""

    sites: frozenset[str]
    """Those that compute on them, by their keys."""
    errors: PartErrors
    """What is left."""

    def notes(self, plan: QuantPlan, integers: IntegerType) -> tuple[Note, ...]:
        """Return what is to be said of it."""
        action = f"{integers.name} in {len(self.sites)} of {len(plan.sites)} ops"
        return (remark("activations", action, "they cost the outputs most for their time"),) if self.sites else ()

    def on(self, plan: QuantPlan, scales: Mapping[str, Scale]) -> QuantPlan:
        """Return a plan, maybe one that leaves more in float, with wider activations; `scales` by sources of groups."""
        return dataclasses.replace(plan, wide=self.sites, wide_scales=scales if self.sites else {})


def wide_activations(
    plan: QuantPlan, errors: PartErrors, estimated: PlanCosts, float_time: float, share: float
) -> WideActivations:
    """Return which ops compute on more bits: those that avoid most error in the time, or as many as must.

    Args:
        plan: Of the model; everything in it is quantized.
        errors: Of its tensors and weights.
        estimated: What its sites cost in float and in int8.
        float_time: Share of the time of all sites that may be added.
        share: Of the sum of all errors that may be left.
    """
    of_tensors = dataclasses.replace(errors, weights={}).of_layers(plan, sites_of(plan))
    costs = _costs(estimated)
    chosen = choose(of_tensors, costs, Demands(float_time=float_time), frozenset())
    chosen = avoiding((1 - share) * errors.total, chosen, of_tensors, costs)
    return WideActivations(chosen, errors.without_tensors(plan, chosen))


def _costs(estimated: PlanCosts) -> PlanCosts:
    """Return costs in which more bits stand in the place of float."""
    layers = {
        key: dataclasses.replace(cost, float_time=TIMES * cost.int8_time) for key, cost in estimated.layers.items()
    }
    boundaries = tuple(
        dataclasses.replace(
            boundary, quantize=CONVERTED * boundary.quantize, dequantize=CONVERTED * boundary.dequantize
        )
        for boundary in estimated.boundaries
    )
    return dataclasses.replace(estimated, layers=layers, boundaries=boundaries)
