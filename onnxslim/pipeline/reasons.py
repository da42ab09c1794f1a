"""Why a pass, or a form of it, is kept or rolled back: a code, and what it is about; text is made where it is shown."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

from onnxslim.diagnostic import Code


@enum.unique
class ReasonCode(Code):
    """What decided about a pass; the value says so in words, with figures, names and another reason put in."""

    OUTPUTS_UNCHANGED = "outputs unchanged"
    NOT_COMPARED = "outputs not compared: asked not to"
    NOT_CLAIMED = "fidelity not claimed: the samples are synthetic"
    NO_BUDGET = "no budget given"
    JUDGED_LATER = "judged together with {0}, which wins back what is lost here"
    WITHIN_BUDGET = "within the budget"
    WITHIN_BUDGET_LOSS = "within the budget: {0:.2%} lost in all"
    WITHIN_BUDGET_UNSURE = "within the budget: {0:.2%} lost in all ({1:.2%} to {2:.2%}: that reaches past it)"
    WITHIN_BUDGET_SAMPLES = (
        "within the budget: {0:.2%} lost in all ({1:.2%} to {2:.2%}: that reaches past it, and about {3:,} "
        "samples would settle it)"
    )
    SPEED = "{0:.2f}x the speed of before ({1:.2f} to {2:.2f})"
    SLOWER = "slower here: {0:.2f}x the speed of before ({1:.2f} to {2:.2f}); --goal size keeps it"
    MADE_FOR_OTHER = "its speed here says nothing: it is made for another target"
    NOT_TIMED = "it cannot be timed: {0}"
    NOTHING_TO_DO = "nothing to do: {0}"
    NOTHING_FOUND = "nothing to do"
    BUDGET_UNCHECKED = "the budget cannot be checked: no output can be compared"
    OVER_BUDGET = "{0:.2%} of {1} would be lost where {2:.2%} may be"
    OVER_SHARE = "{0:.2%} of {1} would be lost where {2:.2%} may be here, {3:.2%} in all"
    OVER_BOUND = "{0:.2%} of {1} would be lost, and up to {2:.2%} with a confidence of {3:.0%}, where {4:.2%} may be"
    MILDEST = "in the mildest form"
    STRONGER_FORM = "{0}: {cause}"
    STRONGER_HOLDS = "holds, as a stronger form does"
    REWRITES_LEFT_OUT = "left out: {0}"
    FASTER_WITHOUT = "left out in the end: without it the result is {0:.2f}x as fast ({1:.2f} to {2:.2f})"
    OUTPUTS_CHANGED = "the outputs changed: {0}: {cause}{1}"
    STOPPED_RUNNING = "the outputs changed: it does not run any more{1}: {0}"
    DOES_NOT_RUN = "the result does not run: {0}"
    NO_MODEL = "the result is no model: {0}"
    RAISED = "it raised {0}"
    SEVERAL_SITES = "{cause} ({0} sites)"
    OTHER_COUNT = "{0} arrays in place of {1}"
    OTHER_TYPE = "type {0} in place of {1}"
    OTHER_SHAPE = "shape {0} in place of {1}"
    OTHER_VALUES = "{0:.2%} of the values differ"
    OTHER_NOT_FINITE = "other values are not finite"
    BEYOND_ROUNDING = "relative difference {0:.1e}, at most {1:.0e} is rounding"


@dataclasses.dataclass(frozen=True)
class Reason:
    """One reason."""

    code: Code
    words: tuple[object, ...] = ()
    """Figures and names that its text mentions."""
    values: tuple[str, ...] = ()
    """Names of the values of the model that it is about."""
    cause: Reason | None = None
    """What it follows from."""
    nodes: tuple[str, ...] = ()
    """Names of the nodes that it is about."""

    def __str__(self) -> str:
        return str(self.code.value).format(*self.words, cause=self.cause)


def describe(reasons: Sequence[Reason]) -> str:
    """Return reasons as one text."""
    text = ""
    for reason in reasons:
        separator = ", " if reason.code is ReasonCode.MILDEST else "; "
        text += f"{separator if text else ''}{reason}"
    return text
