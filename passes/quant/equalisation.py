"""Chooses factors of channels so that int8 costs the outputs less: the channels of a tensor become equally wide.

A tensor has one scale, that of its widest channel, and rounds all others with steps of that size. A factor on a channel
that the weights behind it take back (`onnxslim.analysis.rescaling`) lets a narrow one use more levels; what that costs
the weights that take it back is in the sum that is minimised: for each tensor and each weight its measured share of the
error, times what factors make of its expected squared error. The unknowns are logarithms of factors, and a norm of high
order stands for the largest of many numbers, so that the sum is smooth; L-BFGS finds its minimum.

Where samples mean nothing the ranges of weights are balanced, which needs none (Nagel et al., "Data-free quantization
through weight equalization and bias correction", ICCV 2019); along a residual stream each channel gets the mean over
all weights that make it and all that read it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType

import numpy as np
import onnx_ir as ir
import scipy.optimize

from onnxslim.analysis.rescaling import Rescaling, rescaling
from onnxslim.analysis.shared_vectors import retie_vectors, untie_vectors
from onnxslim.arrays import Floats, Indices
from onnxslim.data import Samples
from onnxslim.observe.statistics import EXPONENT, Power, Query, Statistic, observe
from onnxslim.runtime.session import OpenSession

from .channel_weights import ChannelWeights
from .insertion import Insertion
from .plan import QuantPlan
from .scales import ScaleChoice
from .sensitivity import PartErrors

STEPS = 200
"""Of L-BFGS at most: later ones lower the sum by less than a thousandth."""
PULL = 1e-3
"""How much the mean square of the logarithms of factors counts, as a share of the sum: channels that nothing asks to
change stay as they are."""
NARROWEST = 1e-3
"""A channel is taken to be as wide as this share of the widest, at least: of dead ones the logarithm is not finite."""
ROUNDS = 10
"""Of balancing weights: balancing a channel changes the ranges of its neighbours."""
WIDEST = 1e4
"""Of factors where weights are balanced: weights of zero would ask for infinite ones."""


LEAST = 1e-7
"""How much any channel counts, at least, of 1 in all."""
WORTHWHILE = 0.97
"""The share of the error that may be left, at most, so that equalising is worth its time: what is measured on other
samples moves by some per cent."""
WORTH_INSERTING = 0.8
"""The same where multiplications are inserted, which take time in every run: 1 dB."""


@dataclasses.dataclass(frozen=True)
class _TensorTerm:
    """The error that rounding a tensor brings, up to a constant: the square of its range, times how much its channels
    count together once their factors are taken back."""

    places: Indices
    """Of each channel its place among the unknowns, -1 where it is fixed; shape [channels]."""
    sides: tuple[Floats, ...]
    """The width of each channel above zero, and below; of both together where levels are symmetric."""
    counts: Floats
    """How much an error in each channel counts, shape [channels]."""
    share: float
    """What rounding the tensor alone brings now."""

    def error(self, unknowns: Floats) -> tuple[float, Floats]:
        """Return the error, and its derivative by the unknown of each channel."""
        logs = _logs(self.places, unknowns)
        width, slope = 0.0, np.zeros_like(logs)
        for side in self.sides:
            widths = np.log(np.maximum(side, side.max() * NARROWEST)) + logs
            top = widths.max()
            powers = np.exp(EXPONENT * (widths - top))
            norm = np.exp(top) * powers.sum() ** (1 / EXPONENT)
            width += norm
            slope += norm * powers / powers.sum()
        counts = self.counts * np.exp(-2 * logs)
        error = width**2 * counts.sum()
        return float(error), error * 2 * (slope / width - counts / counts.sum())


@dataclasses.dataclass(frozen=True)
class _WeightTerm:
    """The error that rounding a weight brings, up to a constant: for each output the square of its step, times the
    energy of what it reads. Factors of outputs change the steps and what errors count alike, and cancel."""

    places: Indices
    """Of what each channel reads its place among the unknowns, -1 where it is fixed; shape [groups, channels]."""
    largest: Floats
    """The largest weight between each channel and each output, shape [groups, channels, outputs]."""
    energy: Floats
    """The mean square of each channel, shape [groups, channels]."""
    counts: Floats
    """How much an error of each output counts, shape [groups, outputs]."""
    share: float
    """What rounding the weight alone brings now."""

    def error(self, unknowns: Floats) -> tuple[float, Floats]:
        """Return the error, and its derivative by the unknown of each channel, shape [groups, channels]."""
        logs = _logs(self.places, unknowns)
        scaled = self.largest * np.exp(-logs)[:, :, None]
        top = np.maximum(scaled.max(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        powers = (scaled / top) ** EXPONENT
        total = np.maximum(powers.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        steps = self.counts * (top * total ** (1 / EXPONENT))[:, 0] ** 2
        energy = self.energy * np.exp(2 * logs)
        of_steps, of_energy = steps.sum(axis=1, keepdims=True), energy.sum(axis=1, keepdims=True)
        parts = np.einsum("gco,go->gc", powers / total, steps)
        return float((of_steps * of_energy).sum()), 2 * (energy * of_steps - parts * of_energy)


_Term = _TensorTerm | _WeightTerm


def _logs(places: Indices, unknowns: Floats) -> Floats:
    return np.where(places >= 0, unknowns[places], 0.0)


@dataclasses.dataclass(frozen=True)
class Factors:
    """Factors of channels, and what they are expected to bring."""

    of_labels: Floats
    """For each label of a `Rescaling`."""
    left: float
    """The share of the error that is expected to be left."""
    inserted: Mapping[str, Insertion] = dataclasses.field(default_factory=dict)
    """The multiplications that the labels belong to, see `EqualChannels`."""


class EqualChannels:
    """A copy of a model whose channels can be scaled.

    Args:
        model: It is not changed. Its shapes must be known.
        fixed: Values that keep their numbers, by name.
        inserted: Values in front of whose readers a multiplication by a factor for each channel is inserted, by name.
    """

    def __init__(
        self, model: ir.Model, fixed: Collection[str] = (), inserted: Mapping[str, Insertion] = MappingProxyType({})
    ) -> None:
        self._copy = model.clone()
        self._untied = untie_vectors(self._copy)
        self.scaled_names = {name: insertion.insert(self._copy, name) for name, insertion in inserted.items()}
        """The names of what the multiplications make, by those of what they read."""
        self.inserted = inserted
        self.found = rescaling(self._copy, fixed)
        """The channels of the copy."""
        self.count = len(self.found.roots)
        """How many channels have a factor of their own."""

    def scaled(self, factors: Factors) -> ir.Model:
        """Return the copy with its channels scaled; it can be had once."""
        self.found.apply(factors.of_labels)
        retie_vectors(self._copy, self._untied)
        return self._copy


def fitted_factors(
    channels: EqualChannels,
    plan: QuantPlan,
    errors: PartErrors,
    scales: ScaleChoice,
    symmetric: bool,
    samples: Samples,
    open_session: OpenSession,
) -> Factors:
    """Return the factors that make the expected error of int8 least.

    Args:
        channels: What may be scaled.
        plan: What is quantized of the model.
        errors: What each tensor and each weight of it brings.
        scales: What they were measured with.
        symmetric: Whether zero is the level in the middle.
        samples: What widths are observed on.
        open_session: Opens a model on the target.

    Raises:
        RunError: The model does not run on the samples.
    """
    found = channels.found
    factors = np.ones(found.coupling.labels.count)
    roots = found.roots
    zeros = np.zeros(len(roots))
    terms: list[tuple[float, _Term]] = []
    for term in _terms(channels, plan, errors, scales, symmetric, samples, open_session):
        now, _ = term.error(zeros)
        if now > 0 and np.isfinite(now):
            terms.append((term.share / now, term))
    covered = sum(term.share for _, term in terms)
    if not terms or not covered > 0:
        return Factors(factors, 1.0)

    def loss(unknowns: Floats) -> tuple[float, Floats]:
        total, slope = PULL * float((unknowns**2).mean()), PULL * 2 * unknowns / len(unknowns)
        for scale, term in terms:
            error, own = term.error(unknowns)
            total += scale / covered * error
            inner = term.places >= 0
            np.add.at(slope, term.places[inner], scale / covered * own[inner])
        return float(np.log(total)), slope / total

    best = scipy.optimize.minimize(loss, zeros, jac=True, method="L-BFGS-B", options={"maxiter": STEPS})
    factors[roots] = np.exp(best.x)
    return Factors(factors, 1 - covered / errors.total * (1 - float(np.exp(best.fun))), channels.inserted)


def _terms(
    channels: EqualChannels,
    plan: QuantPlan,
    errors: PartErrors,
    scales: ScaleChoice,
    symmetric: bool,
    samples: Samples,
    open_session: OpenSession,
) -> Iterator[_Term]:
    """Yield the terms of the sum: of the parts that factors change."""
    found, scaled = channels.found, channels.scaled_names
    values = {value.name: value for node in found.model.graph for value in (*node.inputs, *node.outputs) if value}
    names = [name for group in plan.groups if errors.tensors.get(name := group.source.name or "")]
    pairs = [(name, values[scaled.get(name, name)]) for name in names]
    tensors = [(name, value, *place) for name, value in pairs if (place := found.channels(value)) is not None]
    places = np.full(found.coupling.labels.count, -1)
    places[found.roots] = np.arange(len(found.roots))
    products = [
        contraction
        for node, contraction in found.contractions.items()
        if errors.weights.get(node.outputs[0].name or "")
        and contraction.channels > 1  # of one channel alone its factor cancels
        and found.of(contraction.data, contraction.data_axis) is not None
    ]
    queries = [
        Query(value.name or "", Power(end), axis)
        for name, value, axis, _ in tensors
        for end in scales[name].interval
        if end
    ]
    read = {(contraction.data.name or "", contraction.data_axis) for contraction in products}
    queries += [Query(name, Statistic.MEAN_SQUARE, axis) for name, axis in sorted(read)]
    rectified = found.rectified()
    queries += [Query(value.name or "", Statistic.ZEROS, axis) for value, axis in rectified]
    if not queries:
        return
    answers = observe(found.model, queries, samples, open_session)
    alive = {value: 1 - answers[Query(value.name or "", Statistic.ZEROS, axis)] for value, axis in rectified}
    measured = {
        scaled.get(name, name): share / float(scales[name].scale) ** 2 for name, share in errors.tensors.items()
    }
    counts = ChannelWeights(found, measured, alive)
    for name, value, axis, roots in tensors:
        means = {end: answers[Query(value.name or "", Power(end), axis)] for end in scales[name].interval if end}
        widths = [abs(end) * np.nan_to_num(mean) ** (1 / EXPONENT) for end, mean in means.items()]
        widths = [np.maximum.reduce(widths)] if symmetric and widths else widths
        alone = tuple(width for width in widths if width.max() > 0)
        if alone:
            own = counts.of(value, len(roots))
            yield _TensorTerm(places[roots], alone, own / own.sum() + LEAST, errors.tensors[name])
    for contraction in products:
        blocks = np.abs(contraction.blocks())
        groups, _, outputs = blocks.shape
        read_roots = found.of(contraction.data, contraction.data_axis)
        assert read_roots is not None
        energy = answers[Query(contraction.data.name or "", Statistic.MEAN_SQUARE, contraction.data_axis)]
        result = contraction.node.outputs[0]
        yield _WeightTerm(
            places[read_roots].reshape(groups, -1),
            blocks.reshape(groups, -1, contraction.channels, outputs).max(axis=1),
            energy.reshape(groups, -1),
            counts.of(result, groups * outputs).reshape(groups, outputs),
            errors.weights[result.name or ""],
        )


def balanced_factors(found: Rescaling) -> Factors:
    """Return factors that make the weights that make a channel as large as those that read it: for two layers in a row
    the square root of their ratio, as in section 4.1 of the paper, and else that of the ratio of geometric means."""
    labels = found.coupling.labels
    logs = np.zeros(labels.count)
    limit = np.log(WIDEST)
    for _ in range(ROUNDS):
        sums, counts = np.zeros((2, labels.count)), np.zeros((2, labels.count))
        for contraction in found.contractions.values():
            blocks = np.abs(contraction.blocks())
            groups, _, outputs = blocks.shape
            largest = blocks.reshape(groups, -1, contraction.channels, outputs).max(axis=1)
            read = found.of(contraction.data, contraction.data_axis)
            made = found.of(contraction.node.outputs[0], contraction.output_axis)
            largest = largest / _scale(read, logs, groups)[:, :, None] * _scale(made, logs, groups)[:, None]
            for side, roots, ranges in ((0, made, largest.max(axis=1)), (1, read, largest.max(axis=2))):
                if roots is not None:
                    known = ranges.ravel() > 0
                    np.add.at(sums[side], roots[known], np.log(ranges.ravel()[known]))
                    np.add.at(counts[side], roots[known], 1)
        both = (counts > 0).all(axis=0)
        made_mean, read_mean = sums / np.maximum(counts, 1)
        logs = np.clip(np.where(both, logs + (read_mean - made_mean) / 2, logs), -limit, limit)
    return Factors(np.exp(logs), 0.0)


def _scale(roots: Indices | None, logs: Floats, groups: int) -> Floats:
    return np.ones((groups, 1)) if roots is None else np.exp(logs[roots]).reshape(groups, -1)
