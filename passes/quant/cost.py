"""What the layers of a plan cost in float and in int8, and what it costs to go from one to the other.

Where nothing is measured a site is estimated: its products, and the elements that it reads and makes. That is a
roofline (Williams et al., Communications of the ACM 52, 2009) with the two counted as if they took turns. The unit is
the time of one multiply-accumulate in float.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Set

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.specialize import infer_at
from onnxslim.arrays import Array
from onnxslim.model.constants import constant_tensor

from .integers import IntegerType
from .plan import QuantPlan, layers_of
from .site import QuantSite

Integers = Callable[[QuantSite], IntegerType]
"""Returns what the weight of a site becomes."""

SPEED = 3.5
"""Products of int8 in the time of one in float, with VNNI. Assumed, as the others are: small models take longer."""
SATURATING_SPEED = 1.7
"""The same where products are added as int16."""
ELEMENT = 16.0
"""The time that reading or writing one element takes in float; in int8 a quarter of that."""


@dataclasses.dataclass(frozen=True)
class PrecisionCost:
    """What one layer costs in float, and in int8: a product and the ops that follow it up to the next one."""

    float_time: float
    """Milliseconds of one run where they are measured; otherwise in an arbitrary unit."""
    int8_time: float
    """The same, without conversions."""
    float_bytes: int
    """Bytes of its weight."""
    int8_bytes: int


@dataclasses.dataclass(frozen=True)
class Boundary:
    """A tensor that is converted where one of those that make and read it is float, and another int8."""

    maker: str | None
    """The layer that makes it; None: an input, or an op that is float whatever is chosen."""
    readers: frozenset[str]
    """The other layers that read it."""
    read_in_float: bool
    """Whether it is an output, or read by an op that is float whatever is chosen."""
    quantize: float
    """The time of making it int8."""
    dequantize: float
    """The time of making it float."""

    def time(self, in_float: Set[str]) -> float:
        """Return what its conversion takes where these layers are float."""
        made_in_float = self.maker is None or self.maker in in_float
        if made_in_float:
            return 0.0 if self.readers <= in_float else self.quantize
        return self.dequantize if self.read_in_float or self.readers & in_float else 0.0


@dataclasses.dataclass(frozen=True)
class PlanCosts:
    """What all layers of a plan cost, by their keys."""

    layers: Mapping[str, PrecisionCost]
    boundaries: tuple[Boundary, ...] = ()
    rest_time: float = 0.0
    """What takes its time whatever is chosen."""
    rest_bytes: int = 0
    """Bytes of the weights of no layer."""
    measured: bool = False
    """Whether times are milliseconds, measured on the target."""

    def time(self, in_float: Set[str]) -> float:
        """Return what a run takes where these layers are float."""
        own = (cost.float_time if key in in_float else cost.int8_time for key, cost in self.layers.items())
        return self.rest_time + sum(own) + sum(boundary.time(in_float) for boundary in self.boundaries)

    def size(self, in_float: Set[str]) -> int:
        """Return the bytes of the weights where these layers are float."""
        return self.rest_bytes + sum(
            cost.float_bytes if key in in_float else cost.int8_bytes for key, cost in self.layers.items()
        )

    def dearer(self, factor: float) -> PlanCosts:
        """Return the same with dearer conversions."""
        edges = tuple(
            dataclasses.replace(boundary, quantize=boundary.quantize * factor, dequantize=boundary.dequantize * factor)
            for boundary in self.boundaries
        )
        return dataclasses.replace(self, boundaries=edges)


def layer_costs(
    model: ir.Model,
    layers: Mapping[str, list[QuantSite]],
    integers: Integers,
    times: Callable[[str, list[QuantSite]], tuple[float, float]],
) -> tuple[dict[str, PrecisionCost], int]:
    """Return the cost of each layer, and the bytes of the weights of none.

    `integers` says what the weight of a site becomes, and `times` what a layer takes in each form.
    """
    seen: set[ir.Value] = set()
    costs: dict[str, PrecisionCost] = {}
    for key, sites in layers.items():
        size, stored = 0, 0
        for site in sites:
            tensor = None if site.product is None else constant_tensor(site.product.weight)
            if site.product is not None and tensor is not None and site.product.weight not in seen:
                seen.add(site.product.weight)
                size, stored = size + tensor.nbytes, stored + -(-tensor.size * integers(site).bits // 8)
        costs[key] = PrecisionCost(*times(key, sites), size, stored)
    every = map(constant_tensor, model.graph.initializers.values())
    return costs, sum(tensor.nbytes for tensor in every if tensor is not None) - sum(
        cost.float_bytes for cost in costs.values()
    )


def boundaries(
    plan: QuantPlan, layers: Mapping[str, list[QuantSite]], price: Callable[[ir.Value, bool], float]
) -> tuple[Boundary, ...]:
    """Return the tensors that may be converted.

    `price` says what one conversion of a tensor takes, and is told whether layers make and read it, and not an op that
    is float whatever is chosen.
    """
    owners = {site.node: key for key, sites in layers.items() for site in sites}
    sites = {site.node: site for site in plan.sites}
    makers = {value: owners.get(site.node) for site in plan.sites for value in site.results}
    found: list[Boundary] = []
    for value in plan.sources:
        maker = makers.get(value)
        uses = [(use, sites.get(use.node)) for use in value.uses()]
        readers = {owners.get(site.node) for use, site in uses if site is not None and use.idx in site.data_indices}
        in_float = value.is_graph_output() or any(
            site is None or use.idx not in site.data_indices for use, site in uses
        )
        others = frozenset(reader for reader in readers if reader is not None and reader != maker)
        if others or (in_float and maker is not None):
            quantize, dequantize = price(value, maker is not None), price(value, not in_float)
            found.append(Boundary(maker, others, in_float, quantize, dequantize))
    return tuple(found)


def estimated_costs(
    model: ir.Model,
    plan: QuantPlan,
    macs: Mapping[str, int],
    feeds: Mapping[str, Array],
    integers: Integers,
    saturating: bool,
    layers: Mapping[str, list[QuantSite]] | None = None,
) -> PlanCosts:
    """Return what a plan costs by estimate: the same on every run and every machine.

    Only conversions between layers count: to save others by an estimate is no reason to leave a layer in float.

    Args:
        model: Of the plan.
        plan: The sites.
        macs: Multiply-accumulates of nodes, by the first value that each makes.
        feeds: Inputs of one sample: what sizes are estimated at.
        integers: What the weight of a site becomes.
        saturating: Whether products are added as int16.
        layers: What has a cost, by its key; None: the layers of the plan.
    """
    parts = layers_of(plan) if layers is None else layers
    view = infer_at(model, {name: np.shape(array) for name, array in feeds.items()})
    speed = SATURATING_SPEED if saturating else SPEED

    def moving(value: ir.Value) -> float:
        return ELEMENT * math.prod(size or 1 for size in view.shape(value) or ())

    def times(_: str, sites: list[QuantSite]) -> tuple[float, float]:
        products = sum(macs.get(site.key, 0) for site in sites)
        moved = sum(moving(value) for site in sites for value in (*site.operands(), *site.results))
        return products + moved, products / speed + moved / 4

    def price(value: ir.Value, _: bool) -> float:
        return moving(value) * 5 / 4

    costs, rest_bytes = layer_costs(model, parts, integers, times)
    inner = (boundary for boundary in boundaries(plan, parts, price) if boundary.maker is not None and boundary.readers)
    edges = tuple(dataclasses.replace(boundary, read_in_float=False) for boundary in inner)
    return PlanCosts(costs, edges, rest_bytes=rest_bytes)
