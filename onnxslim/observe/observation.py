"""Looks at the values of a model while it runs on samples, reduced inside the graph: memory does not grow with the
samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common

from onnxslim.data import Batch, Samples
from onnxslim.observe.finite import check_finite
from onnxslim.runtime.session import Session

Array = npt.NDArray[np.float64]
Place = tuple[str, int]
"""(value name, axis)."""

AXES_AS_INPUT = 18
"""Since this operator set, ReduceMean takes its axes as an input."""


@dataclasses.dataclass(frozen=True)
class ChannelMoments:
    """What the channels along one axis of a value are on average, over samples and all other axes; shape [channels]."""

    mean: Array
    absolute: Array
    square: Array
    zero: Array | None = None
    """The share of zeros, where it was asked for."""

    @property
    def variance(self) -> Array:
        """The mean square without the squared mean."""
        return np.maximum(self.square - self.mean**2, 0)


class Observer:
    """Runs a model on batches, and gives the moments of values of its main graph on each.

    Args:
        model: Any model; it is not changed.
        places: Names of values with the axis of their channels.
        open_session: Opens a model on the target.
        zeros: Count zeros as well.
    """

    def __init__(
        self,
        model: ir.Model,
        places: Sequence[Place],
        open_session: Callable[[ir.Model], Session],
        *,
        zeros: bool = False,
    ) -> None:
        self.words = ("mean", "absolute", "square", *(["zero"] if zeros else []))
        self._places = tuple(places)
        self._session = open_session(_probe(model, places, self.words))
        self._used = {spec.name for spec in self._session.inputs}

    def __call__(self, batch: Batch) -> dict[Place, ChannelMoments]:
        """Return the moments over one batch.

        Raises:
            RunError: The model does not run on it.
        """
        results = self._session.run({name: array for name, array in batch.feeds.items() if name in self._used})
        return {
            place: ChannelMoments(*(results[f"onnxslim_{at}_{word}"].astype(np.float64) for word in self.words))
            for at, place in enumerate(self._places)
        }


def observe(
    model: ir.Model,
    places: Sequence[Place],
    samples: Samples,
    open_session: Callable[[ir.Model], Session],
    batch: int = 16,
    *,
    zeros: bool = False,
) -> dict[Place, ChannelMoments]:
    """Return the moments of values of the main graph over all `samples`.

    Args:
        model: Any model; it is not changed.
        places: Names of values with the axis of their channels.
        samples: Read once.
        open_session: Opens a model on the target.
        batch: Samples in one run, where the model takes any number.
        zeros: Count zeros as well.

    Raises:
        RunError: The model does not run on the samples.
        DataError: A value is not finite on them.
    """
    observer = Observer(model, places, open_session, zeros=zeros)
    width = len(observer.words)
    sums: dict[Place, list[Array]] = {place: [np.zeros(())] * width for place in places}
    total = 0
    for each in samples.batches(batch):
        for place, moments in observer(each).items():
            parts = [getattr(moments, word) for word in observer.words]
            sums[place] = [held + each.count * part for held, part in zip(sums[place], parts, strict=True)]
        total += each.count
    for place, arrays in sums.items():
        largest = max(float(np.abs(array).max(initial=0)) for array in arrays) / max(total, 1)
        check_finite(largest**0.5, place[0])
    return {place: ChannelMoments(*(array / max(total, 1) for array in arrays)) for place, arrays in sums.items()}


def defaults(model: ir.Model) -> dict[str, npt.NDArray[Any]]:
    """Return what inputs of `model` are that have a value of their own, by name: samples need not hold them."""
    return {
        value.name or "": value.const_value.numpy()
        for value in model.graph.inputs
        if value.is_initializer() and value.const_value is not None
    }


def truncated(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """Return a copy of `model` that computes the values `names` and nothing else."""
    probe = model.clone()
    values = {value.name: value for node in probe.graph for value in node.outputs}
    values |= {value.name: value for value in probe.graph.inputs}
    probe.graph.outputs.clear()
    for name in names:
        probe.graph.outputs.append(values[name])
    onnx_ir.passes.common.RemoveUnusedNodesPass()(probe)
    return probe


def _probe(model: ir.Model, places: Sequence[Place], words: Sequence[str]) -> ir.Model:
    probe = model.clone()
    graph = probe.graph
    values = {value.name: value for node in graph for value in node.outputs} | {
        value.name: value for value in graph.inputs
    }
    graph.outputs.clear()
    for at, (name, axis) in enumerate(places):
        value = values[name]
        assert value.shape is not None
        wide = _add(graph, "Cast", [value], {"to": ir.DataType.FLOAT.value})
        made = {
            "mean": wide,
            "absolute": _add(graph, "Abs", [wide], {}),
            "square": _add(graph, "Mul", [wide, wide], {}),
        }
        if "zero" in words:
            # 1 where the sign is 0; Equal would want a constant beside it.
            sign = _add(graph, "Abs", [_add(graph, "Sign", [wide], {})], {})
            made["zero"] = _add(
                graph, "Sub", [_add(graph, "Exp", [_add(graph, "Sub", [wide, wide], {})], {}), sign], {}
            )
        others = [other for other in range(len(value.shape)) if other != axis % len(value.shape)]
        for word, each in made.items():
            reduced = _mean(graph, each, others, f"onnxslim_{at}_{word}_axes")
            reduced.name = f"onnxslim_{at}_{word}"
            reduced.type = ir.TensorType(ir.DataType.FLOAT)
            graph.outputs.append(reduced)
    onnx_ir.passes.common.RemoveUnusedNodesPass()(probe)
    return probe


def _mean(graph: ir.Graph, value: ir.Value, axes: Sequence[int], name: str) -> ir.Value:
    if not axes:
        return _add(graph, "Identity", [value], {})
    if graph.opset_imports.get("", AXES_AS_INPUT) < AXES_AS_INPUT:
        return _add(graph, "ReduceMean", [value], {"axes": list(axes), "keepdims": 0})
    constant = ir.Value(name=name, const_value=ir.tensor(np.array(axes, np.int64), name=name))
    graph.register_initializer(constant)
    return _add(graph, "ReduceMean", [value, constant], {"keepdims": 0})


def _add(graph: ir.Graph, op_type: str, inputs: Sequence[ir.Value], attributes: dict[str, int | list[int]]) -> ir.Value:
    node = ir.Node(
        "", op_type, inputs, [ir.convenience.convert_attribute(name, value) for name, value in attributes.items()]
    )
    graph.append(node)
    return node.outputs[0]
