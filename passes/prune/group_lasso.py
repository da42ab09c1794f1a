"""Sparsity training: a group lasso over the channels that may go, so that some of them fade before the cut.

The penalty is the sum, over channels, of the L2 norm of a channel's weights times the square root of their number
(Yuan and Lin, "Model selection and estimation in regression with grouped variables", J. R. Statist. Soc. B 68, 2006,
equation 2.1; for the channels of networks Wen et al., arXiv 1608.03665, section 3.1; for coupled ones Fang et al.,
arXiv 2301.12900, section 3.3). The weights of a channel are all that make it and all that read it, in every layer that
it is coupled through. With those that make it alone the penalty would shrink for nothing: what a layer loses in scale
the next one can gain, a Relu between or not, and no channel matters less for it.

A weight lies in two channels, that which it reads and that which it makes, so that the proximal operator has no closed
form as it has where groups are apart, and Adam, which scales every element by itself, would need one in its own metric.
The gradient of the norms will do (0 for a channel of zeros): it gets no channel to zero exactly, and need not, since a
cut follows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.contraction import contractions
from onnxslim.analysis.coupling import ChannelGroup, Coupling, couple
from onnxslim.arrays import Array, Floats, Indices
from onnxslim.autodiff.reverse import graph_builder
from onnxslim.model.builder import GraphBuilder
from onnxslim.model.constants import stored_array
from onnxslim.observe.probe import truncated
from onnxslim.pipeline.interface import Change, Context, Note, remark
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.training_pass import NotTrained, TrainingPass, raised
from onnxslim.runtime.session import OpenSession
from onnxslim.train.losses import LossKind, LossTerm, in_type

from .group_filter import PruneCode

FADED = 0.1
"""A channel has faded where no more of its norm is left."""


@dataclasses.dataclass(frozen=True)
class _WeightAxis:
    """An axis of a weight along which channels lie."""

    weight: ir.Value
    shape: tuple[int, ...]
    """That of the weight."""
    position: int
    """Which of its axes it is."""
    places: Indices
    """Where along the axis; a place belongs to several channels where it goes with each of them."""
    channels: Indices
    """Which channel, among all of all groups, lies at each of these places."""


@dataclasses.dataclass(frozen=True)
class GroupLasso:
    """The penalty of models whose weights are trained."""

    weight: float
    """What the penalty counts at first; an error of the outputs of 1 is all that they tell."""
    choose: Callable[[ir.Model, Coupling], Sequence[ChannelGroup]]
    """Gives the groups of a model that may be cut."""
    open_session: OpenSession

    def __call__(self, student: ir.Model) -> Sequence[LossTerm]:
        """Append the penalty to a student at an operator set that is trained, as an output; return its term.

        It is divided by its first value: in this way a weight means the same for all models, however large they are.

        Raises:
            NotTrained: No channel may go.
        """
        build = graph_builder(student)
        norms = self._append(build)
        penalty = build.op("ReduceSum", norms, keepdims=0)
        student.graph.outputs.append(penalty)
        first = float(self._run(student, penalty))
        return [LossTerm(LossKind.VALUE, penalty.name or "", "", self.weight / (first or 1.0))]

    def norms(self, model: ir.Model) -> Floats:
        """Return the summand of each channel that may go, shape [channels]; the model is not changed.

        Raises:
            NotTrained: No channel may go, or the model cannot be brought to an operator set that is trained.
        """
        student = raised(model.clone())
        return self._run(student, self._append(graph_builder(student))).astype(np.float64)

    def _append(self, build: GraphBuilder) -> ir.Value:
        """Append the summands of the penalty to a student, shape [channels]."""
        coupling = couple(build.model)
        found = self.choose(build.model, coupling)
        axes = _axes(coupling, found, {contraction.weight for contraction in contractions(build.model.graph)})
        if not axes:
            raise NotTrained(Reason(PruneCode.NO_GROUP))
        count = sum(len(group.roots) for group in found)
        sizes = np.zeros(count)
        for axis in axes:
            np.add.at(sizes, axis.channels, math.prod(axis.shape) / axis.shape[axis.position])
        squares = [_sums(build, axis) for axis in axes]
        whole = squares[0] if len(squares) == 1 else build.op("Concat", *squares, axis=0)
        channels, zeros = np.concatenate([axis.channels for axis in axes]), np.zeros(count, np.float32)
        summed = build.op("ScatterElements", build.constant(zeros), channels, whole, axis=0, reduction="add")
        return build.op("Mul", build.op("Sqrt", summed), np.sqrt(sizes).astype(np.float32))

    def _run(self, student: ir.Model, value: ir.Value) -> Array:
        name = value.name or ""
        model = truncated(student, [name])
        model.graph.inputs.clear()  # weights are all that it reads
        return np.asarray(self.open_session(model).run({})[name])


def drive(model: ir.Model, context: Context, training: TrainingPass, lasso: GroupLasso) -> Change:
    """Train a model with the penalty, in place; what a pass that is tried at another strength does not do again.

    Which weights are kept is decided by the loss of what was set aside with the penalty in it: without, the weights as
    they were would be kept in every case, since nothing is as near to the original as they are.

    Raises:
        NotDifferentiable: An op between the weights and the outputs has no gradient.
        RunError: A step does not run.
    """

    def learn() -> tuple[Mapping[str, ir.TensorProtocol | None], Change]:
        learner = model.clone()
        change = training.go_on(learner, context, lasso)
        if change.modified:
            change = dataclasses.replace(change, notes=(*change.notes, _told(lasso.norms(model), lasso.norms(learner))))
        return stored(learner), change

    weights, change = context.observed("lasso", learn)
    restore(model, weights)
    return change


def stored(model: ir.Model) -> Mapping[str, ir.TensorProtocol | None]:
    """Return what the initializers of a model hold, by name."""
    return {name: value.const_value for name, value in model.graph.initializers.items()}


def restore(model: ir.Model, tensors: Mapping[str, ir.TensorProtocol | None]) -> None:
    """Let initializers hold what they once did, or what those of a clone do."""
    for name, tensor in tensors.items():
        model.graph.initializers[name].const_value = tensor


def _told(before: Floats, after: Floats) -> Note:
    faded = int(np.sum(after < FADED * before))
    how = f"{faded} of {len(before)} channels have less than {FADED:.0%} of the norm they had"
    return remark("group lasso", f"1 -> {after.sum() / before.sum():.3g}", how)


def _axes(coupling: Coupling, found: Sequence[ChannelGroup], read: set[ir.Value]) -> list[_WeightAxis]:
    """Return the axes along which channels of some groups lie, of weights that are multiplied and summed."""
    numbers = np.full(coupling.labels.count, -1)
    roots = np.concatenate([np.zeros(0, np.int64), *(group.roots for group in found)])
    numbers[roots] = np.arange(len(roots))
    result: list[_WeightAxis] = []
    for value, axes in coupling.weights():
        if value not in read:
            continue
        for position, axis in enumerate(axes):
            labels = coupling.of_axis(axis)
            if labels is None:
                continue
            places, bases = coupling.labels.bases(labels)
            mine = numbers[bases] >= 0
            if mine.any():
                shape = stored_array(value).shape
                result.append(_WeightAxis(value, shape, position, places[mine], numbers[bases[mine]]))
    return result


def _sums(build: GraphBuilder, axis: _WeightAxis) -> ir.Value:
    """Append the sums of the squares of what lies at each of the places, shape [places]."""
    weight = in_type(build, axis.weight, ir.DataType.FLOAT)
    rest = [index for index in range(len(axis.shape)) if index != axis.position]
    squares = build.op("ReduceSumSquare", weight, rest, keepdims=0) if rest else build.op("Mul", weight, weight)
    whole = np.array_equal(axis.places, np.arange(axis.shape[axis.position]))
    return squares if whole else build.op("Gather", squares, axis.places, axis=0)
