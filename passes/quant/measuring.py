"""Measures what the layers of a plan take in float and in int8, and compares models that leave different ones in float.

Two profiles tell what each node takes in its place, with what is fused into it: one of the model in float, and one of a
copy with everything in int8 that can be. They are scaled to what the two take in turns. What lies between is reckoned
from single conversions, and then measured.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.quantized import level_ends
from onnxslim.analysis.specialize import infer_at
from onnxslim.errors import RunError
from onnxslim.ops.traits import Trait, has
from onnxslim.runtime.kernels import first_value
from onnxslim.runtime.layer import Previous, Step, Tensor, TimedLayer
from onnxslim.runtime.layer_latency import NOTHING, LayerTimes
from onnxslim.runtime.model_times import ModelTimes

from .cost import Boundary, Integers, PlanCosts, boundaries, layer_costs
from .plan import QuantPlan, layers_of
from .site import QuantSite

WORK, RUNS = 2e11, (5, 30)
"""Multiply-accumulates of all runs of a profile, half a minute on a slow core, and runs at least and at most."""
IN_PLACE = (1.0, 6.0)
"""How much dearer conversions may be in the model than alone: beside them tensors change their layout."""
LAST, LAST_CHANNELS = "channels last", (0, 2, 3, 1)
"""Kernels that pack weights so have the channels of images last, and convolutions in float have them not. What lies
between, and is float whatever is chosen, takes them as they come."""
IMAGE = 4
"""Axes of a tensor that kernels want in another layout."""


@dataclasses.dataclass(frozen=True)
class Stopwatch:
    """Measures on the target of the run."""

    models: ModelTimes
    layers: LayerTimes
    feeds: Mapping[str, Any]
    """Inputs of one sample."""

    def race(self, models: Sequence[ir.Model]) -> list[float]:
        """Return the milliseconds of models that take turns; infinity for one that does not run."""
        try:
            return [math.inf if time is None else time for time in self.models.together(models, self.feeds)]
        except RunError:
            return [math.inf] * len(models)


def measured_costs(
    model: ir.Model, quantized: ir.Model, plan: QuantPlan, macs: Mapping[str, int], integers: Integers, watch: Stopwatch
) -> PlanCosts:
    """Return what the layers of a plan cost, in milliseconds.

    Args:
        model: The model in float; it is not changed.
        quantized: A copy with everything of the plan in int8.
        plan: Of the model.
        macs: Multiply-accumulates of nodes, by the first value that each makes.
        integers: What the weight of a site becomes.
        watch: Measures.

    Raises:
        RunError: One of them does not run.
    """
    runs = int(min(max(WORK / max(sum(macs.values()), 1), RUNS[0]), RUNS[1]))
    owners = node_owners(model, plan)
    in_float, whole = _of_layers(model, owners, macs, runs, watch)
    in_int8, whole_int8 = _of_layers(quantized, {**_level_owners(quantized, owners), **owners}, macs, runs, watch)
    times = watch.models.together([model, quantized], watch.feeds)
    scales = [
        1.0 if time is None else time / max(sum_, 1e-9) for time, sum_ in zip(times, (whole, whole_int8), strict=True)
    ]

    def of_layer(key: str, _: list[QuantSite]) -> tuple[float, float]:
        return in_float.get(key, 0.0) * scales[0], in_int8.get(key, 0.0) * scales[1]

    layers, rest_bytes = layer_costs(model, layers_of(plan), integers, of_layer)
    rest = max(0.0, whole * scales[0] - sum(cost.float_time for cost in layers.values()))
    edges = _boundaries(model, plan, watch)
    costs = PlanCosts(layers, edges, rest, rest_bytes, measured=True)
    alone = sum(boundary.time(frozenset()) for boundary in edges)
    found = whole_int8 * scales[1] - (costs.time(frozenset()) - alone)
    return costs.dearer(float(np.clip(found / max(alone, 1e-9), *IN_PLACE)))


def node_owners(model: ir.Model, plan: QuantPlan) -> dict[str, str]:
    """Return the layer of each node by the first value that it makes.

    A node that is no site belongs to the last layer in front of it, into whose kernel it may be fused; one in front of
    all layers to none.
    """
    layers = layers_of(plan)
    order = {key: index for index, key in enumerate(layers)}
    of_sites = {site.node: key for key, sites in layers.items() for site in sites}
    of_values: dict[ir.Value, str] = {}
    owners: dict[str, str] = {}
    for node in model.graph:
        before = [of_values[value] for value in node.inputs if value is not None and value in of_values]
        key = of_sites.get(node) or max(before, key=order.__getitem__, default=None)
        if key is not None:
            owners[first_value(node)] = key
            of_values.update(dict.fromkeys(node.outputs, key))
    return owners


def _level_owners(quantized: ir.Model, owners: Mapping[str, str]) -> dict[str, str]:
    """Return the layer of each node that cuts levels off, by the value that it makes: that of what makes them."""
    found: dict[str, str] = {}
    for node in quantized.graph:
        before = node
        while level_ends(before) is not None or has(before, Trait.QUANTIZES):
            source = None if before.inputs[0] is None else before.inputs[0].producer()
            if source is None:
                break
            before = source
        owner = owners.get(first_value(before))
        if owner is not None and level_ends(node) is not None:
            found[first_value(node)] = owner
    return found


def _of_layers(
    model: ir.Model, owners: Mapping[str, str], macs: Mapping[str, int], runs: int, watch: Stopwatch
) -> tuple[dict[str, float], float]:
    """Return the milliseconds of each layer, and those of the whole model."""
    times, rest = watch.models.of_nodes(model, watch.feeds, macs, runs)
    found: dict[str, float] = {}
    for name, time in times.items():
        if name in owners:
            found[owners[name]] = found.get(owners[name], 0.0) + time
    return found, sum(times.values()) + rest


def _boundaries(model: ir.Model, plan: QuantPlan, watch: Stopwatch) -> tuple[Boundary, ...]:
    """Return the boundaries of a plan with what a conversion takes by itself."""
    view = infer_at(model, {name: np.shape(array) for name, array in watch.feeds.items()})
    shapes: dict[ir.Value, tuple[int, ...]] = {}
    for value in plan.sources:
        known = tuple(size for size in view.shape(value) or (None,) if size is not None)
        if len(known) == len(view.shape(value) or (None,)) and 0 not in known:
            shapes[value] = known
    images = {value for site in plan.sites if site.row.packing == LAST for value in (*site.operands(), *site.results)}
    distinct = sorted({(shape, relaid) for shape in shapes.values() for relaid in (False, len(shape) == IMAGE)})
    *times, idle = watch.layers.milliseconds([*itertools.starmap(conversions, distinct), NOTHING])
    both = {each: max(0.0, (time or 0.0) - (idle or 0.0)) for each, time in zip(distinct, times, strict=True)}

    def price(value: ir.Value, between_layers: bool) -> float:
        shape = shapes.get(value, ())
        return both.get((shape, between_layers and value in images and len(shape) == IMAGE), 0.0) / 2

    return boundaries(plan, layers_of(plan), price)


def conversions(shape: tuple[int, ...], relaid: bool) -> TimedLayer:
    """Return what makes a tensor int8 and float again, and puts the channels of an image last where it is `relaid`."""
    scale, zero_point = Tensor((), constant=True), Tensor((), constant=True, dtype="uint8")
    steps = [Step(("", "QuantizeLinear"), (Tensor(shape), scale, zero_point))]
    if relaid:
        steps.append(Step(("", "Transpose"), (Previous(),), (("perm", LAST_CHANNELS),)))
    return TimedLayer((*steps, Step(("", "DequantizeLinear"), (Previous(), scale, zero_point))))
