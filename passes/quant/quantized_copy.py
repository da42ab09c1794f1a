"""Quantizes a copy of a model, to see on samples what scales, weights and biases cost the outputs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import onnx_ir as ir

from onnxslim.data import Samples
from onnxslim.observe.probe import run_on
from onnxslim.observe.sensitivity import OutputDeviation
from onnxslim.pipeline.interface import Context

from .insert import insert
from .parameters import Parameters
from .plan import QuantPlan, ScaleGroup
from .scales import ScaleChoice
from .site import QuantSite
from .table import Int8Table


@dataclasses.dataclass(frozen=True)
class JudgedScales:
    """A choice of scales, and what it costs the outputs."""

    scales: ScaleChoice
    error: float
    """As a share of their energy; NaN where it was the only one, and nobody asked."""
    varying: float = 0.0
    """The share of their energy by which samples differ, see `OutputDeviation`."""


PRODUCTS = 5e11
"""Multiply-accumulates that the trials may take together."""
SAMPLES = (4, 256)
"""Samples that tell one choice from another: at least, and at most. Fewer do not: errors of samples differ widely."""
HELD = 100_000_000
"""Bytes of samples that are held for that."""


class QuantizedCopies:
    """Quantized copies of a model, which itself is not changed, each by another plan or with other parameters.

    Args:
        model: The float model, with types and shapes.
        table: Of the target.
        macs: Multiply-accumulates of one run.
        trials: How many copies will be tried: it limits the samples.
        samples: What the copies run on.
        context: The context of the pass.

    Raises:
        RunError: The model does not run on the samples.
    """

    def __init__(
        self,
        model: ir.Model,
        table: Int8Table,
        macs: int,
        trials: int,
        samples: Samples,
        context: Context,
    ) -> None:
        self._model, self._table, self._context = model, table, context
        least, most = SAMPLES
        first = next(samples.batches())
        held = HELD * first.count / max(sum(array.nbytes for array in first.feeds.values()), 1)
        few = samples.draw(int(max(least, min(most, held, PRODUCTS / max(macs * trials, 1)))))
        self._error = OutputDeviation.on(model, few, context.open_session, context.samples)

    @property
    def varying(self) -> float:
        """The share of the energy of the outputs by which the samples differ, see `OutputDeviation`."""
        return self._error.varying

    def error(self, plan: QuantPlan, parameters: Parameters) -> float:
        """Return the energy of the error of the outputs where everything of a plan is quantized, as a share of theirs.

        Raises:
            RunError: The copy does not run.
        """
        copy = quantized_copy(self._model, plan, parameters, self._table)
        return self._error(functools.partial(run_on, self._context.open_session(copy)))


def quantized_copy(model: ir.Model, plan: QuantPlan, parameters: Parameters, table: Int8Table) -> ir.Model:
    """Return a copy of a model, in which everything of a plan is quantized; see `QuantizedCopies`."""
    copy = model.clone()
    nodes = dict(zip(model.graph, copy.graph, strict=True))
    weights = {nodes[node]: weight for node, weight in parameters.weights.items()}
    biases = {nodes[node]: bias for node, bias in parameters.biases.items()}
    plan = moved(plan, nodes)
    insert(copy, plan, plan.scales(parameters.choice), weights, biases, table)
    return copy


def moved(plan: QuantPlan, nodes: Mapping[ir.Node, ir.Node]) -> QuantPlan:
    """Return a plan for a copy of its model, whose nodes are given for those of the model."""
    values: dict[ir.Value, ir.Value] = {}
    for node, copy in nodes.items():
        pairs = (*zip(node.inputs, copy.inputs, strict=True), *zip(node.outputs, copy.outputs, strict=True))
        values.update((value, own) for value, own in pairs if value is not None and own is not None)

    def of_copy(site: QuantSite) -> QuantSite:
        product = site.product
        if product is not None:
            fitted = dataclasses.replace(product.fitted, node=nodes[product.node])
            product = dataclasses.replace(
                product, fitted=fitted, data=values[product.data], weight=values[product.weight]
            )
        clamp = None if site.clamp is None else nodes[site.clamp]
        return dataclasses.replace(site, node=nodes[site.node], product=product, clamp=clamp)

    groups = (
        ScaleGroup(values[group.source], tuple(values[member] for member in group.members)) for group in plan.groups
    )
    last = frozenset(nodes[node] for node in plan.last)
    return dataclasses.replace(plan, sites=tuple(map(of_copy, plan.sites)), groups=tuple(groups), last=last)
