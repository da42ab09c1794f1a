"""Compiles a training step into one ONNX model: the student, its loss, the gradients, and the update of the weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common

from onnxslim.analysis.specialize import specialize_shapes
from onnxslim.arrays import Array
from onnxslim.autodiff.expand import expand
from onnxslim.autodiff.reverse import build_gradients, graph_builder
from onnxslim.errors import NotDifferentiable
from onnxslim.model.builder import GraphBuilder
from onnxslim.ops.fact import Unknowable
from onnxslim.ops.gradient import Shape, static_shape
from onnxslim.ops.parameters import describe
from onnxslim.train.losses import LossTerm, in_type
from onnxslim.train.moving_statistics import normalize_by_batch
from onnxslim.train.optimizer import RATE, Optimizer

LOSS = "loss"
"""The output of a step that is minimised; the terms of several follow it, with a number behind the name."""
TRAINING_OPSET = 18
"""The oldest operator set that gradients are declared for."""


@dataclasses.dataclass(frozen=True)
class TrainingStep:
    """A model that makes the next weights of the last ones, given a batch."""

    model: ir.Model
    weights: tuple[str, ...]
    """Inputs: the weights that are trained, called as in the student, and the statistics that follow batches."""
    states: Mapping[str, tuple[np.dtype[np.generic], Shape]]
    """Inputs: what the optimiser keeps, zeros at first."""
    successors: Mapping[str, str]
    """The output that holds what a weight or state becomes; none for a step that only evaluates."""
    scalars: Mapping[str, str]
    """The input of each scalar that the optimiser computes for a step."""
    losses: tuple[str, ...]
    """Outputs: the loss, and its terms."""
    targets: Mapping[str, str]
    """The input of each target, by its name in the terms."""

    def start(self) -> dict[str, Array]:
        """Return the states of the optimiser before the first step."""
        return {name: np.zeros(shape, dtype) for name, (dtype, shape) in self.states.items()}


def compile_step(
    student: ir.Model,
    feeds: Mapping[str, Shape],
    weights: Sequence[str],
    terms: Sequence[LossTerm],
    optimizer: Optimizer | None,
    masks: Mapping[str, Array] | None = None,
    statistics: Sequence[str] = (),
    rates: Mapping[str, float] | None = None,
) -> TrainingStep:
    """Compile a training step, or one that only evaluates.

    Args:
        student: The model, at operator set 18 or a newer one; it is not changed.
        feeds: The shape of each of its inputs, for one batch.
        weights: Names of the initializers that are trained, of its main graph.
        terms: What is minimised: the weighted sum of these.
        optimizer: How weights follow their gradients; None: no gradients, and no weights are made.
        masks: For weights of which some elements stay as they are: 1 where they move and 0 where they do not.
        statistics: Names of the means and variances that follow those of the batches, by which a step that trains
            normalises (`onnxslim.train.moving_statistics`); all others stay as they are.
        rates: For weights that learn at another rate than the rest: what the learning rate is multiplied by.

    Raises:
        NotDifferentiable: An op between the weights and the loss has no gradient.
    """
    model = _with_inputs(student, [*weights, *statistics])
    following = normalize_by_batch(model, statistics) if optimizer is not None else {}
    model = specialize_shapes(model, {**feeds})
    expand(model, [value for value in model.graph.inputs if value.name in weights])
    build = graph_builder(model)
    graph = model.graph
    values = {value.name or "": value for value in graph.inputs}
    values |= {value.name or "": value for node in graph for value in node.outputs}
    graph.outputs.clear()
    targets: dict[str, ir.Value] = {}
    for term in terms:
        if term.target and term.target not in targets:
            targets[term.target] = _new_target(build, term, values[term.value])
    losses = _append_losses(build, terms, values, targets)
    scalars: dict[str, ir.Value] = {}
    states: dict[str, tuple[np.dtype[np.generic], Shape]] = {}
    successors: dict[str, ir.Value] = {}
    if optimizer is not None:
        trained = [values[name] for name in weights]
        found = _masked(build, build_gradients(build, {losses[0]: build.number(1.0, losses[0])}, trained), masks or {})
        clipped = dict(zip(found, optimizer.clipped(build, list(found.values())), strict=True))
        scalars = {name: _new_input(build, name, ir.DataType.FLOAT, ()) for name in optimizer.scalars}
        _keep_constant(student, [weight for weight in trained if weight not in clipped])
        for weight, gradient in clipped.items():
            own = {
                name: _new_input(build, f"{weight.name}.{name}", weight.dtype, static_shape(weight))
                for name in optimizer.states
            }
            dtype = weight.dtype or ir.DataType.FLOAT
            given = {name: in_type(build, value, dtype) for name, value in scalars.items()}
            if (factor := (rates or {}).get(weight.name or "", 1.0)) != 1:
                given[RATE] = build.op("Mul", given[RATE], factor)
            moved, kept = optimizer.update(build, weight, gradient, given.__getitem__, own.__getitem__)
            successors[weight.name or ""] = moved
            for name, value in kept.items():
                assert value.dtype is not None
                successors[own[name].name or ""] = value
                states[own[name].name or ""] = (value.dtype.numpy(), static_shape(value))
        successors.update({name: values[become] for name, become in following.items()})
    names = [build.editor.name(LOSS) for _ in losses]
    for value, name in zip(losses, names, strict=True):
        graph.outputs.append(_renamed(build, value, name))
    graph.outputs.extend(successors.values())
    onnx_ir.passes.common.RemoveUnusedNodesPass()(model)
    return TrainingStep(
        model,
        tuple(name for name in (*weights, *statistics) if optimizer is None or name in successors),
        states,
        {name: value.name or "" for name, value in successors.items()},
        {name: value.name or "" for name, value in scalars.items()},
        tuple(names),
        {name: value.name or "" for name, value in targets.items()},
    )


def _masked(
    build: GraphBuilder, gradients: Mapping[ir.Value, ir.Value], masks: Mapping[str, Array]
) -> Mapping[ir.Value, ir.Value]:
    """Return gradients that are 0 where weights stay as they are."""
    masked = dict(gradients)
    for weight, gradient in gradients.items():
        mask = masks.get(weight.name or "")
        if mask is not None:
            assert weight.dtype is not None
            masked[weight] = build.op("Mul", gradient, mask.astype(weight.dtype.numpy()))
    return masked


def _with_inputs(student: ir.Model, weights: Sequence[str]) -> ir.Model:
    """Return a copy of the student that is fed with its weights."""
    model = student.clone()
    for name in weights:
        value = model.graph.initializers.pop(name)
        tensor = value.const_value
        assert tensor is not None
        value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
        value.const_value = None
        model.graph.inputs.append(value)
    return model


def _keep_constant(student: ir.Model, weights: Sequence[ir.Value]) -> None:
    """Let weights that have no gradient (all behind a Floor, say) be constants of the step again."""
    for weight in weights:
        graph = weight.graph
        assert graph is not None
        graph.inputs.remove(weight)
        weight.const_value = student.graph.initializers[weight.name or ""].const_value
        graph.register_initializer(weight)


def _append_losses(
    build: GraphBuilder,
    terms: Sequence[LossTerm],
    values: Mapping[str, ir.Value],
    targets: Mapping[str, ir.Value],
) -> Sequence[ir.Value]:
    """Append the terms; return their weighted sum, and each term where there are several."""
    losses = [term.build(build, values[term.value], targets.get(term.target)) for term in terms]
    weighted = [
        loss if term.weight == 1 else build.op("Mul", loss, term.weight)
        for loss, term in zip(losses, terms, strict=True)
    ]
    return weighted if len(weighted) == 1 else [build.op("Sum", *weighted), *losses]


def _new_input(build: GraphBuilder, name: str, dtype: ir.DataType | None, shape: Shape) -> ir.Value:
    assert dtype is not None
    value = ir.Value(name=build.editor.name(name), type=ir.TensorType(dtype), shape=ir.Shape(shape))
    build.model.graph.inputs.append(value)
    return value


def _new_target(build: GraphBuilder, term: LossTerm, value: ir.Value) -> ir.Value:
    try:
        return _new_input(build, term.target, *term.target_type(value))
    except Unknowable as error:
        maker = value.producer()
        raise NotDifferentiable(
            f"the shape of {term.value} is not known before the model runs",
            where=None if maker is None else describe(maker),
            hint="train towards other outputs, or export the model with fixed sizes",
        ) from error


def _renamed(build: GraphBuilder, value: ir.Value, name: str) -> ir.Value:
    """Return an output of a name of its own: a value may be two outputs."""
    result = build.op("Identity", value)
    result.name = name
    return result
