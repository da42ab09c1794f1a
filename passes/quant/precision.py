"""Decides which layers of a plan stay in float: for their error, their time, or their bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from .cost import PlanCosts
from .mixed import CostLimits, RoundingError, best_within, cheapest_below, fastest, left_after


@dataclasses.dataclass(frozen=True)
class Demands:
    """What the options of the pass ask of the layers together."""

    error: float = 1.0
    """Share of the error that may be left."""
    float_time: float = 0.0
    """Share of the time of the fastest choice that may be added for less error."""
    latency: float | None = None
    """Share of the time in float that a run may take; it takes the place of `float_time`, as `size` does."""
    size: float | None = None
    """Share of the bytes of float weights that weights may take."""

    @property
    def need_errors(self) -> bool:
        """Whether it matters what error layers bring."""
        return self.error < 1 or self.float_time > 0 or self.budgeted

    @property
    def budgeted(self) -> bool:
        """Whether a budget is given."""
        return self.latency is not None or self.size is not None


def choose(errors: Sequence[RoundingError], costs: PlanCosts, demands: Demands, int8: frozenset[str]) -> frozenset[str]:
    """Return the layers to leave in float.

    What is measured may be slower in int8, and is then left in float; estimates are no evidence of that.

    Args:
        errors: That rounding brings; they add up.
        costs: Of the layers.
        demands: What is asked for. Where nothing keeps a budget, the fastest choice is taken for `latency`, and
            everything is int8 for `size`.
        int8: Layers that are int8 in any case, but for the sake of `demands.error`.
    """
    everything = frozenset(costs.layers)
    nothing = frozenset[str]()
    least = (fastest(costs, CostLimits(int8=int8)) if costs.measured else None) or nothing
    if demands.budgeted:
        time = costs.time(everything) * demands.latency if demands.latency is not None else float("inf")
        size = costs.size(everything) * demands.size if demands.size is not None else float("inf")
        chosen = best_within(errors, costs, CostLimits(time, size, int8))
        if chosen is None:
            chosen = least if costs.size(least) <= size else nothing
    else:
        limit = costs.time(least) * (1 + demands.float_time)
        chosen = best_within(errors, costs, CostLimits(limit, int8=int8)) if demands.float_time else None
        chosen = least if chosen is None else chosen
    if left_after(chosen, errors) > demands.error:
        chosen = cheapest_below(errors, costs, demands.error) or chosen
    return chosen
