"""Estimates what a site takes in float and in int8: its products, and the elements that it reads and makes.

A roofline (Williams et al., Communications of the ACM 52, 2009) with the two counted as if they took turns. The unit is
the time of one multiply-accumulate in float. Estimates are the same on every run, so that results are; what is kept is
measured afterwards, by the pipeline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.specialize import infer_at
from onnxslim.arrays import Array

from .plan import QuantPlan
from .site import QuantSite

SPEED = 3.5
"""Products of int8 in the time of one in float, with VNNI. Assumed, as the others are: small models take longer."""
SATURATING_SPEED = 1.7
"""The same where products are added as int16."""
ELEMENT = 16.0
"""The time that reading or writing one element takes in float; in int8 a quarter of that."""


class Costs:
    """What the sites of a plan take.

    Args:
        model: Of the plan.
        plan: The sites.
        macs: Multiply-accumulates of nodes, by the first value that each makes.
        feeds: Inputs of one sample: what sizes are estimated at.
        saturating: Whether products are added as int16.
    """

    def __init__(
        self, model: ir.Model, plan: QuantPlan, macs: Mapping[str, int], feeds: Mapping[str, Array], saturating: bool
    ) -> None:
        self._plan, self._macs = plan, macs
        self._view = infer_at(model, {name: np.shape(array) for name, array in feeds.items()})
        self._speed = SATURATING_SPEED if saturating else SPEED

    @property
    def quantized(self) -> float:
        """What all sites take in int8."""
        return sum(self._macs.get(site.key, 0) / self._speed + self._elements(site) / 4 for site in self._plan.sites)

    def of_float(self, site: QuantSite) -> float:
        """Return what a site takes more in float."""
        return self._macs.get(site.key, 0) * (1 - 1 / self._speed) + self._elements(site) * 3 / 4

    def _elements(self, site: QuantSite) -> float:
        shapes = map(self._view.shape, (*site.operands(), *site.results))
        return ELEMENT * sum(math.prod(size or 1 for size in shape or ()) for shape in shapes)
