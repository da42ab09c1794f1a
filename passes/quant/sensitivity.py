"""Measures what int8 costs the outputs, part by part, and chooses the layers that had better stay in float.

In a copy of the model each tensor and weight that would be rounded goes through `Where (switch, rounded, float)`, so
that the model is opened once, however many parts there are. The parts are rounded one at a time, on few samples; their
errors are independent and nearly add up in energy. A tensor is rounded as long as one layer that makes or reads it runs
in int8: to leave one layer alone in float may gain nothing, and the choice is among sets of layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.observe.deviation import OutputDeviation
from onnxslim.pipeline.interface import Context

from .plan import QuantPlan, QuantSite
from .scales import Scale
from .table import Role
from .weights import QuantizedWeight

SWITCHES = "switches_of_quant"
"""The input that says which layers are quantized."""
PRODUCTS = 1e12
"""Multiply-accumulates that running the model may take: half a minute on two cores."""
SAMPLES = (1, 16)
"""Samples that tell one part from another: at least, and at most."""


@dataclasses.dataclass(frozen=True)
class Noise:
    """Weights and tensors that are float only where all of some layers are, and what rounding them costs."""

    layers: frozenset[str]
    """The layers, by their keys: of a weight its own, of a tensor those that make it and that read it."""
    cost: float
    """The energy of the error of the outputs where nothing else is rounded, as a share of theirs."""


def layers_of(plan: QuantPlan) -> dict[str, list[QuantSite]]:
    """Return the sites of each layer by its key, in the order of the graph.

    An op between two products belongs to the last product in front of it; what nothing precedes, to the first behind.
    """
    layers: dict[str, list[QuantSite]] = {}
    owners: dict[ir.Value, str] = {}
    places: dict[str, int] = {}
    waiting: list[QuantSite] = []
    for site in plan.sites:
        if site.row.role is Role.CONTRACTION:
            key = site.node.outputs[0].name or ""
            places[key] = len(places)
            layers[key] = [*waiting, site]
            waiting = []
        else:
            before = [owners[value] for value in site.operands() if value in owners]
            if not before:
                waiting.append(site)
                continue
            key = max(before, key=places.__getitem__)
            layers[key].append(site)
        owners.update(dict.fromkeys((*site.node.outputs, *site.results), key))
    return layers


def measure(
    model: ir.Model,
    plan: QuantPlan,
    scales: Mapping[ir.Value, Scale],
    weights: Mapping[ir.Node, QuantizedWeight],
    macs: int,
    context: Context,
) -> tuple[Noise, ...]:
    """Return what the layers cost, and what lies between them.

    Args:
        model: In float; it is not changed.
        plan: What would be quantized.
        scales: Of its tensors.
        weights: Of its sites.
        macs: Multiply-accumulates of one run.
        context: Where to run, and the samples: as many are used as the model is small.

    Raises:
        RunError: The model does not run on the samples.
    """
    rounded = _rounded_with(plan)
    least, most = SAMPLES
    count = int(min(most, max(least, PRODUCTS / max(macs * len(rounded), 1))))
    few = context.draw(count, "quant: sensitivity")
    deviation = OutputDeviation(context.open_session(_switched(model, rounded, scales, weights)), few)
    none = np.zeros(len(rounded), np.bool_)
    deviation.refer({SWITCHES: none})
    found: list[Noise] = []
    for index, layers in enumerate(rounded):
        switches = none.copy()
        switches[index] = True
        found.append(Noise(layers, deviation({SWITCHES: switches})))
        context.progress("quant: sensitivity", index + 1, len(rounded))
    return tuple(found)


def spared(noises: Sequence[Noise], macs: Mapping[str, int], share: float) -> dict[str, str]:
    """Return the layers to leave in float so that at most a share of the error is left, and why.

    Again and again the layers are taken that bring most of the error for their multiply-accumulates.

    Args:
        noises: What was measured.
        macs: Multiply-accumulates of each layer.
        share: Of the error, above 0.
    """
    total, work = sum(noise.cost for noise in noises), sum(macs.values())
    touching: dict[str, list[int]] = {}
    for index, noise in enumerate(noises):
        for layer in noise.layers:
            touching.setdefault(layer, []).append(index)
    chosen: dict[str, str] = {}
    there = dict(enumerate(noises))

    def gone(layers: Set[str]) -> set[int]:
        near = {index for layer in layers for index in touching[layer] if index in there}
        return {index for index in near if noises[index].layers <= chosen.keys() | layers}

    while there and sum(noise.cost for noise in there.values()) > share * total:
        best, taken, worth = frozenset[str](), set[int](), -1.0
        for noise in there.values():
            layers = noise.layers - chosen.keys()
            indices = gone(layers)
            gain = sum(there[index].cost for index in indices)
            if gain / max(1, sum(macs.get(layer, 0) for layer in layers)) > worth:
                worth = gain / max(1, sum(macs.get(layer, 0) for layer in layers))
                best, taken = layers, indices
        brought = sum(there.pop(index).cost for index in taken) / total
        for layer in best:
            others = sorted(best - {layer})
            together = f"together with {', '.join(others)} " if others else ""
            own = macs.get(layer, 0) / max(work, 1)
            chosen[layer] = f"{together}it brings {brought:.1%} of the error; it makes {own:.1%} of the products"
    return chosen


def _rounded_with(plan: QuantPlan) -> dict[frozenset[str], list[QuantSite | ir.Value]]:
    """Return what is rounded, weights (as their sites) and tensors, by the layers that must be float to prevent it."""
    owners = {site.node: key for key, sites in layers_of(plan).items() for site in sites}
    found: dict[frozenset[str], list[QuantSite | ir.Value]] = {}
    touching: dict[ir.Value, set[str]] = {}
    for site in plan.sites:
        if site.node not in owners:
            continue
        if site.weight is not None:
            found.setdefault(frozenset({owners[site.node]}), []).append(site)
        for value in (*site.operands(), *site.results):
            touching.setdefault(value, set()).add(owners[site.node])
    for group in plan.groups:
        layers = frozenset[str]().union(*(touching.get(member, set()) for member in group.members))
        if layers:
            found.setdefault(layers, []).append(group.source)
    return found


def _switched(
    model: ir.Model,
    rounded: Mapping[frozenset[str], Sequence[QuantSite | ir.Value]],
    scales: Mapping[ir.Value, Scale],
    weights: Mapping[ir.Node, QuantizedWeight],
) -> ir.Model:
    """Return a copy of the model with an input of switches, bool[rounded]."""
    copy = model.clone()
    graph = copy.graph
    nodes = dict(zip(model.graph, graph, strict=True))
    values = dict(zip(model.graph.inputs, graph.inputs, strict=True))
    values |= {old: new for node, own in nodes.items() for old, new in zip(node.outputs, own.outputs, strict=True)}
    writer = Switches(graph, len(rounded))
    for index, things in enumerate(rounded.values()):
        for thing in things:
            if isinstance(thing, ir.Value):
                writer.round(values[thing], scales[thing], index)
                continue
            node, place = nodes[thing.node], thing.weight
            assert place is not None, "it has a weight"
            weight = node.inputs[place]
            assert weight is not None, "its weight is a constant"
            stored = writer.hold(weights[thing.node].dequantized())
            node.replace_input_with(place, writer.choose(index, stored, weight))
    graph.sort()
    return copy


class Switches:
    """Adds switched quantizations to a graph."""

    def __init__(self, graph: ir.Graph, count: int) -> None:
        self._graph = graph
        self._number = 0
        self._switches = ir.Value(name=SWITCHES, type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape((count,)))
        graph.inputs.append(self._switches)
        self._chosen: dict[int, ir.Value] = {}

    def hold(self, array: npt.NDArray[Any]) -> ir.Value:
        """Add a constant."""
        self._number += 1
        name = f"constant{self._number}_of_quant"
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
        self._graph.register_initializer(value)
        return value

    def _add(self, op_type: str, *inputs: ir.Value) -> ir.Value:
        node = ir.node(op_type, inputs)
        self._graph.append(node)
        self._number += 1
        node.outputs[0].name = f"value{self._number}_of_quant"
        return node.outputs[0]

    def choose(self, switch: int, on: ir.Value, off: ir.Value) -> ir.Value:
        """Return `on` where a switch is set, else `off`."""
        if switch not in self._chosen:
            self._chosen[switch] = self._add("Gather", self._switches, self.hold(np.asarray(switch, np.int64)))
        return self._add("Where", self._chosen[switch], on, off)

    def round(self, value: ir.Value, scale: Scale, switch: int) -> None:
        """Let all that reads `value` read it in int8 where a switch is set."""
        readers = [(use.node, use.idx) for use in value.uses()]
        parameters = self.hold(np.asarray(scale.scale)), self.hold(np.asarray(scale.zero_point, scale.dtype))
        levels = self._add("QuantizeLinear", value, *parameters)
        chosen = self.choose(switch, self._add("DequantizeLinear", levels, *parameters), value)
        for node, place in readers:
            node.replace_input_with(place, chosen)
        for place, output in enumerate(self._graph.outputs):
            if output is value:
                chosen.name, value.name = value.name, f"{value.name}/float"
                chosen.type, chosen.shape = value.type, value.shape
                self._graph.outputs[place] = chosen
