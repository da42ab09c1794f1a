"""Structured pruning: whole channels go, the least important first, and every tensor that they run through shrinks."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim.errors import BadOptionValue
from onnxslim.graph.contraction import Contraction, add_bias, contractions
from onnxslim.graph.cost import Cost, measure_cost
from onnxslim.graph.coupling import Coupling, Group, couple, frozen, groups
from onnxslim.graph.labels import Mask
from onnxslim.graph.relations import Indices
from onnxslim.graph.shapes import infer_shapes
from onnxslim.graph.sizes import at_sizes
from onnxslim.pipeline.interface import Change, Context, Kind, Note, Pass
from onnxslim.train.observation import Moments, Place, observe
from onnxslim.train.normalisation import Scaled, correctable
from onnxslim.train.refit import Fit, enough, fits, refit

from .allocation import Limits, allocate, blocks
from .criterion import Criterion, Scores, activation_scores, shuffled, weight_scores
from .cutting import cut
from .sharing import share_again, share_apart


@dataclasses.dataclass(frozen=True)
class Prune(Pass):
    """Remove whole channels, the least important first, and shrink every tensor they run through."""

    name: ClassVar[str] = "prune"
    kind: ClassVar[Kind] = Kind.LOSSY
    needs: ClassVar[tuple[str, ...]] = ("simplify",)

    ratio: Annotated[float, "share of the MACs to remove"] = 0.3
    criterion: Annotated[Criterion, "how a channel's importance is measured"] = Criterion.ACTIVATION
    align: Annotated[int, "keep channel counts multiples of this, and never below it"] = 8
    most: Annotated[float, "share of the channels of one group that may go at most"] = 0.8
    include: Annotated[tuple[str, ...], "prune only groups with a weight or node of these names (* and ? match)"] = ()
    exclude: Annotated[tuple[str, ...], "leave groups alone that have a weight or node of these names"] = ()
    compensate: Annotated[bool, "add what removed channels are on average to the biases that follow"] = True
    refit: Annotated[bool, "fit the weights that read fewer channels to the outputs of before, in closed form"] = True

    def __post_init__(self) -> None:
        for name, value in (("ratio", self.ratio), ("most", self.most)):
            if not 0 < value < 1:
                raise BadOptionValue(
                    f"{name} is {value}", where="prune", hint=f"{name} is a share between 0 and 1, both excluded"
                )
        if self.align < 1:
            raise BadOptionValue(
                f"align is {self.align}", where="prune", hint="align is a number of channels, 1 or more"
            )

    def run(self, model: ir.Model, context: Context) -> Change:
        """Cut `model` in place.

        Raises:
            RunError: The model does not run on the calibration samples.
        """
        apart = share_apart(model)
        infer_shapes(model)
        coupling = couple(model)
        notes = [Note(f"{each.name} axis {each.axis}", "left alone", each.reason) for each in frozen(coupling)]
        limits = Limits(self.align, self.most)
        found, left_alone = self._chosen(model, coupling, limits)
        notes += left_alone
        if not found:
            share_again(model, apart)
            return Change(False, (Note("model", "left alone", "no group of channels can be cut"), *notes))
        # Where the sizes of images are symbolic, those of a sample say which layers are the heavy ones.
        sizes = {name: array.shape for name, array in context.samples.first().items()}
        sized = at_sizes(model, sizes)
        before = measure_cost(sized)
        read = list(contractions(model.graph))
        learns = not context.samples.synthetic
        criterion = self.criterion
        if criterion is Criterion.ACTIVATION and not learns:
            criterion = Criterion.MAGNITUDE
            notes.append(Note("criterion", "magnitude", "samples that were made up say nothing about activations"))
        moments: dict[Place, Moments] = {}
        if learns and (self.compensate or criterion is Criterion.ACTIVATION):
            places = sorted({(contraction.data.name or "", contraction.data_axis) for contraction in read})
            moments = observe(model, places, context.samples, context.open_session)
        scores = self._scores(criterion, coupling, found, read, moments, context)
        choice = allocate(
            coupling, found, [scores[group.roots] for group in found], round(self.ratio * before.macs), limits, sized
        )
        if not choice.gone.any():
            share_again(model, apart)
            return Change(
                False,
                (
                    *notes,
                    Note(
                        "model",
                        "left alone",
                        f"no block of channels saves MACs without taking far more than ratio={self.ratio}",
                    ),
                ),
            )
        teacher = model.clone()
        if self.compensate and learns:
            _compensate(model, coupling, choice.gone, read, moments)
        outputs = [_kept_output(coupling, contraction, choice.gone) for contraction in read]
        scaled = [
            Scaled(node, at, places)
            for node in model.graph
            if correctable(node)
            for at, places in _channels(coupling, node, choice.gone)
        ]
        cut(model, coupling, choice.gone)
        infer_shapes(model)
        if self.refit and learns:
            notes += self._refit(model, teacher, outputs, scaled, measure_cost(sized), context)
        share_again(model, apart)
        saved = 1 - measure_cost(at_sizes(model, sizes)).macs / max(before.macs, 1)
        reason = "" if saved >= self.ratio - 0.05 else "more is not to be had: see what was left alone"
        done = [Note("model", f"{saved:.1%} of the MACs removed", reason)]
        for group, taken in zip(found, choice.taken, strict=True):
            if taken:
                width, count = group.width, len(group.roots)
                done.append(Note(group.name, f"{count * width} -> {(count - taken) * width} channels"))
        return Change(True, (*done, *notes))

    def _chosen(self, model: ir.Model, coupling: Coupling, limits: Limits) -> tuple[list[Group], list[Note]]:
        """Return the groups that may be cut, and notes on the others."""
        chosen: list[Group] = []
        notes: list[Note] = []
        names = _names(model, coupling) if self.include or self.exclude else {}
        for group in groups(coupling):
            own = names.get(int(group.roots[0]), set())
            reason = ""
            if self.include and not _matches(own, self.include):
                reason = "not in include"
            elif _matches(own, self.exclude):
                reason = "in exclude"
            elif not blocks(group, limits):
                reason = f"{len(group.roots) * group.width} channels are fewer than twice align={limits.align}"
            if reason:
                notes.append(Note(group.name, "left alone", reason))
            else:
                chosen.append(group)
        return chosen, notes

    def _scores(
        self,
        criterion: Criterion,
        coupling: Coupling,
        found: Sequence[Group],
        read: Sequence[Contraction],
        moments: dict[Place, Moments],
        context: Context,
    ) -> Scores:
        if criterion is Criterion.ACTIVATION:
            return activation_scores(coupling, read, moments, compensated=self.compensate or self.refit)
        scores = weight_scores(coupling, read, 1 if criterion is Criterion.L1 else 2)
        return shuffled(found, scores, context.generator) if criterion is Criterion.RANDOM else scores

    def _refit(
        self,
        model: ir.Model,
        teacher: ir.Model,
        outputs: Sequence[tuple[str, int, Indices]],
        scaled: Sequence[Scaled],
        cost: Cost,
        context: Context,
    ) -> list[Note]:
        kept = {name: (axis, places) for name, axis, places in outputs}
        chosen = [
            Fit(contraction, *kept[contraction.node.outputs[0].name or ""])
            for contraction in contractions(model.graph)
            if fits(contraction)
        ]
        count = enough(context.samples.count, cost.macs, cost.peak_activation_bytes)
        count = min(count, context.samples.count or count)
        if not count:
            return [
                Note("weights", "not refitted", "too few samples, or too many MACs for the time that fitting may take")
            ]
        refit(
            model,
            teacher,
            chosen,
            context.samples.take(count),
            count,
            context.generator,
            context.open_session,
            lambda done, total: context.progress("refit", done, total),
            scaled=scaled,
        )
        return [Note(f"{len(chosen)} weights", f"refitted on {count} samples")]


def _compensate(
    model: ir.Model, coupling: Coupling, gone: Mask, read: Sequence[Contraction], moments: dict[Place, Moments]
) -> None:
    for contraction in read:
        labels = coupling.of(contraction.data, contraction.data_axis)
        if labels is not None and gone[labels].any():
            mean = moments[contraction.data.name or "", contraction.data_axis].mean
            add_bias(model.graph, contraction, contraction.shift(np.where(gone[labels], mean, 0.0)))


def _kept_output(coupling: Coupling, contraction: Contraction, gone: Mask) -> tuple[str, int, Indices]:
    """Return the name of the output, the axis of its channels, and the places along it that stay."""
    output = contraction.node.outputs[0]
    operand = contraction.fitted.signature.outputs[0]
    axes = operand.axes(len(output.shape or ()))
    wanted = contraction.result
    axis = next((at for at, (dimension, _) in enumerate(axes) if dimension.factors == wanted), 0)
    places = coupling.kept(output, axis, gone)
    return output.name or "", axis, np.zeros(0, np.int64) if places is None else places


def _channels(coupling: Coupling, node: ir.Node, gone: Mask) -> Iterator[tuple[int, Indices]]:
    """Yield the axis of the channels of a normalisation's output, with the places along it that stay."""
    scale, output = node.inputs[1], node.outputs[0]
    own = None if scale is None else coupling.of(scale, 0)
    for axis in range(len(output.shape or ())):
        labels, places = coupling.of(output, axis), coupling.kept(output, axis, gone)
        if own is not None and labels is not None and places is not None and np.array_equal(own, labels):
            yield axis, places
            return


def _names(model: ir.Model, coupling: Coupling) -> dict[int, set[str]]:
    """Return for each label that may be cut the names of the weights that it lies in and of the nodes that read
    them."""
    names: dict[int, set[str]] = {}
    for value, axes in coupling.weights():
        own = {value.name or "", *(use.node.name or "" for use in value.uses())}
        for axis in axes:
            labels = coupling.of_axis(axis)
            for root in set() if labels is None else set(coupling.labels.bases(labels)[1].tolist()):
                names.setdefault(root, set()).update(own)
    return names


def _matches(names: set[str], patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)
