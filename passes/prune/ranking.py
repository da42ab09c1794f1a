"""Ranks the channels of all groups by a criterion, and measures what cutting each group costs the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.contraction import Contraction
from onnxslim.analysis.cost import Cost
from onnxslim.analysis.coupling import ChannelGroup, Coupling
from onnxslim.arrays import Floats
from onnxslim.errors import NotDifferentiable, RunError
from onnxslim.observe.gram import Gram, grams, measurable, moment_bytes
from onnxslim.observe.statistics import ChannelAxis, ChannelMoments
from onnxslim.pipeline.interface import Context, Note, remark

from .criterion import (
    DIFFERENTIATING,
    Criterion,
    activation_scores,
    average_scores,
    batchnorm_scores,
    distances,
    filter_scores,
    shuffled,
    weight_scores,
)
from .elimination import ChannelReader, Ranking, eliminate
from .sensitivity import Prober, affordable, as_importance, probes, scaled
from .taylor import loss_changes

HELD = 6e8
"""Bytes of second moments that are held at once: groups are looked at in as many turns as that takes."""
WIDEST = 9216
"""Readers with more columns are judged by their energy alone."""
SAMPLES = 512
"""Samples that second moments and gradients are taken of, at most."""
BACKWARD = 3
"""A pass forward and back takes so many times the products of one forward."""
PRODUCTS = 1e13
"""Multiply-accumulates that gradients may take."""
FEWEST = 8
"""Samples that gradients are taken of at least."""


@dataclasses.dataclass(frozen=True)
class Ranker:
    """What ranking looks at."""

    model: ir.Model
    coupling: Coupling
    groups: Sequence[ChannelGroup]
    steps: Sequence[Sequence[int]]
    """For each group how many channels may be gone, rising, without 0."""
    read: Sequence[Contraction]
    moments: Mapping[ChannelAxis, ChannelMoments]
    cost: Cost
    context: Context
    recovers: bool
    """Whether readers will be fitted to what is left."""

    def importance(self, criterion: Criterion, *, sensitivity: bool) -> tuple[list[Floats], list[Note]]:
        """Return for each group what each of its channels costs, comparable between groups.

        Channels of a group are ranked by the criterion. Without `sensitivity`, which measures what cutting each group
        costs the outputs, groups are compared by what it says, too.

        Raises:
            RunError: The model does not run on the calibration samples.
        """
        context, notes = self.context, []
        learns = not context.samples.synthetic
        criterion, scores, more = self._scored(criterion)
        notes += more
        rankings = [ranked(scores[group.roots]) for group in self.groups]
        wanted = [probes(steps, len(group.roots)) for steps, group in zip(self.steps, self.groups, strict=True)]
        macs = self.cost.macs
        count = affordable(sum(map(len, wanted)), macs, context.samples.count) if sensitivity and learns else 0
        if sensitivity and learns and not count:
            notes.append(
                remark("sensitivity", "not measured", "too few samples, or too many groups for a model so large")
            )
        prober = None
        if count:
            prober = Prober(self.model, self.coupling, context.draw(count, "prune: sensitivity"), context.open_session)
        eliminates = criterion is Criterion.RECONSTRUCTION
        observes = eliminates or (prober is not None and self.recovers)
        turns = self._moments() if observes else iter((index, []) for index in range(len(self.groups)))
        for number, (index, moments) in enumerate(turns):
            context.progress("rank", number, len(self.groups))
            group = self.groups[index]
            readers = list(self._readers(group, moments)) if eliminates else []
            if readers:
                rankings[index] = eliminate(readers, len(group.roots))
            if prober is not None:
                order, fitted = rankings[index].order, moments if self.recovers else ()
                measured = {count: prober(group, order[:count], fitted) for count in wanted[index]}
                rankings[index] = scaled(rankings[index], measured)
        context.progress("rank", len(self.groups), len(self.groups))
        if prober is not None:
            runs = sum(map(len, wanted))
            notes.append(remark("sensitivity", f"measured by {runs} cuts of one group each", f"on {count} samples"))
        return [as_importance(ranking, steps) for ranking, steps in zip(rankings, self.steps, strict=True)], notes

    def _scored(self, criterion: Criterion) -> tuple[Criterion, Floats, list[Note]]:
        """Return for each label what the criterion says, or the default where a model has no gradients."""
        try:
            return criterion, *self._scores(criterion)
        except (NotDifferentiable, RunError) as error:
            if criterion not in DIFFERENTIATING:
                raise
            place = f"{error.where}: " if error.where else ""
            note = remark("criterion", Criterion.RECONSTRUCTION.value, f"there are no gradients: {place}{error.what}")
            scores, notes = self._scores(Criterion.RECONSTRUCTION)
            return Criterion.RECONSTRUCTION, scores, [note, *notes]

    def _loss_changes(self, criterion: Criterion) -> tuple[Floats, Note]:
        """Return for each label how much the loss hangs on it, and a note on what was measured."""
        context, taylor = self.context, criterion is Criterion.TAYLOR
        samples = context.draw(
            max(FEWEST, min(SAMPLES, int(PRODUCTS / max(BACKWARD * self.cost.macs, 1)))), "prune: gradients"
        )
        moments = self.moments if self.recovers else None
        changes = loss_changes(
            self.model, self.coupling, self.read, moments, samples, context.seed, context.open_session, labels=taylor
        )
        loss = "of the labels" if changes.labelled else "of labels and directions drawn from the model's own outputs"
        note = remark("criterion", f"gradients of the loss {loss}", f"on {changes.samples} samples")
        return changes.magnitude if taylor else changes.square, note

    def _scores(self, criterion: Criterion) -> tuple[Floats, list[Note]]:
        """Return for each label what the criterion says; what it says nothing about is ranked by magnitude."""
        coupling, read = self.coupling, self.read
        fallback = weight_scores(coupling, read)
        notes: list[Note] = []
        match criterion:
            case Criterion.MAGNITUDE:
                return fallback, []
            case Criterion.RANDOM:
                return shuffled(self.groups, fallback, self.context.generator), []
            case Criterion.L1 | Criterion.L2:
                power = 1 if criterion is Criterion.L1 else 2
                scores = filter_scores(coupling, read, lambda filters: np.linalg.norm(filters, ord=power, axis=1))
            case Criterion.FPGM:
                scores = filter_scores(coupling, read, distances)
            case Criterion.BATCHNORM:
                scores = batchnorm_scores(coupling, self.model, self.context.original)
            case Criterion.MEAN | Criterion.APOZ:
                scores = average_scores(coupling, read, self.moments, zeros=criterion is Criterion.APOZ)
            case Criterion.TAYLOR | Criterion.FISHER:
                scores, note = self._loss_changes(criterion)
                notes.append(note)
            case _:
                scores = activation_scores(coupling, read, self.moments, compensated=self.recovers)
        for group in self.groups:
            if not scores[group.roots].any():
                scores[group.roots] = fallback[group.roots]
                notes.append(remark(group.name, "ranked by magnitude", f"{criterion.value} says nothing about it"))
        return scores, notes

    def _moments(self) -> Iterator[tuple[int, list[tuple[Contraction, Gram]]]]:
        """Yield each group with the second moments of its readers, as few turns over the samples as memory allows."""
        context = self.context
        known = [contraction for contraction in self.read if measurable(contraction) and contraction.columns <= WIDEST]
        of_group = [[index for index, own in enumerate(known) if self._reads(own, group)] for group in self.groups]
        turn: list[int] = []
        needed: set[int] = set()
        samples = context.draw(SAMPLES, "prune: ranking")

        def turned() -> Iterator[tuple[int, list[tuple[Contraction, Gram]]]]:
            order = sorted(needed)
            chosen = [known[index] for index in order]
            taken = grams(self.model, chosen, samples, context.generator, context.open_session)
            found = dict(zip(order, taken, strict=True)) if chosen else {}
            for group in turn:
                yield group, [(known[index], found[index]) for index in of_group[group]]

        for index, readers in enumerate(of_group):
            more = needed | set(readers)
            if turn and sum(moment_bytes(known[reader]) for reader in more) > HELD:
                yield from turned()
                turn, more = [], set(readers)
            turn, needed = [*turn, index], more
        yield from turned()

    def _reads(self, contraction: Contraction, group: ChannelGroup) -> bool:
        labels = self.coupling.of(contraction.data, contraction.data_axis)
        return labels is not None and bool(np.isin(self.coupling.labels.bases(labels)[1], group.roots).any())

    def _readers(self, group: ChannelGroup, moments: Sequence[tuple[Contraction, Gram]]) -> Iterator[ChannelReader]:
        """Yield the readers of a group, each group of a grouped convolution by itself."""
        place = {int(root): index for index, root in enumerate(group.roots)}
        for contraction, gram in moments:
            labels = self.coupling.of(contraction.data, contraction.data_axis)
            assert labels is not None
            width = len(labels) // contraction.groups
            if width < 2:
                continue  # each channel by itself: its output goes with it
            energy = gram.energy
            for number in range(contraction.groups):
                places, roots = self.coupling.labels.bases(labels[number * width : (number + 1) * width])
                channels: list[list[int]] = [[] for _ in group.roots]
                for column, root in zip(places.tolist(), roots.tolist(), strict=True):
                    if root in place:
                        channels[place[root]].append(column)
                columns = [np.flatnonzero(np.isin(gram.channels, own)) for own in channels]
                if any(len(own) == contraction.columns for own in columns):
                    continue  # a whole group of the convolution goes, and its output with it
                yield ChannelReader(gram.moment[number], gram.weight[number], columns, energy)


def ranked(scores: Floats) -> Ranking:
    """Return the ranking by scores that add up."""
    order = np.argsort(scores, kind="stable")
    return Ranking(order, np.concatenate([[0.0], np.cumsum(scores[order])]))
