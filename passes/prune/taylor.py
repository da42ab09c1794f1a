"""Measures what the loss of each sample would change by without a channel, to first order: its values times their
gradients.

Where every layer that mixes channels reads through gates of 1, a gate for each channel, the loss changes by minus its
gradient with respect to the gates of a channel if these close. That is the sum over the layers and over positions of
value times gradient (Molchanov et al., arXiv 1611.06440, section 2.2), and the same as the sum over the weights that
read the channel of weight times gradient (Molchanov et al., arXiv 1906.10771, section 3.1), of which a backward pass of
a batch would give no more than the sum over its samples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common

from onnxslim.analysis.contraction import Contraction
from onnxslim.analysis.coupling import Coupling
from onnxslim.analysis.specialize import infer_at, specialize_shapes
from onnxslim.arrays import Array, Floats, Indices
from onnxslim.autodiff.expand import expand
from onnxslim.autodiff.reverse import build_gradients, graph_builder
from onnxslim.data import Batch, Samples
from onnxslim.errors import NotDifferentiable
from onnxslim.model.builder import GraphBuilder
from onnxslim.model.nesting import nodes_within
from onnxslim.observe.batches import batch_size
from onnxslim.observe.probe import run_on, truncated
from onnxslim.observe.statistics import ChannelAxis, ChannelMoments, Query, Statistic, observe
from onnxslim.ops.fact import Unknowable
from onnxslim.ops.gradient import static_shape
from onnxslim.pipeline.opset import differentiable
from onnxslim.runtime.session import OpenSession, Session
from onnxslim.train.seeds import OutputSeed, output_seeds

MOST_FORMS = 4
"""Shapes of batches that gradients are compiled for; batches of others are left out."""
HINT = "take a criterion that needs no gradients"


@dataclasses.dataclass(frozen=True)
class LossChanges:
    """By how much the loss of a sample changes without a channel, to first order, for each label."""

    magnitude: Floats
    """The mean magnitude."""
    square: Floats
    """The mean square: twice what the loss grows by on average, where it is of second order (Theis et al., arXiv
    1801.05787, equation 7)."""
    samples: int
    """Samples that they are means over."""
    labelled: bool
    """Whether the loss is that of the labels that were given."""


def loss_changes(
    model: ir.Model,
    coupling: Coupling,
    read: Sequence[Contraction],
    moments: Mapping[ChannelAxis, ChannelMoments] | None,
    samples: Samples,
    seed: int,
    open_session: OpenSession,
    *,
    labels: bool,
) -> LossChanges:
    """Return how much the loss of samples hangs on each channel.

    Args:
        model: Not changed.
        coupling: What its channels are coupled with.
        read: Its contractions.
        moments: The means of what they read, where a channel that goes leaves its mean behind; None: it leaves zeros.
        samples: Read twice or three times.
        seed: What is drawn for each sample depends on it, and on the place of the sample.
        open_session: Opens a model on the target.
        labels: Use labels where samples have some, and they fit an output. Otherwise they are drawn from the model's
            own distribution, as `onnxslim.train.seeds` says.

    Raises:
        NotDifferentiable: An op between has no gradient.
        RunError: The model does not run.
    """
    work = _LossChanges(model, coupling, read, moments or {}, samples, open_session, labels=labels)
    magnitude, square = np.zeros(coupling.labels.count), np.zeros(coupling.labels.count)
    count = place = 0
    for batch in work.batches():
        changes = work.of(batch, seed, place)
        place += batch.count
        if changes is None:
            continue
        changes = changes[np.isfinite(changes).all(axis=1)]
        magnitude += np.abs(changes).sum(axis=0)
        square += (changes**2).sum(axis=0)
        count += len(changes)
    labelled = any(each.labelled for each in work.seeds)
    return LossChanges(magnitude / max(count, 1), square / max(count, 1), count, labelled)


class _LossChanges:
    """Runs forward and back."""

    def __init__(
        self,
        model: ir.Model,
        coupling: Coupling,
        read: Sequence[Contraction],
        moments: Mapping[ChannelAxis, ChannelMoments],
        samples: Samples,
        open_session: OpenSession,
        *,
        labels: bool,
    ) -> None:
        raised = differentiable(model, HINT)
        self._model, self._coupling, self._moments = raised, coupling, moments
        self._samples, self._open = samples, open_session
        self._readers: dict[ChannelAxis, list[str]] = {}
        """The contractions that read channels and mix them, by their first outputs."""
        self._labels: dict[ChannelAxis, Indices] = {}
        for contraction in read:
            place = contraction.data.name or "", contraction.data_axis
            found = coupling.of(contraction.data, contraction.data_axis)
            mixes = contraction.channels > 1 or contraction.groups == 1  # else the output of a channel goes with it
            if mixes and found is not None:
                self._readers.setdefault(place, []).append(contraction.node.outputs[0].name or "")
                self._labels[place] = found
        self.seeds = self._seeds(labels=labels)
        if not self.seeds or not self._readers:
            raise NotDifferentiable("no output of real numbers hangs on channels that could be cut", hint=HINT)
        self._forward = open_session(truncated(raised, [each.value for each in self.seeds]))
        self._backward: dict[tuple[tuple[str, tuple[int, ...]], ...], tuple[Session, Mapping[ChannelAxis, str]]] = {}
        self._apart = self._rows_are_samples()

    def _seeds(self, *, labels: bool) -> list[OutputSeed]:
        first = next(self._samples.batches(1))
        made = run_on(self._open(self._model), first.feeds)
        given = first.labels if self._samples.labelled else None
        seeds = output_seeds(self._model.graph, made, given, {})
        drawn = [each for each in seeds if each.axis is None]
        if drawn and len(seeds) > 1:
            queries = [Query(each.value, Statistic.MEAN_SQUARE) for each in drawn]
            squares = observe(self._model, queries, self._samples, self._open)
            norms = {
                query.value: float(np.sqrt(squares[query] * made[query.value].size / first.count)) for query in queries
            }
            seeds = output_seeds(self._model.graph, made, given, norms)
        return seeds if labels else [dataclasses.replace(each, labelled=False) for each in seeds]

    def _rows_are_samples(self) -> bool:
        """Whether all values that are looked at hold a sample in each row, however many run at once."""
        if any(axis == 0 for _, axis in self._readers):
            return False
        values = _values(self._model.graph)
        names = {name for name, _ in self._readers} | {each.value for each in self.seeds}
        rows: list[list[tuple[int | None, ...]]] = []
        for size in (1, 2):
            batch = next(self._samples.batches(size))
            view = infer_at(self._model, {name: array.shape for name, array in batch.feeds.items()})
            shapes = [view.shape(values[name]) for name in names]
            if any(not shape or shape[0] != batch.count for shape in shapes):
                return False
            rows.append([tuple(shape or ())[1:] for shape in shapes])
        return rows[0] == rows[1]

    def batches(self) -> Iterator[Batch]:
        """Yield the samples, as many at once as can be told apart."""
        if not self._apart:
            return self._samples.one_by_one().batches()
        # What a forward pass makes waits for the backward pass.
        kept = {value.name or "" for node in nodes_within(self._model.graph) for value in node.outputs}
        return self._samples.batches(batch_size(self._model, self._samples, kept=kept))

    def of(self, batch: Batch, seed: int, place: int) -> Floats | None:
        """Return the changes of the samples of a batch, shape [samples, labels]; one row for all of them where they
        cannot be told apart. None: it has one shape too many."""
        compiled = self._compiled(batch.feeds)
        if compiled is None:
            return None
        session, outputs = compiled
        units = batch.count if self._apart else 1
        made = run_on(self._forward, batch.feeds)
        generators = [np.random.default_rng([seed, place + unit]) for unit in range(units)]
        seeds = {
            _seed_name(number): each(np.asarray(made[each.value]), batch.labels, generators)
            for number, each in enumerate(self.seeds)
        }
        found = run_on(session, {**batch.feeds, **seeds})
        changes = np.zeros((self._coupling.labels.count, units))
        for channels, name in outputs.items():
            labels = self._labels[channels]
            places, roots = self._coupling.labels.bases(labels)
            products = np.asarray(found[name], np.float64).reshape(units, -1)
            np.add.at(changes, roots, products.T[places])
        return changes.T

    def _compiled(self, feeds: Mapping[str, Array]) -> tuple[Session, Mapping[ChannelAxis, str]] | None:
        form = tuple((name, array.shape) for name, array in feeds.items())
        if form not in self._backward:
            if len(self._backward) >= MOST_FORMS:
                return None
            model, outputs = self._compile(dict(form))
            self._backward[form] = self._open(model), outputs
        return self._backward[form]

    def _compile(self, shapes: Mapping[str, Sequence[int]]) -> tuple[ir.Model, Mapping[ChannelAxis, str]]:
        """Return a model that makes the sums of values times gradients, and its outputs."""
        model = specialize_shapes(self._model, shapes)
        gates = self._gated(model)
        by_name = _values(model.graph)
        expand(model, [by_name[name] for name in gates.values()])
        build = graph_builder(model)
        graph, by_name = model.graph, _values(model.graph)
        seeds: dict[ir.Value, ir.Value] = {}
        for number, each in enumerate(self.seeds):
            value = by_name.get(each.value)
            if value is not None:  # else it is the same in each run
                kind = None if value.dtype is None else ir.TensorType(value.dtype)
                seeds[value] = ir.Value(name=_seed_name(number), type=kind, shape=value.shape)
                graph.inputs.append(seeds[value])
        values = {by_name[name]: channels for channels, name in gates.items() if name in by_name}
        gradients = build_gradients(build, seeds, list(values))
        if not gradients:
            raise NotDifferentiable("no output hangs on channels by ops that have a gradient", hint=HINT)
        graph.outputs.clear()
        outputs: dict[ChannelAxis, str] = {}
        for value, gradient in gradients.items():
            try:
                made = self._product(build, value, gradient, values[value])
            except Unknowable as error:
                what = f"the shape of {value.name} is not known before the model runs"
                raise NotDifferentiable(what, hint=HINT) from error
            graph.outputs.append(made)
            outputs[values[value]] = made.name or ""
        onnx_ir.passes.common.RemoveUnusedNodesPass()(model)
        return model, outputs

    def _gated(self, model: ir.Model) -> dict[ChannelAxis, str]:
        """Insert a value between what is read and those of its readers that mix channels, in place; return the names.

        Only what these read counts: what else reads the value has its own readers in turn.
        """
        build = graph_builder(model)
        producers = {output.name: node for node in model.graph for output in node.outputs}
        by_name = _values(model.graph)
        gates: dict[ChannelAxis, str] = {}
        for (name, axis), readers in self._readers.items():
            nodes = [producers[reader] for reader in readers if reader in producers]
            value = by_name.get(name)
            if value is None or not nodes:
                continue
            build.before = next(node for node in model.graph if node in nodes)
            gate = build.op("Identity", value)
            for node in nodes:
                for index, operand in enumerate(node.inputs):
                    if operand is value:
                        node.replace_input_with(index, gate)
            gates[name, axis] = gate.name or ""
        return gates

    def _product(self, build: GraphBuilder, value: ir.Value, gradient: ir.Value, channels: ChannelAxis) -> ir.Value:
        """Append the sums over positions of what a channel would lose, times its gradient."""
        axis, shape = channels[1], static_shape(value)
        moment = self._moments.get(channels)
        if moment is not None and len(moment.mean) == shape[axis]:
            assert value.dtype is not None
            mean = moment.mean.reshape([-1 if index == axis else 1 for index in range(len(shape))])
            value = build.op("Sub", value, mean.astype(value.dtype.numpy()))
        product = build.op("Mul", value, gradient)
        if product.dtype is not ir.DataType.FLOAT:
            product = build.op("Cast", product, to=int(ir.DataType.FLOAT))
        kept = {axis, 0} if self._apart else {axis}
        axes = [index for index in range(len(shape)) if index not in kept]
        return build.op("ReduceSum", product, axes, keepdims=0) if axes else build.op("Identity", product)


def _values(graph: ir.Graph) -> dict[str, ir.Value]:
    found = {value.name or "": value for value in graph.inputs}
    return found | {value.name or "": value for node in graph for value in node.outputs}


def _seed_name(number: int) -> str:
    return f"seed of output {number}"
