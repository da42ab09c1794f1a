"""Measures the error that int8 brings, part by part, and chooses the layers that had better stay in float.

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
from onnxslim.pipeline.reasons import Reason

from .codes import QuantCode
from .plan import QuantPlan
from .scales import Scale
from .site import QuantSite
from .weights import QuantizedWeight

PRODUCTS = 1e12
"""Multiply-accumulates that running the model may take: half a minute on two cores."""
SAMPLES = (1, 16)
"""Samples that tell one part from another: at least, and at most."""


@dataclasses.dataclass(frozen=True)
class RoundingError:
    """The error that rounding some weights and tensors brings, which are float only where all of some layers are."""

    layers: frozenset[str]
    """The layers, by their keys: of a weight its own, of a tensor those that make it and that read it."""
    share: float
    """The energy of the error of the outputs where nothing else is rounded, as a share of theirs."""


def layers_of(plan: QuantPlan) -> dict[str, list[QuantSite]]:
    """Return the sites of each layer by its key, in the order of the graph.

    An op between two products belongs to the last product in front of it; what nothing precedes, to the first behind.
    """
    layers: dict[str, list[QuantSite]] = {}
    owners: dict[ir.Value, str] = {}
    order: dict[str, int] = {}
    waiting: list[QuantSite] = []
    for site in plan.sites:
        if site.is_contraction:
            key = site.key
            order[key] = len(order)
            layers[key] = [*waiting, site]
            waiting = []
        else:
            before = [owners[value] for value in site.operands() if value in owners]
            if not before:
                waiting.append(site)
                continue
            key = max(before, key=order.__getitem__)
            layers[key].append(site)
        owners.update(dict.fromkeys((*site.node.outputs, *site.results), key))
    return layers


def rounding_errors(
    model: ir.Model,
    plan: QuantPlan,
    scales: Mapping[ir.Value, Scale],
    weights: Mapping[ir.Node, QuantizedWeight],
    macs: int,
    context: Context,
) -> tuple[RoundingError, ...]:
    """Return the errors that the weights and tensors of a plan bring, each rounded alone; `model` is not changed.

    The fewer multiply-accumulates one run of the model takes, `macs`, the more samples are used.

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
    found: list[RoundingError] = []
    for index, layers in enumerate(rounded):
        found.append(RoundingError(layers, error(rounding(index))))
        context.progress("quant: sensitivity", index + 1, len(rounded))
    return tuple(found)


def layers_in_float(errors: Sequence[RoundingError], macs: Mapping[str, int], share: float) -> dict[str, Reason]:
    """Return the layers to leave in float so that at most a share (above 0) of the error is left, and why.

    Again and again the layers are taken that bring most of the error for their multiply-accumulates.
    """
    total, work = sum(error.share for error in errors), sum(macs.values())
    touching: dict[str, list[int]] = {}
    for index, error in enumerate(errors):
        for layer in error.layers:
            touching.setdefault(layer, []).append(index)
    chosen: dict[str, Reason] = {}
    remaining = dict(enumerate(errors))

    def avoided(layers: Set[str]) -> set[int]:
        """Return the errors that are gone where these layers, and those that are chosen, are float."""
        near = {index for layer in layers for index in touching[layer] if index in remaining}
        return {index for index in near if errors[index].layers <= chosen.keys() | layers}

    while remaining and sum(error.share for error in remaining.values()) > share * total:
        best, gone, highest = frozenset[str](), set[int](), -1.0
        for error in remaining.values():
            layers = error.layers - chosen.keys()
            indices = avoided(layers)
            gain = sum(remaining[index].share for index in indices)
            worth = gain / max(1, sum(macs.get(layer, 0) for layer in layers))
            if worth > highest:
                best, gone, highest = layers, indices, worth
        brought = sum(remaining.pop(index).share for index in gone) / total
        for layer in best:
            others = sorted(best - {layer})
            together = f"together with {', '.join(others)} " if others else ""
            own = macs.get(layer, 0) / max(work, 1)
            chosen[layer] = Reason(QuantCode.COSTLY, (together, brought, own), tuple(others))
    return chosen


def _rounded_with(plan: QuantPlan) -> dict[frozenset[str], list[QuantSite | ir.Value]]:
    """Return weights (as their sites) and tensors, by the layers that must be float so that they are not rounded."""
    owners = {site.node: key for key, sites in layers_of(plan).items() for site in sites}
    found: dict[frozenset[str], list[QuantSite | ir.Value]] = {}
    touching: dict[ir.Value, set[str]] = {}
    for site in plan.sites:
        if site.node not in owners:
            continue
        if site.product is not None:
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
    for index, parts in enumerate(rounded.values()):
        switch = probe.add("Gather", switches, probe.constant(np.asarray(index, np.int64)))
        for part in parts:
            if isinstance(part, ir.Value):
                _round(probe, probe.values[part.name or ""], scales[part], switch)
                continue
            node = probe.values[part.key].producer()
            assert node is not None
            assert part.product is not None
            weight = node.inputs[part.product.weight_index]
            assert weight is not None
            stored = probe.constant(weights[part.node].dequantized())
            node.replace_input_with(part.product.weight_index, probe.add("Where", switch, stored, weight))
    graph.sort()
    return probe.model


def _round(probe: Probe, value: ir.Value, scale: Scale, switch: ir.Value) -> None:
    """Let all readers of `value` read it rounded where a switch is set."""
    readers = [(use.node, use.idx) for use in value.uses()]
    parameters = [probe.constant(part) for part in scale.parameters]
    levels = probe.add("QuantizeLinear", value, *parameters)
    chosen = probe.add("Where", switch, probe.add("DequantizeLinear", levels, *parameters), value)
    for node, index in readers:
        node.replace_input_with(index, chosen)
    for index, output in enumerate(probe.model.graph.outputs):
        if output is value:
            chosen.name, value.name = value.name, f"{value.name}/float"
            chosen.type, chosen.shape = value.type, value.shape
            probe.model.graph.outputs[index] = chosen
