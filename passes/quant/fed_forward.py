"""Fits a quantized model, layer after layer, to what the float model gave: what a layer lost the next ones make up for.

Each weight is regressed on what its layer reads by now, and rounded anew by the moments of that; the bias then takes
back the mean error of what the layer gives. So errors of activations are corrected, and not just those of weights, and
they do not add up along the model. Layers that the outputs are made of without another product stay as they are: a
detector reads its scores at few places, and the mean over all of them is that of the background.

Sources: Li et al., "GPTAQ: Efficient finetuning-free quantization for asymmetric calibration" (ICML 2025), for the
regression before rounding; Nagel et al., "Data-free quantization through weight equalization and bias correction" (ICCV
2019), appendix, for biases that are corrected one after the other on samples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.contraction import Contraction, contractions
from onnxslim.analysis.cost import measure_cost
from onnxslim.analysis.specialize import specialize_shapes
from onnxslim.arrays import Array, Floats, Singles
from onnxslim.data import Samples
from onnxslim.fit.refit import FitTarget, enough, target_of
from onnxslim.fit.ridge import RidgeRegression, Solution, predict
from onnxslim.model.edit import Editor, new_initializer, overwrite
from onnxslim.observe.batches import held_batches
from onnxslim.observe.gram import Sums, joined_moments
from onnxslim.observe.rows import choose_places, correspond, input_rows, output_rows, place_count
from onnxslim.observe.stream import Stream
from onnxslim.pipeline.interface import Context, Note, remark

from .fitted import can_be_fitted, rounded_to
from .insert import insert_between_floats
from .parameters import Parameters, WeightSettings
from .plan import QuantPlan
from .quantized_copy import QuantizedCopies, moved
from .site import QuantSite
from .table import Int8Table
from .weights import QuantizedWeight

ROWS = 8
"""Rows for each column; with fewer the regression fits these rows, and nothing else."""
COLUMNS = 2304
"""Layers with more columns keep their weights, and have their biases fitted."""
SAMPLES = 128
"""Samples at most."""
MUCH = 2e-3
"""Error of the outputs, as a share of their energy, below which nothing is fed forward: what a layer reads then tells
too little of what was lost before it."""


@dataclasses.dataclass(frozen=True)
class FittedLayer:
    """What a layer that is quantized multiplies by and adds."""

    weight: QuantizedWeight
    bias: Floats


@dataclasses.dataclass(frozen=True)
class FedLayers:
    """Layers that make up for what those in front of them lose."""

    layers: Mapping[str, FittedLayer]
    """By the keys of their sites."""
    left: float = 1.0
    """The error of the outputs on samples that were set apart, as a share of that without them."""

    @property
    def notes(self) -> list[Note]:
        """What is told of them."""
        told = f"the error of the outputs is {1 - self.left:.0%} smaller on samples that were set apart"
        return [remark("layers", f"{len(self.layers)} make up for those in front", told)] if self.layers else []

    def within(self, plan: QuantPlan, given: Parameters) -> Parameters:
        """Return the parameters of a plan, theirs in place of those given."""
        found = {site.node: self.layers[site.key] for site in plan.sites if site.key in self.layers}
        weights = {**given.weights, **{node: layer.weight for node, layer in found.items()}}
        biases = {**given.biases, **{node: layer.bias for node, layer in found.items()}}
        return dataclasses.replace(given, weights=weights, biases=biases)


@dataclasses.dataclass(frozen=True)
class _Step:
    """One layer: in the float model, and in the quantized one."""

    site: QuantSite
    copy: QuantSite
    product: Contraction
    axis: int
    """Of the channels of what it makes."""
    start: int
    """Where it is in the quantized model."""
    target: FitTarget


def fed_where_better(
    model: ir.Model,
    plan: QuantPlan,
    given: Parameters,
    table: Int8Table,
    settings: WeightSettings,
    seen: Samples,
    others: Samples,
    context: Context,
) -> FedLayers:
    """Return what `fed_forward` makes of samples where it costs the outputs less on others; else nothing.

    Raises:
        RunError: A model does not run on the samples.
    """
    sizes = {name: np.shape(array) for name, array in seen.first().items()}
    cost = measure_cost(specialize_shapes(model, sizes))
    count = enough(seen.count, cost.macs, 2 * cost.peak_activation_bytes)
    if others is seen or not count:
        return FedLayers({})
    few = seen.draw(min(count, SAMPLES), np.random.default_rng(context.seed))
    fed = FedLayers(fed_forward(model, plan, given, table, settings, few, context))
    copies = QuantizedCopies(model, table, cost.macs, 2, others, context)
    before, after = copies.error(plan, given), copies.error(plan, fed.within(plan, given))
    return dataclasses.replace(fed, left=after / before) if after < before else FedLayers({})


def fed_forward(
    model: ir.Model,
    plan: QuantPlan,
    given: Parameters,
    table: Int8Table,
    settings: WeightSettings,
    samples: Samples,
    context: Context,
) -> dict[str, FittedLayer]:
    """Return the parameters of sites, by their keys; those of the others stay.

    Args:
        model: The float model, with types and shapes; it is not changed.
        plan: What is quantized.
        given: Scales, and the weights and biases to start from.
        table: Of the target.
        settings: How weights are quantized.
        samples: All are used, and values of all are held between two layers.
        context: The context of the pass.

    Raises:
        RunError: A model does not run on the samples.
        ValuesNotFinite: A layer reads values that are not finite.
    """
    weights, biases = given.weights, given.biases
    copy = model.clone()
    nodes = dict(zip(model.graph, copy.graph, strict=True))
    copied = moved(plan, nodes)
    editor = Editor(copy)
    for site in plan.sites:
        _write(editor, nodes[site.node], site, weights.get(site.node), biases.get(site.node))
    insert_between_floats(copy, copied, copied.scales(given.choice), table)
    batches = held_batches(model, samples)
    now, then = Stream(copy, batches, context.open_session), Stream(model, batches, context.open_session)
    made = {value.name or "": index for index, node in enumerate(then.order) for value in node.outputs}
    steps = _steps(model, plan, copied, now.order, made, biases)
    found: dict[str, FittedLayer] = {}
    for done, step in enumerate(steps):
        later = [each.target for each in steps[done:]]
        now.advance(step.start, {target.less for target in later if target.less is not None})
        then.advance(made[step.target.name] + 1, {target.name for target in later})
        node, bias = step.copy.node, biases[step.site.node]
        weight = weights[step.site.node]
        if can_be_fitted(step.site, settings) and step.product.columns <= COLUMNS:
            weight = _weight(step, weight, bias, now, then, settings, context.generator)
            stored = node.inputs[step.product.weight_index]
            assert stored is not None
            overwrite(stored, weight.dequantized())
        bias = bias + _mean_error(step, now, then)
        index = step.product.bias_index
        stored = None if index is None else node.inputs[index]
        assert stored is not None, "the site has a bias"
        overwrite(stored, bias)
        found[step.site.key] = FittedLayer(weight, bias)
        context.progress("quant: feeding errors forward", done + 1, len(steps))
    return found


def _write(
    editor: Editor,
    node: ir.Node,
    site: QuantSite,
    weight: QuantizedWeight | None,
    bias: Floats | None,
) -> None:
    """Give a node of the copy a weight and a bias of its own, as floats."""
    if site.product is None or weight is None:
        return
    node.replace_input_with(site.product.weight_index, _own(editor, weight.dequantized()))
    if bias is not None and site.product.bias_index is not None:
        node.replace_input_with(site.product.bias_index, _own(editor, bias))


def _own(editor: Editor, array: Floats | Singles) -> ir.Value:
    return new_initializer(editor.graph, editor.numbered("w"), array.astype(np.float32))


def _steps(
    model: ir.Model,
    plan: QuantPlan,
    copied: QuantPlan,
    order: Sequence[ir.Node],
    made: Mapping[str, int],
    biases: Mapping[ir.Node, Floats],
) -> list[_Step]:
    """Return the layers to fit, in the order in which they run."""
    place = {node: index for index, node in enumerate(order)}
    inner = _inner_products(model)
    steps: list[_Step] = []
    for site, own in zip(plan.sites, copied.sites, strict=True):
        product = site.product
        if product is None or own.product is None or site.node not in biases or site.node not in inner:
            continue
        if product.plain and product.regular and product.output_axis is not None and own.node in place:
            start = place[own.node]
            target = target_of(own.product, set(order[:start]), made)
            if target.name in made:
                steps.append(_Step(site, own, product, product.output_axis, start, target))
    return sorted(steps, key=lambda step: step.start)


def _inner_products(model: ir.Model) -> set[ir.Node]:
    """Return the products all of whose ways to the outputs lead through another product."""
    products = {contraction.node for contraction in contractions(model.graph)}
    last: set[ir.Node] = set()
    for node in reversed(list(model.graph)):
        readers = [use.node for output in node.outputs for use in output.uses()]
        exposed = any(output.is_graph_output() for output in node.outputs)
        if exposed or any(reader in last and reader not in products for reader in readers):
            last.add(node)
    return products - last


def _weight(
    step: _Step,
    weight: QuantizedWeight,
    bias: Floats,
    now: Stream,
    then: Stream,
    settings: WeightSettings,
    generator: np.random.Generator,
) -> QuantizedWeight:
    """Return a weight that makes of what the layer reads now what it made then, as far as its levels allow."""
    product, blocks = step.product, step.product.blocks()
    present = Solution(blocks, bias.reshape(blocks.shape[0], -1))
    count = sum(now.counts)
    wanted = ROWS * product.columns
    inputs: list[Singles] = []
    missing: list[Singles] = []
    for data, result, less in _batches(step, now, then):
        if not correspond(product, data, result):
            continue
        share = -(-wanted // count) * (1 if product.kernel else len(data))
        places = choose_places(place_count(product, data), share, generator)
        rows = input_rows(product, data, places)
        lost = output_rows(product, result, step.axis, places) - predict(rows, present)
        if less is not None:
            lost = lost - output_rows(product, less, step.axis, places)
        inputs.append(rows)
        missing.append(lost)
    if not inputs:
        return weight
    regression = RidgeRegression(inputs, intercept=True)
    strength = regression.strength(missing)
    if np.isfinite(strength):
        blocks = blocks + regression.solve(missing, strength).weights
    groups, columns, _ = blocks.shape
    sums = Sums(np.zeros((groups, columns, columns)), np.zeros((groups, columns)))
    for rows in inputs:
        sums.add(rows)
    return rounded_to(weight, step.site, blocks, joined_moments([sums], about_mean=True), settings)


def _mean_error(step: _Step, now: Stream, then: Stream) -> Floats:
    """Return what the layer gives too little on average, shape [outputs]: over all places, borders included."""
    total, count = np.zeros(step.product.outputs), 0
    given = now.ahead(step.copy.key)
    for (_, result, less), output in zip(_batches(step, now, then), given, strict=True):
        lost = result.astype(np.float64) - output
        lost = np.moveaxis(lost if less is None else lost - less, step.axis, 0).reshape(len(total), -1)
        total += lost.sum(axis=1)
        count += lost.shape[1]
    return total / max(count, 1)


def _batches(step: _Step, now: Stream, then: Stream) -> Iterator[tuple[Array, Array, Array | None]]:
    """Yield, batch by batch, what the layer reads now, what it is fitted to, and what is to be taken off that."""
    data = now[step.copy.operands()[0].name or ""]
    for index, result in enumerate(then[step.target.name]):
        yield data[index], result, None if step.target.less is None else now[step.target.less][index]
