"""Splits the layers of a model: watches what they get, chooses ranks, and writes factors portion by portion."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.contraction import Contraction
from onnxslim.analysis.cost import measure_cost
from onnxslim.analysis.linear_layer import LinearLayer
from onnxslim.analysis.specialize import specialize_shapes
from onnxslim.arrays import Floats
from onnxslim.data import Batch
from onnxslim.errors import NotDifferentiable
from onnxslim.fit.refit import BUDGET, FEWEST, STREAMED
from onnxslim.model.edit import Editor
from onnxslim.observe.not_finite import first_not_finite
from onnxslim.observe.probe import stream_values
from onnxslim.pipeline.interface import Context, LayerChange, Note, remark
from onnxslim.pipeline.reasons import Reason

from .allocation import ErrorCost, RankRule, SplitSettings, Weighing, choose, describe, why_whole
from .attention_metric import find_comparisons
from .candidates import Positions, SplitCandidate, candidates, forms, full_ranks, nearest, shapes
from .codes import LowrankCode
from .emit import refit_whole, write
from .factors import Factorization, LayerMoments, Problem, split
from .gradient_metric import gradient_metrics
from .layer_moments import CollectedMoments, Downstream, MomentCollector, enough_rows
from .output_metric import find_readers
from .residual import find_terms
from .sensitivity import ENOUGH, SplitError, curves
from .sensitivity import FEWEST as FEWEST_TO_COMPARE
from .timing import SplitTimer

SAMPLES = 1024
"""Samples that are enough. On MiniLM 897 texts were 0.2 to 0.4 dB better than 512."""
RUNS = 3
"""Passes of a sample through the whole model: one for the spectra, two for the splits."""
DAMPING = 1e-3
"""White noise that is added to what a layer gets, relative to the mean square of an input: see
`LayerMoments.damped`."""
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
"""Dampings that are tried where a layer is fitted to make up for errors: with the least, few samples are learnt by
heart. On MiniLM with 96 sequences that lost 1 to 2 dB on others."""
PROBED = (0.5, 0.1)
"""Shares of the parameters of a layer with which it is seen what its error costs."""
MIN_SHARE, MIN_SHARE_OF_WINDOWS = 0.25, 0.125
"""A form that is not faster with this share of the parameters of a layer is not fitted: less would lose too much.
Windows have more to spare."""


@dataclasses.dataclass(frozen=True)
class _Options:
    """The splits that layers admit, whatever the strength."""

    candidates: Sequence[Sequence[SplitCandidate]]
    curves: Sequence[ErrorCost]
    """The cost of an error of each layer."""
    slow: Sequence[Reason | None]
    """For each layer the reason why no split of it is faster; None where one may be."""
    broken: Mapping[int, Reason]
    """Layers that cannot be fitted, with the reason."""


class Splitting:
    """Splits the layers of one model that may be split, given in the order of the graph, in place.

    Raises:
        RunError: The model does not run on the calibration samples.
    """

    def __init__(
        self, settings: SplitSettings, model: ir.Model, layers: Sequence[LinearLayer], context: Context
    ) -> None:
        self._settings, self._model, self.layers, self._context = settings, model, layers, context
        self.notes: list[Note] = []
        self._curves: Sequence[ErrorCost] = curves({}, len(layers))
        """The cost of an error of each layer."""
        self.broken: dict[int, Reason] = {}
        """Layers that infinities or NaNs reach, and where these begin."""
        self.changes: list[LayerChange] = []
        """A row for each rank of each layer that was split."""
        self._learns = settings.whiten and not context.samples.synthetic
        if context.samples.synthetic:
            reason = "samples that were made up say nothing about activations"
            self.notes.append(remark("ranks", "by the weights alone", reason))
        first = context.samples.first()
        names = {use.data.name or "" for layer in layers for use in layer.uses}
        names |= {use.node.outputs[0].name or "" for layer in layers for use in layer.uses}
        self._shapes = {name: np.shape(array) for name, array in first.items()}
        sized = specialize_shapes(model, self._shapes)
        cost = measure_cost(sized)
        self._macs = cost.macs
        _, values = next(stream_values(model, names, [Batch(first)], context.open_session))
        self._shapes.update({name: np.shape(array) for name, array in values.items()})
        self._downstream = Downstream()
        self._metrics: Mapping[str, Floats] = {}
        """Metrics of the outputs of layers, by name, that are known before what these get is."""
        if self._learns:
            graph = model.graph
            if settings.weighing is Weighing.GRADIENTS:
                self._metrics = self._by_gradients()
            near = [layer for layer in layers if layer.name not in self._metrics]
            products = find_comparisons(graph, near)
            self._downstream = Downstream(find_readers(graph, near), products, find_terms(layers))
        self._timer = SplitTimer(context, model, self._shapes)
        self._slow: list[Reason | None] = [None] * len(layers)
        """For each layer the reason why no split of it is faster; None where one may be."""
        most = min(SAMPLES, context.samples.count)
        # Where a sample is many rows (tokens, windows), fewer samples say as much.
        self.count = min(most, max(FEWEST, *(self._needed(layer) for layer in layers)))
        # What of a sample is alive in the model, and in the original, is held.
        affordable = min(BUDGET / max(RUNS * cost.macs, 1), STREAMED / max(cost.peak_activation_bytes, 1))
        self.count = min(self.count, max(FEWEST, int(affordable)))
        self._samples = context.draw(self.count, "lowrank: second moments")

    def _by_gradients(self) -> Mapping[str, Floats]:
        """Return the metrics of `gradient_metrics`; none where ops have no gradient, which is told."""
        context, layers = self._context, self.layers
        try:
            key = ("gradient metrics", tuple(layer.name for layer in layers))
            found = context.observed(key, lambda: gradient_metrics(self._model, layers, self._macs, context))
        except NotDifferentiable as error:
            self.notes.append(remark("errors", f"weighed as {Weighing.LOCAL.value} does", str(error)))
            return {}
        others = "" if len(found) == len(layers) else "others have windows, several uses, or few gradients"
        self.notes.append(remark("errors", f"weighed by gradients for {len(found)} of {len(layers)} layers", others))
        return found

    def _needed(self, layer: LinearLayer) -> int:
        """Return how many samples have enough rows for a layer."""
        return math.ceil(enough_rows(layer) / max(self._places(layer), 1))

    def _places(self, layer: LinearLayer, use: Contraction | None = None) -> int:
        """Return the number of positions that a layer, or one use of it, is applied to in one sample."""
        result = self._shapes[(use or layer.uses[0]).node.outputs[0].name or ""]
        return int(np.prod(result)) // layer.outputs

    def _positions(self, layer: LinearLayer) -> Positions:
        if not layer.kernel:
            return Positions(1, 1, 1)
        use = layer.uses[0]
        data, result = self._shapes[use.data.name or ""], self._shapes[use.node.outputs[0].name or ""]
        between = [*result[2:3], *data[3:]]
        return Positions(int(np.prod(data[2:])), int(np.prod(result[2:])), int(np.prod(between)))

    def _problem(self, layer: LinearLayer, moments: CollectedMoments | None) -> Problem:
        weight = layer.matrix()
        if moments is None:
            return Problem(LayerMoments.plain(weight), layer.kernel)
        whole = moments.joined().moments(layer)
        if not np.isfinite(whole.energy):
            return Problem(whole, layer.kernel)
        metric = self._metrics.get(layer.name, moments.joined().metric)
        if metric is not None and not np.isfinite(metric).all():
            metric = None
        if moments.aside is None or not moments.aside.rows or not moments.rows:
            return Problem(whole.damped(weight, DAMPING), layer.kernel, metric)
        strength = _carries_over(moments.moments(layer), moments.aside.moments(layer), weight)
        if strength is None:
            whole = LayerMoments(whole.gram, whole.gram @ weight, float(np.vdot(weight, whole.gram @ weight)))
        return Problem(whole.damped(weight, strength or DAMPING), layer.kernel, metric)

    def options(self) -> Sequence[Sequence[SplitCandidate]]:
        """Return the splits that each layer admits; none for layers that would be no faster."""
        target = self._settings.target
        depends = target.amount if target.rule is RankRule.RANK else None  # the form that is timed is near that rank
        found = self._context.observed(("splits", depends), self._options)
        self._curves, self._slow, self.broken = found.curves, list(found.slow), dict(found.broken)
        return found.candidates

    def _options(self) -> _Options:
        result: list[list[SplitCandidate]] = [[] for _ in self.layers]
        measured: dict[int, list[tuple[float, float]]] = {}
        allowed = self._forms_worth_fitting()
        sensitivity = self._sensitivity()
        places = {layer.name: index for index, layer in enumerate(self.layers)}
        worth = [layer for layer, splits in zip(self.layers, allowed, strict=True) if splits]
        collector = self._collector(None)
        for done, (layer, moments) in enumerate(_with_moments(collector, worth), start=1):
            index = places[layer.name]
            problem = self._problem(layer, moments)
            if not np.isfinite(problem.moments.energy):
                self.broken[index] = next(iter(self.broken.values()), None) or self._where_not_finite()
                continue
            splits = candidates(
                layer,
                problem,
                allowed[index],
                self._settings.align,
                self._positions(layer),
                exact=self._learns,
                more_macs=self._settings.size,
                most=self._settings.target.most_error,
            )
            if sensitivity is not None and splits:
                measured[index] = []
                for candidate in (nearest(splits, round(share * layer.parameters)) for share in PROBED):
                    made = split(problem, candidate.form, candidate.ranks)
                    cost = sensitivity(layer, made, _biases(layer, moments, made.dense))
                    measured[index].append((problem.loss(made.dense), cost))
            result[index] = splits
            self._context.progress("lowrank: spectra", done, len(worth))
        return _Options(result, curves(measured, len(result)), self._slow, self.broken)

    def _where_not_finite(self) -> Reason:
        begins = first_not_finite(self._model, self._samples, self._context.open_session)
        return Reason(LowrankCode.NOT_FINITE, ("" if begins is None else f": {begins}",))

    def _forms_worth_fitting(self) -> list[tuple[Factorization, ...]]:
        """Return for each layer the forms that are faster with few parameters, by their shapes alone.

        Timing takes far less than second moments and spectra: forms that cannot be faster need neither.
        """
        settings = self._settings
        probes: list[tuple[int, SplitCandidate]] = []
        for index, layer in enumerate(self.layers):
            for form in forms(layer):
                candidates = shapes(layer, form, settings.align, self._positions(layer), more_macs=settings.size)
                if form in settings.forms and candidates:
                    probes.append((index, min(candidates, key=lambda candidate: self._distance(layer, candidate))))
        slower: list[Reason | None] = [None] * len(probes)
        if not settings.size:
            probed = [self.layers[index] for index, _ in probes]
            slower = self._timer.slower(probed, [candidate for _, candidate in probes])
        allowed: list[tuple[Factorization, ...]] = [()] * len(self.layers)
        for (index, candidate), reason in zip(probes, slower, strict=True):
            if reason is None:
                allowed[index] += (candidate.form,)
            if reason is None or not allowed[index]:
                self._slow[index] = reason
        return allowed

    def _distance(self, layer: LinearLayer, candidate: SplitCandidate) -> float:
        """Return how far a split is from the one that is timed to see whether its form is worth fitting."""
        if self._settings.target.rule is RankRule.RANK:
            return abs(candidate.share - self._settings.target.amount)
        share = MIN_SHARE_OF_WINDOWS if math.prod(layer.kernel) > 1 else MIN_SHARE
        return abs(candidate.parameters - share * layer.parameters)

    def _sensitivity(self) -> SplitError | None:
        """Return a measure of the error of the outputs, where layers share one budget and time allows it."""
        affordable = int(BUDGET / max(len(PROBED) * len(self.layers) * self._macs, 1))
        wanted = self._settings.sensitivity and self._settings.target.rule is RankRule.PARAMS
        if not self._learns or not wanted or affordable < FEWEST_TO_COMPARE:
            return None
        few = self._context.draw(min(ENOUGH, affordable), "lowrank: sensitivity")
        return SplitError(self._model, few, self._context.open_session)

    def choose(
        self, options: Sequence[Sequence[SplitCandidate]]
    ) -> tuple[list[SplitCandidate | None], list[Reason | None]]:
        """Return the split of each layer, None where it stays whole, and the reason for that."""
        slow, parameters = list(self._slow), [layer.parameters for layer in self.layers]
        allowed = [list(candidates) for candidates in options]
        while True:
            chosen = choose(parameters, allowed, self._settings.target, self._curves)
            slower = [] if self._settings.size else self._timer.slower(self.layers, chosen)
            if not any(slower):
                break
            for index, (candidate, reason) in enumerate(zip(chosen, slower, strict=True)):
                if candidate is None or reason is None:
                    continue
                slow[index] = reason
                # A larger split of the same form takes longer still; one that is hardly smaller is not worth the time.
                allowed[index] = [
                    smaller
                    for smaller in allowed[index]
                    if reason.code is LowrankCode.NOT_FASTER
                    and (smaller.form is not candidate.form or smaller.parameters < 0.9 * candidate.parameters)
                ]
        reasons: list[Reason | None] = [None] * len(chosen)
        for index, layer in enumerate(self.layers):
            if chosen[index] is None:
                reasons[index] = slow[index] or self.broken.get(index) or self._why_whole(layer, options[index])
        return chosen, reasons

    def _why_whole(self, layer: LinearLayer, candidates: Sequence[SplitCandidate]) -> Reason:
        known = forms(layer)
        if not set(known) & set(self._settings.forms):
            return Reason(LowrankCode.KINDS, (", ".join(form.value for form in known),))
        return why_whole(candidates, self._settings.target, self._settings.align)

    def split(self, chosen: Sequence[tuple[LinearLayer, SplitCandidate]]) -> list[Note]:
        """Split layers one after the other, each for what it gets now and what it gave before; with recovery, layers
        behind the first split that stay whole are fitted as well."""
        notes: list[Note] = []
        wanted = {layer.name: candidate for layer, candidate in chosen}
        unfit = {self.layers[index].name for index in self.broken}
        collector = self._collector(self._model.clone() if self._learns else None)
        work = [layer for layer, _ in chosen]
        if collector is not None and self._settings.recover:
            ordered = collector.order(self.layers)
            first = next(at for at, layer in enumerate(ordered) if layer.name in wanted)
            work = [layer for layer in ordered[first:] if layer.name not in unfit]
        editor, fitted = Editor(self._model), 0
        for layer, moments in _with_moments(collector, work):
            candidate = wanted.get(layer.name)
            problem = self._problem(layer, moments)
            if candidate is None:
                refit_whole(editor, layer, problem.best, _biases(layer, moments, problem.best))
                fitted += 1
                continue
            made = split(problem, candidate.form, candidate.ranks)
            write(editor, layer, made, _biases(layer, moments, made.dense))
            kept = f"{1 - problem.loss(made.dense):.2%} of its output retained"
            if moments is not None and not moments.joined().rows:
                kept = "by its weights alone: the rows that it gets are not those that it got before"
            notes.append(Note(layer.name, describe(layer.parameters, candidate), kept))
            self.changes += self._change(layer, candidate)
            self._context.progress("lowrank: splits", len(notes), len(chosen))
        if self._learns:
            whole = f", and {fitted} whole weights with them" if self._settings.recover else ""
            rows = min(self.count * self._places(layer) / layer.columns for layer in work)
            few = "" if rows >= 1 else "few: there are layers with more inputs than rows, fitted to these samples alone"
            notes.append(remark("factors", f"fitted on {self.count} samples{whole}", few))
        return notes

    def _change(self, layer: LinearLayer, candidate: SplitCandidate) -> list[LayerChange]:
        work = layer.parameters * sum(self._places(layer, use) for use in layer.uses)
        return [
            LayerChange(layer.name, layer.node.op_type, quantity, before, after, work, round(candidate.macs * work))
            for (quantity, before), after in zip(full_ranks(layer, candidate.form), candidate.ranks, strict=True)
        ]

    def _collector(self, before: ir.Model | None) -> MomentCollector | None:
        """Return the collector of moments; None where nothing is learnt from samples."""
        context = self._context
        if not self._learns:
            return None
        return MomentCollector(
            self._model,
            before,
            self._samples,
            context.generator,
            context.open_session,
            self._downstream,
        )


def _with_moments(
    collector: MomentCollector | None, layers: Sequence[LinearLayer]
) -> Iterable[tuple[LinearLayer, CollectedMoments | None]]:
    return [(layer, None) for layer in layers] if collector is None else collector.each(collector.order(layers))


def _carries_over(fitted: LayerMoments, aside: LayerMoments, weight: Floats) -> float | None:
    """Return the damping with which a fit to some samples serves others best; None where the weight as it is serves
    them better still."""
    best, least = None, aside.loss(weight)
    for strength in STRENGTHS:
        damped = fitted.damped(weight, strength)
        lost = aside.loss(np.asarray(np.linalg.solve(damped.gram, damped.cross), np.float64))
        if lost < least:
            best, least = strength, lost
    return best


def _biases(layer: LinearLayer, moments: CollectedMoments | None, dense: Floats) -> list[Floats | None]:
    """Return for each use the bias with which the mean of the output is right; None where it stays as it is."""
    if moments is None:
        return [None] * len(layer.uses)
    result: list[Floats | None] = []
    total = moments.joined()
    for use, (inputs, outputs), (_, _, rows) in zip(layer.uses, total.means(), total.sums, strict=True):
        bias = use.bias
        present = None if bias is None else bias.vector
        if bias is None or present is None or not rows:
            result.append(None)
            continue
        wanted = outputs - inputs @ dense
        result.append(wanted if bias.own else wanted + present)
    return result
