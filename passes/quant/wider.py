"""Chooses the layers whose weights get 8 bits where those of all others get fewer: most error for fewest bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from onnxslim.pipeline.interface import Note, remark

from .cost import PlanCosts, PrecisionCost
from .integers import INT8, IntegerType
from .mixed import CostLimits, RoundingError, avoiding, best_within
from .plan import QuantPlan
from .sensitivity import PartErrors

BYTES = 0.05
"""Share of the bytes of all weights that may be added in any case: the first and the last layer of a net are small, and
often cost the outputs most."""


@dataclasses.dataclass(frozen=True)
class WiderWeights:
    """What weights of 8 bits bring."""

    sites: frozenset[str]
    """Those whose weights get 8 bits, by their keys."""
    added: float
    """Bytes that it takes, as a share of those of all weights."""
    errors: PartErrors
    """What is left."""

    def notes(self, plan: QuantPlan) -> tuple[Note, ...]:
        """Return what is to be said of it."""
        count = sum(site.product is not None for site in plan.sites)
        why = f"they cost the outputs most, and {self.added:.1%} more bytes of weights"
        return (remark("weights", f"{len(self.sites)} of {count} in int8", why),) if self.sites else ()


def wider_weights(plan: QuantPlan, errors: PartErrors, integers: IntegerType, share: float) -> WiderWeights:
    """Return which weights get 8 bits: those that avoid most error for `BYTES`, or more where more error must go.

    Args:
        plan: Of the model.
        errors: Of all its tensors, and of its weights in `integers`.
        integers: What weights are, of fewer than 8 bits.
        share: Of the sum of all errors that may be left.
    """
    sites: dict[str, list[str]] = {}
    sizes: dict[str, float] = {}
    for site in plan.sites:
        tensor = None if site.product is None else site.product.weight.const_value
        if site.product is not None and tensor is not None:
            name = site.product.weight.name or ""  # of all that read it
            sites.setdefault(name, []).append(site.key)
            sizes[name] = float(tensor.size)
    of_weights = [
        RoundingError(frozenset({name}), sum(errors.weights.get(key, 0.0) for key in keys))
        for name, keys in sites.items()
    ]
    growth, whole_size = INT8.bits / integers.bits - 1, sum(sizes.values())
    # What is paid is bytes here, in place of time.
    costs = PlanCosts({name: PrecisionCost(growth * size, 0.0, 0, 0) for name, size in sizes.items()})
    chosen = best_within(of_weights, costs, CostLimits(time=BYTES * whole_size)) or frozenset()
    chosen = avoiding((1 - share) * errors.total, chosen, of_weights, costs)
    keys = frozenset(key for name in chosen for key in sites[name])
    added = costs.time(chosen) / max(whole_size, 1.0)
    return WiderWeights(keys, added, _left(errors, keys, integers))


def _left(errors: PartErrors, wider: frozenset[str], integers: IntegerType) -> PartErrors:
    """Return what is left of errors: half a step is a quarter of the energy, with each bit."""
    finer = 4.0 ** (integers.bits - INT8.bits)
    weights: Mapping[str, float] = {
        key: error * finer if key in wider else error for key, error in errors.weights.items()
    }
    return dataclasses.replace(errors, weights=weights)
