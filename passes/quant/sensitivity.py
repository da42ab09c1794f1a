"""Measures what int8 costs the outputs, part by part, and chooses the layers that had better stay in float.

In a copy of the model each tensor and weight that would be rounded goes through `Where (switch, rounded, float)`, so
that the model is opened once, however many parts there are. The parts are rounded one at a time, on few samples; their
errors are independent and nearly add up in energy. A tensor is rounded as long as one layer that makes or reads it runs
in int8: to leave one layer alone in float may gain nothing, and the choice is among sets of layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set

import numpy as np
import onnx_ir as ir

from onnxslim.observe.batches import batch_size
from onnxslim.observe.probe import Probe, run_on
from onnxslim.observe.sensitivity import OutputDeviation, Run
from onnxslim.pipeline.interface import Context

from .plan import QuantPlan, QuantSite
from .scales import Scale
from .table import Role
from .weights import QuantizedWeight

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
    switched = _switched(model, rounded, scales, weights)
    session, name = context.open_session(switched), switched.graph.inputs[-1].name

    def rounding(*indices: int) -> Run:
        switches = np.isin(np.arange(len(rounded)), indices)
        return lambda feeds: run_on(session, {**feeds, str(name): switches})

    error = OutputDeviation(rounding(), [batch.feeds for batch in few.batches(batch_size(model, few))])
    found: list[Noise] = []
    for index, layers in enumerate(rounded):
        found.append(Noise(layers, error(rounding(index))))
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
    """Return a copy of the model whose last input switches what is rounded on, bool[rounded]."""
    probe = Probe(model)
    graph = probe.model.graph
    name = probe.editor.name("switches")
    switches = ir.Value(name=name, type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape((len(rounded),)))
    graph.inputs.append(switches)
    for index, things in enumerate(rounded.values()):
        switch = probe.add("Gather", switches, probe.constant(np.asarray(index, np.int64)))
        for thing in things:
            if isinstance(thing, ir.Value):
                _round(probe, probe.values[thing.name or ""], scales[thing], switch)
                continue
            node = probe.values[thing.node.outputs[0].name or ""].producer()
            assert node is not None
            assert thing.weight is not None
            weight = node.inputs[thing.weight]
            assert weight is not None
            stored = probe.constant(weights[thing.node].dequantized())
            node.replace_input_with(thing.weight, probe.add("Where", switch, stored, weight))
    graph.sort()
    return probe.model


def _round(probe: Probe, value: ir.Value, scale: Scale, switch: ir.Value) -> None:
    """Let all that reads `value` read it in int8 where a switch is set."""
    readers = [(use.node, use.idx) for use in value.uses()]
    parameters = probe.constant(scale.scale), probe.constant(np.asarray(scale.zero_point, scale.dtype))
    levels = probe.add("QuantizeLinear", value, *parameters)
    chosen = probe.add("Where", switch, probe.add("DequantizeLinear", levels, *parameters), value)
    for node, index in readers:
        node.replace_input_with(index, chosen)
    for index, output in enumerate(probe.model.graph.outputs):
        if output is value:
            chosen.name, value.name = value.name, f"{value.name}/float"
            chosen.type, chosen.shape = value.type, value.shape
            probe.model.graph.outputs[index] = chosen
