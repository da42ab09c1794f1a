"""The share that is to go, of what: MACs, parameters, bytes of weights, or milliseconds measured here."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.coupling import ChannelGroup, Coupling
from onnxslim.analysis.remaining_cost import RemainingCost, macs_left, weights_left
from onnxslim.pipeline.interface import Context, Note
from onnxslim.runtime.layer_latency import LayerTimes
from onnxslim.runtime.profile import quiet_milliseconds
from onnxslim.runtime.timing import compare_latency

from .allocation import Choice, Limits
from .timing import MillisecondsLeft

TRIES = 3
"""How often the choice of channels is made anew, when layers at the widths chosen take longer than was reckoned."""
NEAR = 0.02
"""The share of the time within which what was reckoned is near enough."""
SHORT = 0.05
"""What may be missing of the share that was asked for before it is called missed."""


class Share(enum.Enum):
    """What the share is one of: the option that gives it."""

    MACS = "ratio"
    PARAMETERS = "params"
    BYTES = "size"
    MILLISECONDS = "latency"


WORDS = {
    Share.MACS: "MACs",
    Share.PARAMETERS: "parameters",
    Share.BYTES: "bytes of weights",
    Share.MILLISECONDS: "time",
}


@dataclasses.dataclass(frozen=True)
class CutBudget:
    """What is to go, and what the model costs."""

    kind: Share
    share: float
    """The share of the cost that is to go."""
    cost: RemainingCost
    whole: float
    """What the model costs as it is."""
    context: Context

    @classmethod
    def of(
        cls,
        kind: Share,
        share: Callable[[float], float],
        model: ir.Model,
        coupling: Coupling,
        sized: ir.Model,
        groups: Sequence[ChannelGroup],
        limits: Limits,
        context: Context,
    ) -> CutBudget:
        """Return the budget of a model: the share of a quantity that is to go; for milliseconds its layers are timed.

        `share` gives it, told how much of the quantity there is. In `sized`, a copy of the model, symbolic dimensions
        have the sizes of a sample.

        Raises:
            RunError: The model does not run on the samples.
        """
        cost: RemainingCost
        if kind is Share.MILLISECONDS:
            feeds = context.samples.first()
            whole = quiet_milliseconds(model, feeds, context.target)
            times = LayerTimes(context.target)
            cost = MillisecondsLeft(
                coupling,
                sized,
                groups,
                limits,
                times,
                whole,
                lambda done, total: context.progress("timing layers", done, total),
            )
        elif kind is Share.MACS:
            cost = macs_left(coupling, sized)
        else:
            cost = weights_left(coupling, model, in_bytes=kind is Share.BYTES)
        there = cost(np.zeros(coupling.labels.count, np.bool_))
        return cls(kind, share(there), cost, there, context)

    @property
    def what(self) -> str:
        """What the share is one of, in words."""
        return WORDS[self.kind]

    @property
    def asked(self) -> str:
        """The share as the option gives it."""
        return f"{self.kind.value}={self.share:.4g}"

    def reach(self, allotted: Callable[[float], Choice]) -> Choice:
        """Return the choice of channels that saves the share; `allotted` makes one that saves so much by the cost.

        Milliseconds are reckoned between widths that were measured. The layers are measured once more at the widths
        chosen, and where that is not what was reckoned, the choice is made again for more, or less.
        """
        target = aim = self.share * self.whole
        choice = allotted(aim)
        if isinstance(self.cost, MillisecondsLeft):
            for _ in range(TRIES):
                missing = target - (self.whole - self.cost.measured(choice.gone))
                if abs(missing) < NEAR * self.whole or not choice.gone.any() or not 0 < aim + missing < self.whole:
                    break
                aim += missing
                choice = allotted(aim)
        return choice

    def missed(self, choice: Choice, limits: Limits) -> str:
        """Say why less went than was asked for."""
        if not choice.too_much:
            keeps = f"most={limits.most}, minimum={limits.minimum} and what was left alone keep the rest"
            return f"more is not to be had: {keeps}"
        smaller = ": a smaller align makes smaller ones" if limits.align > 1 else ""
        return f"the next block of channels would take more than {self.asked}{smaller}"

    def notes(self, choice: Choice, limits: Limits, before: ir.Model, after: ir.Model, macs: float) -> list[Note]:
        """Return what was reached, in words; for milliseconds what was predicted beside what was measured.

        `macs` is the share of the MACs that went between the models `before` and `after`.
        """
        gone = choice.gone
        left = self.cost.measured(gone) if isinstance(self.cost, MillisecondsLeft) else self.cost(gone)
        saved = 1 - left / max(self.whole, 1e-12)
        missed = self.missed(choice, limits)
        if self.kind is Share.MACS:
            return [Note("model", f"{macs:.1%} of the MACs removed", "" if macs >= self.share - SHORT else missed)]
        reason = "" if saved >= self.share - SHORT else missed
        if self.kind is not Share.MILLISECONDS:
            return [Note("model", f"{saved:.1%} of the {self.what} removed, {macs:.1%} of the MACs", reason)]
        # How many rounds this takes is a matter of time: it must not decide what is drawn later.
        (generator,) = self.context.generator.spawn(1)
        feeds, target = self.context.samples.first(), self.context.target
        ratio = compare_latency(before, after, feeds, target, generator=generator).ratio
        got = quiet_milliseconds(after, feeds, target)
        times = f"{self.whole:.3f} ms -> {left:.3f} ms predicted from layers, {got:.3f} ms measured by nodes"
        factor = f"{self.whole / max(left, 1e-12):.2f} times the speed predicted"
        paired = f"{ratio.value:.2f} measured ({ratio.low:.2f} to {ratio.high:.2f})"
        return [
            Note("model", f"{saved:.1%} of the time removed, {macs:.1%} of the MACs", reason),
            Note("model", times, f"{factor}, {paired}"),
        ]
