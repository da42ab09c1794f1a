"""Structured pruning: whole channels go, the least important first, and every tensor that they run through shrinks."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.contraction import contractions
from onnxslim.analysis.cost import measure_cost
from onnxslim.analysis.coupling import ChannelGroup, Coupling, FrozenAxis, couple, frozen, groups
from onnxslim.analysis.linear_layer import label
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.analysis.shared_vectors import retie_vectors, untie_vectors
from onnxslim.analysis.specialize import specialize_shapes
from onnxslim.errors import BadOptionValue
from onnxslim.observe.statistics import ChannelAxis, ChannelMoments, channel_moments
from onnxslim.ops.relations import FreezeCode
from onnxslim.pipeline.interface import Change, Context, Kind, Note, Pass, left_alone, remark
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.selection import Exclude, Include, Selection

from .allocation import Choice, Limits, allocate, allocate_evenly, blocks
from .budget import CutBudget, Share
from .criterion import OBSERVING, Criterion
from .cutting import cut
from .exact import remove_exactly
from .group_filter import GroupFilter, PruneCode, Units
from .group_lasso import GroupLasso, drive, restore, stored
from .iterated import CutSchedule, StepShare, cut_in_steps, distillation_between
from .layers import layer_changes
from .ranking import Ranker
from .recovery import compensate, fit_again, kept

DEFAULT = (Share.MACS, 0.3)
"""What is removed where nobody says what."""
MOST, OPENING = 0.9, 0.5
"""Under a budget, where nobody says how much: the largest share of the MACs that is ever tried, and the first."""


@dataclasses.dataclass(frozen=True)
class Prune(Pass):
    """Remove whole channels, the least important first, and shrink every tensor they run through."""

    name: ClassVar[str] = "prune"
    kind: ClassVar[Kind] = Kind.LOSSY
    needs: ClassVar[tuple[str, ...]] = ("simplify",)
    after: ClassVar[tuple[str, ...]] = ("dequantize",)

    ratio: Annotated[float | None, "share of the MACs to remove; 0.3 where no other share is given"] = None
    params: Annotated[float | None, "share of the parameters to remove, in place of ratio"] = None
    size: Annotated[float | None, "share of the bytes of the weights to remove, in place of ratio"] = None
    latency: Annotated[float | None, "share of the time to remove, by layers timed here, in place of ratio"] = None
    exact: Annotated[bool, "remove only what the outputs do not depend on: dead, constant and double channels"] = False
    per_layer: Annotated[bool, "the same share of every group, and no ranking between them"] = False
    criterion: Annotated[Criterion, "how a channel's importance is measured"] = Criterion.RECONSTRUCTION
    sensitivity: Annotated[bool, "measure what cutting each group costs the outputs, and share out by that"] = True
    align: Annotated[
        int, "keep channel counts multiples of this; of small groups, of a power of two up to a quarter of their width"
    ] = 8
    most: Annotated[float, "share of the channels of one group that may go at most"] = 0.8
    minimum: Annotated[int, "channels that every group keeps at least"] = 1
    units: Annotated[Units, "what goes where channels come in blocks, as heads do: whole blocks, or places in all"] = (
        Units.AUTO
    )
    include: Include = ()
    exclude: Exclude = ()
    compensate: Annotated[bool, "add what removed channels are on average to the biases that follow"] = True
    refit: Annotated[bool, "fit the weights that read fewer channels to the outputs of before, in closed form"] = True
    steps: Annotated[int, "cut in so many steps, and train between them"] = 1
    schedule: Annotated[CutSchedule, "what is left behind each step: equal shares of the last, or of the whole"] = (
        CutSchedule.GEOMETRIC
    )
    lasso: Annotated[
        float | None,
        "train before the first cut, too, and let channels fade that are not needed: what the sum of their norms, as "
        "it is at first, counts beside the loss; by default nothing",
    ] = None
    epochs: Annotated[
        int,
        "how often each sample is seen between two steps, and before the first with lasso; all else is as the distill "
        "behind has it",
    ] = 2

    def __post_init__(self) -> None:
        given = [share.value for share in Share if getattr(self, share.value) is not None]
        self.check_shares(*given, "most")
        self.check_counts("align", "minimum", "steps", "epochs")
        self._check(("lasso",), lambda value: value > 0, "a number above 0")
        if len(given) > 1:
            raise BadOptionValue(
                f"{' and '.join(given)} are given, and one share can be reached",
                where="prune",
                hint="give one of ratio, params, size and latency",
            )
        if self.exact and (given or self.per_layer or self.steps > 1):
            asked = [*given, "per_layer" if self.per_layer else "steps"][0]
            raise BadOptionValue(
                f"exact removes all that is to be had, and {asked} asks for a share",
                where="prune",
                hint="give exact alone, or a share; two passes, exact first, do both",
            )
        if self.exact and self.lasso is not None:
            raise BadOptionValue(
                "exact keeps the outputs as they are, and lasso trains the weights",
                where="prune",
                hint="leave out one of them; two passes, exact first, do both",
            )

    @property
    def judged_as(self) -> Kind:
        """Exact pruning promises outputs that are the same."""
        return Kind.EXACT if self.exact else self.kind

    def milder(self, strength: float) -> Pass | None:
        """Remove a smaller share of what is asked for, or of nearly all where no share is."""
        if self.exact:
            return None
        share = next((share for share in Share if getattr(self, share.value) is not None), None)
        if share is None:
            return dataclasses.replace(self, ratio=MOST * strength)
        return dataclasses.replace(self, **{share.value: getattr(self, share.value) * strength})

    @property
    def opening(self) -> float:
        """Half of the MACs, where no share is asked for."""
        return 1.0 if any(getattr(self, share.value) is not None for share in Share) else OPENING / MOST

    def run(self, model: ir.Model, context: Context) -> Change:
        """Cut `model` in place.

        Raises:
            NotDifferentiable: It is cut in steps, and an op between its weights and the outputs has no gradient.
            RunError: The model does not run on the calibration samples.
        """
        apart = untie_vectors(model)
        infer_shapes(model)
        if self.exact:
            change = self._exactly(model, context)
        elif self.steps > 1 or self.lasso is not None:
            change = self._in_steps(model, context)
        else:
            change = self._by_share(model, context, lambda cost: self._share()[1], self._limits)
        retie_vectors(model, apart)
        return change

    def _in_steps(self, model: ir.Model, context: Context) -> Change:
        limits = self._limits.beginning_with(groups(couple(model)))

        def choose(student: ir.Model, coupling: Coupling) -> list[ChannelGroup]:
            selection = Selection(self.include, self.exclude, student, context.original)
            return GroupFilter(selection, self.units, limits)(coupling)[0]

        def train(number: int, cut_model: ir.Model, context: Context) -> Change:
            training = distillation_between(context.behind, self.epochs, number)
            if self.lasso is None:
                return training.go_on(cut_model, context)
            return drive(cut_model, context, training, GroupLasso(self.lasso, choose, context.open_session))

        def cut_once(cut_model: ir.Model, context: Context, share: StepShare) -> Change:
            return self._by_share(cut_model, context, share, limits)

        sizes = {name: array.shape for name, array in context.samples.first().items()}
        before, weights = specialize_shapes(model, sizes), stored(model)
        left = self.schedule.left(self._share()[1], self.steps)
        change = cut_in_steps(model, context, left, cut_once, train, train_first=self.lasso is not None)
        if not change.modified:  # nor is it trained then
            restore(model, weights)
            return change
        after = specialize_shapes(model, sizes)
        macs = 1 - measure_cost(after).macs / max(measure_cost(before).macs, 1)
        whole = [Note("model", f"{macs:.1%} of the MACs removed in {self.steps} steps")] if self.steps > 1 else []
        return dataclasses.replace(change, notes=(*whole, *change.notes), layers=layer_changes(before, after))

    def _exactly(self, model: ir.Model, context: Context) -> Change:
        # Without a check there is no sample: sizes that are symbolic then count as 1.
        sizes = (
            {name: array.shape for name, array in context.samples.first().items()} if context.samples.count != 0 else {}
        )
        before = specialize_shapes(model, sizes)
        selection = Selection(self.include, self.exclude, model, context.original)
        group_filter = GroupFilter(selection, self.units)
        found = remove_exactly(model, lambda coupling: group_filter(coupling)[0], context.gate)
        if not found:
            nothing = left_alone("model", Reason(PruneCode.NOTHING_REMOVABLE))
            return Change(False, (nothing, *group_filter(couple(model))[1]))
        notes = selection.unmatched()
        for what, reason in (
            ("dead", "the outputs do not depend on them"),
            ("constant", "the biases that follow stand for them now"),
            ("double", "others are the same, and stand for them now"),
        ):
            counts: dict[str, int] = {}
            for removed in found:
                counts[removed.name] = counts.get(removed.name, 0) + getattr(removed, what)
            notes += [Note(name, f"{count} {what} channels removed", reason) for name, count in counts.items() if count]
        return Change(True, tuple(notes), layer_changes(before, specialize_shapes(model, sizes)))

    def _by_share(self, model: ir.Model, context: Context, share: StepShare, limits: Limits) -> Change:
        coupling = couple(model)
        notes = [_note(axis) for axis in frozen(coupling)]
        selection = Selection(self.include, self.exclude, model, context.original)
        found, uncut = GroupFilter(selection, self.units, limits)(coupling)
        notes += uncut
        if not found:
            return Change(False, (left_alone("model", Reason(PruneCode.NO_GROUP)), *notes))
        # Where the sizes of images are symbolic, those of a sample say which layers are the heavy ones.
        sizes = {name: array.shape for name, array in context.samples.first().items()}
        sized = specialize_shapes(model, sizes)
        before = measure_cost(sized)
        read = list(contractions(model.graph))
        learns = not context.samples.synthetic
        criterion = self.criterion
        if criterion in OBSERVING and not learns:
            criterion = Criterion.MAGNITUDE
            notes.append(remark("criterion", "magnitude", "samples that were made up say nothing about activations"))
        moments: dict[ChannelAxis, ChannelMoments] = {}
        if learns and (self.compensate or criterion in OBSERVING):
            places = sorted({(contraction.data.name or "", contraction.data_axis) for contraction in read})
            zeros = criterion is Criterion.APOZ
            moments = context.observed(
                "moments", lambda: channel_moments(model, places, context.samples, context.open_session, zeros=zeros)
            )
        steps = [np.cumsum(blocks(group, limits)).tolist() for group in found]
        recovers = learns and (self.compensate or self.refit)
        ranker = Ranker(model, coupling, found, steps, read, moments, before, context, recovers)
        importance, remarks = context.observed(
            "importance", lambda: ranker.importance(criterion, sensitivity=self.sensitivity)
        )
        notes += remarks
        budget = CutBudget.of(self._share()[0], share, model, coupling, sized, found, limits, context)

        def allotted(target: float) -> Choice:
            choose = allocate_evenly if self.per_layer else allocate
            return choose(coupling, found, importance, target, limits, budget.cost)

        choice = budget.reach(allotted)
        if not choice.gone.any():
            reason = Reason(PruneCode.NO_BLOCK, (budget.what, budget.asked))
            return Change(False, (*notes, left_alone("model", reason)))
        teacher = model.clone()
        if self.compensate and learns:
            compensate(model, coupling, choice.gone, read, moments)
        stays = kept(model, coupling, choice.gone, read)
        cut(model, coupling, choice.gone)
        infer_shapes(model)
        if self.refit and learns:
            notes.append(fit_again(model, teacher, stays, before, context))
        after = specialize_shapes(model, sizes)
        done = budget.notes(choice, limits, teacher, model, 1 - measure_cost(after).macs / max(before.macs, 1))
        for group, taken in zip(found, choice.taken, strict=True):
            if taken:
                width, count = group.width, len(group.roots)
                step = limits.step(limits.length(group))
                small = f"steps of {step}: align={self.align} is more than a quarter of them"
                widths = f"{count * width} -> {(count - taken) * width} channels"
                done.append(Note(group.name, widths, small if step < self.align else ""))
        return Change(True, (*done, *notes), layer_changes(sized, after))

    @property
    def _limits(self) -> Limits:
        """What every group keeps."""
        return Limits(self.align, self.most, self.minimum)

    def _share(self) -> tuple[Share, float]:
        """Return what is to be reached."""
        return next(((share, value) for share in Share if (value := getattr(self, share.value)) is not None), DEFAULT)


def _note(axis: FrozenAxis) -> Note:
    why = axis.why
    nodes = () if why.node is None else (label(why.node),)
    values = (why.detail,) if why.code in (FreezeCode.GRAPH_INPUT, FreezeCode.GRAPH_OUTPUT) else ()
    note = left_alone(f"{axis.name} axis {axis.axis}", why.reason, why.code.word)
    return dataclasses.replace(note, nodes=nodes, values=values)
