"""A copy of a model in which every tensor and weight of a plan can be rounded alone, and tensors at any scale.

Each goes through `Where (switch, rounded, float)`, and the scales of tensors are inputs: the model is opened once,
however many parts there are and however many scales are tried.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.arrays import Array
from onnxslim.observe.probe import Feeds, Probe, run_on
from onnxslim.observe.sensitivity import Run
from onnxslim.runtime.session import OpenSession

from .scales import Scale
from .site import QuantSite
from .weights import QuantizedWeight


class RoundedModel:
    """The copy, opened.

    Args:
        model: It is not changed.
        tensors: What can be rounded at a scale.
        weights: What can be rounded to its levels, each with the site that reads it.
        dtype: The element type of the levels of tensors.
        open_session: Opens a model on the target.
    """

    def __init__(
        self,
        model: ir.Model,
        tensors: Sequence[ir.Value],
        weights: Sequence[tuple[QuantSite, QuantizedWeight]],
        dtype: np.dtype[np.integer],
        open_session: OpenSession,
    ) -> None:
        self._tensors = [value.name or "" for value in tensors]
        self._weights = [site.key for site, _ in weights]
        self._dtype = dtype
        probe = Probe(model)
        self._inputs = [
            _input(probe, wanted, kind, size)
            for wanted, kind, size in (
                ("switches", ir.DataType.BOOL, len(self._tensors) + len(self._weights)),
                ("steps", ir.DataType.FLOAT, len(self._tensors)),
                ("zero_points", ir.DataType.from_numpy(dtype), len(self._tensors)),
            )
        ]
        for index, name in enumerate(self._tensors):
            _round(probe, probe.values[name], *(_taken(probe, value, index) for value in self._inputs))
        for index, (site, weight) in enumerate(weights, start=len(self._tensors)):
            node = probe.values[site.key].producer()
            assert node is not None
            assert site.product is not None
            place = site.product.weight_index
            original = node.inputs[place]
            assert original is not None
            stored = probe.constant(weight.dequantized())
            switch = _taken(probe, self._inputs[0], index)
            node.replace_input_with(place, probe.add("Where", switch, stored, original))
        probe.model.graph.sort()
        self._session = open_session(probe.model)

    def rounding(self, tensors: Mapping[str, Scale], weights: Collection[str] = ()) -> Run:
        """Return what runs the model with some tensors, by name, and weights, by the keys of sites, rounded."""
        switches = np.array([name in tensors for name in self._tensors] + [key in weights for key in self._weights])
        steps = np.ones(len(self._tensors), np.float32)
        zero_points: npt.NDArray[np.integer] = np.zeros(len(self._tensors), self._dtype)
        for index, name in enumerate(self._tensors):
            if name in tensors:
                steps[index], zero_points[index] = tensors[name].scale, tensors[name].zero_point
        names = [value.name or "" for value in self._inputs]
        own: dict[str, Array] = dict(zip(names, (switches, steps, zero_points), strict=True))

        def run(feeds: Feeds) -> Mapping[str, object]:
            return run_on(self._session, {**feeds, **own})

        return run


def _input(probe: Probe, wanted: str, dtype: ir.DataType, size: int) -> ir.Value:
    value = ir.Value(name=probe.editor.name(wanted), type=ir.TensorType(dtype), shape=ir.Shape((size,)))
    probe.model.graph.inputs.append(value)
    return value


def _taken(probe: Probe, values: ir.Value, index: int) -> ir.Value:
    return probe.add("Gather", values, probe.constant(np.asarray(index, np.int64)))


def _round(probe: Probe, value: ir.Value, switch: ir.Value, step: ir.Value, zero_point: ir.Value) -> None:
    """Let all readers of `value` read it rounded where a switch is set."""
    readers = [(use.node, use.idx) for use in value.uses()]
    levels = probe.add("QuantizeLinear", value, step, zero_point)
    chosen = probe.add("Where", switch, probe.add("DequantizeLinear", levels, step, zero_point), value)
    for node, index in readers:
        node.replace_input_with(index, chosen)
    for index, output in enumerate(probe.model.graph.outputs):
        if output is value:
            chosen.name, value.name = value.name, f"{value.name}/float"
            chosen.type, chosen.shape = value.type, value.shape
            probe.model.graph.outputs[index] = chosen
