"""A copy of a model in which tensors and weights can be rounded one by one.

Each goes through `Where (switch, rounded, float)`: the model is opened once, however many of them there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Singles
from onnxslim.observe.probe import Feeds, Probe, run_on
from onnxslim.observe.sensitivity import Run
from onnxslim.runtime.session import OpenSession

from .scales import Scale
from .site import QuantSite
from .weights import QuantizedWeight

Part = tuple[ir.Value, Scale] | tuple[QuantSite, QuantizedWeight] | Mapping[str, Singles]
"""A tensor of the main graph with its scale, a site that has a weight with its levels, or initializers of the main
graph, by name, with what they are rounded to."""
Mix = Callable[[ir.Value, ir.Value], ir.Value]
"""Appends what is read in place of a value, given the value rounded, and as it is."""


class RoundedModel:
    """The copy, opened.

    Args:
        model: It is not changed.
        parts: What can be rounded.
        open_session: Opens a model on the target.
    """

    def __init__(self, model: ir.Model, parts: Sequence[Part], open_session: OpenSession) -> None:
        self._count = len(parts)
        probe = Probe(model)
        self._name = probe.editor.name("switches")
        shape = ir.Shape((self._count,))
        switches = ir.Value(name=self._name, type=ir.TensorType(ir.DataType.BOOL), shape=shape)
        probe.model.graph.inputs.append(switches)
        for index, part in enumerate(parts):
            switch = probe.add("Gather", switches, probe.constant(np.asarray(index, np.int64)))
            round_part(probe, part, _choice(probe, switch))
        probe.model.graph.sort()
        self._session = open_session(probe.model)

    def rounding(self, index: int) -> Run:
        """Return what runs the model with the part at `index` rounded, and nothing else."""
        switches = np.arange(self._count) == index

        def run(feeds: Feeds) -> dict[str, object]:
            return run_on(self._session, {**feeds, self._name: switches})

        return run


def _choice(probe: Probe, switch: ir.Value) -> Mix:
    def choose(rounded: ir.Value, plain: ir.Value) -> ir.Value:
        return probe.add("Where", switch, rounded, plain)

    return choose


def round_part(probe: Probe, part: Part, mix: Mix) -> None:
    """Let all that reads a part of a model read a mixture of it, rounded, and of it as it is."""
    if isinstance(part, Mapping):
        for name, stored in part.items():
            _round_initializer(probe, name, stored, mix)
        return
    what, how = part
    if isinstance(what, ir.Value) and isinstance(how, Scale):
        _round_tensor(probe, probe.values[what.name or ""], how, mix)
    elif isinstance(what, QuantSite) and isinstance(how, QuantizedWeight):
        _round_weight(probe, what, how, mix)


def _round_weight(probe: Probe, site: QuantSite, weight: QuantizedWeight, mix: Mix) -> None:
    node = probe.values[site.key].producer()
    assert node is not None
    assert site.product is not None
    place = site.product.weight_index
    original = node.inputs[place]
    assert original is not None
    node.replace_input_with(place, mix(probe.constant(weight.dequantized()), original))


def _round_initializer(probe: Probe, name: str, stored: Singles, mix: Mix) -> None:
    value = probe.model.graph.initializers[name]
    readers = [(use.node, use.idx) for use in value.uses()]
    chosen = mix(probe.constant(stored), value)
    for node, index in readers:
        node.replace_input_with(index, chosen)


def _round_tensor(probe: Probe, value: ir.Value, scale: Scale, mix: Mix) -> None:
    readers = [(use.node, use.idx) for use in value.uses()]
    parameters = [probe.constant(part) for part in scale.parameters]
    levels = probe.add("QuantizeLinear", value, *parameters)
    if scale.ends is not None:
        levels = probe.add("Clip", levels, *map(probe.constant, scale.ends))
    chosen = mix(probe.add("DequantizeLinear", levels, *parameters), value)
    for node, index in readers:
        node.replace_input_with(index, chosen)
    for index, output in enumerate(probe.model.graph.outputs):
        if output is value:
            chosen.name, value.name = value.name, f"{value.name}/float"
            chosen.type, chosen.shape = value.type, value.shape
            probe.model.graph.outputs[index] = chosen
