"""Gradients of the outputs along random directions, by values of a model.

With outputs y scaled to an energy of 1, and a direction u whose elements are independent, of mean 0 and variance 1, the
gradient g of u.y by a value x has E[gg'] = J'J, where J is the Jacobian of the outputs by x: an error e of x costs the
outputs e'J'Je. One run forward and back gives it for all values at once.

Source: M. F. Hutchinson, Communications in Statistics 19 (1990).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common

from onnxslim.analysis.specialize import specialize_shapes
from onnxslim.arrays import Array
from onnxslim.autodiff.expand import expand
from onnxslim.autodiff.reverse import build_gradients, graph_builder
from onnxslim.errors import NotDifferentiable
from onnxslim.observe.probe import Feeds, run_on
from onnxslim.observe.sensitivity import output_weights
from onnxslim.pipeline.interface import Context

PRODUCTS = 2e12
"""Multiply-accumulates that all runs together may take: about a minute on two cores."""
BACKWARD = 3
"""Work of a run forward and back, beside that of one forward."""
NO_OUTPUT = "no output is made of finite real numbers, in one shape, that are not all 0"


def affordable_runs(macs: int) -> int:
    """Return how many runs forward and back of a model of so many multiply-accumulates take about a minute."""
    return int(PRODUCTS / (BACKWARD * max(macs, 1)))


class OutputDirections:
    """Samples of one shape, the commonest, and the outputs of a model on them.

    Args:
        model: Not changed.
        samples: How many samples are used at most.
        context: The context of the pass.
        purpose: What they are drawn for, as the report calls it.
        hint: What else can be done where there are no gradients.

    Raises:
        NotDifferentiable: No output is made of real numbers.
        RunError: The model does not run on the samples.
    """

    def __init__(self, model: ir.Model, samples: int, context: Context, purpose: str, hint: str) -> None:
        self._context, self._purpose, self._hint = context, purpose, hint
        self._feeds = _of_one_shape(context, samples, purpose)
        session = context.open_session(model)
        self._made = [run_on(session, each) for each in self._feeds]
        self._weights = output_weights(self._made)
        if not self._weights:
            raise NotDifferentiable(NO_OUTPUT, hint=hint)

    @property
    def count(self) -> int:
        """How many samples there are."""
        return len(self._feeds)

    def gradients(
        self, model: ir.Model, values: Sequence[str], directions: int, inputs: Mapping[str, Array] | None = None
    ) -> Iterator[Mapping[str, Array]]:
        """Yield for each sample, and each of some directions, the gradients by values, by their names; those that no
        output depends on are missing. The model is differentiated and opened once in each call.

        Args:
            model: Makes these outputs, at an operator set that gradients are declared for
                (`onnxslim.pipeline.opset.differentiable`); not changed.
            values: Names of inputs, or of values between.
            directions: How many are drawn for each sample.
            inputs: What inputs get that samples do not give.

        Raises:
            NotDifferentiable: An op between has no gradient.
            RunError: The model does not run on the samples.
        """
        step = self._compiled(model, values)
        session = self._context.open_session(step.model)
        generator = np.random.default_rng(self._context.seed)
        for done, (feeds, outputs) in enumerate(zip(self._feeds, self._made, strict=True), 1):
            known = {**feeds, **(inputs or {})}
            for _ in range(directions):
                drawn = {
                    seed.name or "": np.asarray(
                        np.sqrt(self._weights[name]) * generator.choice((-1.0, 1.0), np.shape(outputs[name])),
                        (seed.dtype or ir.DataType.FLOAT).numpy(),
                    )
                    for name, seed in step.seeds.items()
                }
                found = run_on(session, {**known, **drawn})
                yield {name: found[gradient] for name, gradient in step.gradients.items()}
            self._context.progress(self._purpose, done, len(self._feeds))

    def _compiled(self, model: ir.Model, values: Sequence[str]) -> _GradientModel:
        shapes = {name: np.shape(array) for name, array in self._feeds[0].items()}
        whole = specialize_shapes(model, shapes, fold=False)
        graph = whole.graph
        expand(whole, _named(graph, values))
        build = graph_builder(whole)
        seeds: dict[ir.Value, ir.Value] = {}
        for index, output in enumerate(graph.outputs):
            if output.name in self._weights and output.dtype is not None:
                name = build.editor.name(f"direction of output {index}")
                seeds[output] = ir.Value(name=name, type=ir.TensorType(output.dtype), shape=output.shape)
        gradients = build_gradients(build, seeds, _named(graph, values))
        if not gradients:
            raise NotDifferentiable("no output depends on what gradients are asked for", hint=self._hint)
        graph.inputs.extend(seeds.values())
        graph.outputs.clear()
        graph.outputs.extend(dict.fromkeys(gradients.values()))
        onnx_ir.passes.common.RemoveUnusedNodesPass()(whole)
        return _GradientModel(
            whole,
            {output.name or "": seed for output, seed in seeds.items()},
            {value.name or "": gradient.name or "" for value, gradient in gradients.items()},
        )


@dataclasses.dataclass(frozen=True)
class _GradientModel:
    """A model that makes gradients along a direction."""

    model: ir.Model
    seeds: Mapping[str, ir.Value]
    """For each output, by its name, the input that holds the direction."""
    gradients: Mapping[str, str]
    """For each value, by its name, that of the output that is its gradient."""


def _named(graph: ir.Graph, names: Sequence[str]) -> list[ir.Value]:
    """Return values of a graph by their names."""
    wanted = set(names)
    made = (value for node in graph for value in node.outputs)
    found = {value.name or "": value for value in (*graph.inputs, *made) if value.name in wanted}
    return [found[name] for name in names if name in found]


def _of_one_shape(context: Context, count: int, purpose: str) -> list[Feeds]:
    """Return inputs of single samples, all of the commonest shape."""
    feeds = [batch.feeds for batch in context.draw(count, purpose).one_by_one().batches()]
    forms = [tuple((name, array.shape) for name, array in each.items()) for each in feeds]
    (usual, _), *_ = Counter(forms).most_common(1)
    return [each for each, form in zip(feeds, forms, strict=True) if form == usual]
