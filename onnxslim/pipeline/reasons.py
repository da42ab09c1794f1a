"""Why a pass, or a form of it, is kept or rolled back: a code, and what it is about; text is made where it is shown."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence


class ReasonCode(str, enum.Enum):
    """What decided about a pass; the codes stay the same from version to version."""

    OUTPUTS_UNCHANGED = "outputs-unchanged"
    NOT_COMPARED = "not-compared"
    NOT_CLAIMED = "not-claimed"
    NO_BUDGET = "no-budget"
    WITHIN_BUDGET = "within-budget"
    WITHIN_BUDGET_LOSS = "within-budget-loss"
    WITHIN_BUDGET_UNSURE = "within-budget-unsure"
    WITHIN_BUDGET_SAMPLES = "within-budget-samples"
    SPEED = "speed"
    SLOWER = "slower"
    NOT_TIMED = "not-timed"
    NOTHING_TO_DO = "nothing-to-do"
    NOTHING_FOUND = "nothing-found"
    BUDGET_UNCHECKED = "budget-unchecked"
    OVER_BUDGET = "over-budget"
    OVER_SHARE = "over-share"
    OVER_BOUND = "over-bound"
    MILDEST = "mildest"
    STRONGER_FORM = "stronger-form"
    STRONGER_HOLDS = "stronger-holds"
    REWRITES_LEFT_OUT = "rewrites-left-out"
    FASTER_WITHOUT = "faster-without"
    OUTPUTS_CHANGED = "outputs-changed"
    STOPPED_RUNNING = "stopped-running"
    DOES_NOT_RUN = "does-not-run"
    NO_MODEL = "no-model"
    RAISED = "raised"
    SEVERAL_SITES = "several-sites"
    OTHER_COUNT = "other-count"
    OTHER_TYPE = "other-type"
    OTHER_SHAPE = "other-shape"
    OTHER_VALUES = "other-values"
    OTHER_NOT_FINITE = "other-not-finite"
    BEYOND_ROUNDING = "beyond-rounding"


TEXTS = {
    ReasonCode.OUTPUTS_UNCHANGED: "outputs unchanged",
    ReasonCode.NOT_COMPARED: "outputs not compared: asked not to",
    ReasonCode.NOT_CLAIMED: "fidelity not claimed: the samples are synthetic",
    ReasonCode.NO_BUDGET: "no budget given",
    ReasonCode.WITHIN_BUDGET: "within the budget",
    ReasonCode.WITHIN_BUDGET_LOSS: "within the budget: {0:.2%} lost in all",
    ReasonCode.WITHIN_BUDGET_UNSURE: (
        "within the budget: {0:.2%} lost in all ({1:.2%} to {2:.2%}: that reaches past it)"
    ),
    ReasonCode.WITHIN_BUDGET_SAMPLES: (
        "within the budget: {0:.2%} lost in all ({1:.2%} to {2:.2%}: that reaches past it, and about {3:,} samples "
        "would settle it)"
    ),
    ReasonCode.SPEED: "{0:.2f}x the speed of before ({1:.2f} to {2:.2f})",
    ReasonCode.SLOWER: "slower here: {0:.2f}x the speed of before ({1:.2f} to {2:.2f}); --goal size keeps it",
    ReasonCode.NOT_TIMED: "it cannot be timed: {0}",
    ReasonCode.NOTHING_TO_DO: "nothing to do: {0}",
    ReasonCode.NOTHING_FOUND: "nothing to do",
    ReasonCode.BUDGET_UNCHECKED: "the budget cannot be checked: no output can be compared",
    ReasonCode.OVER_BUDGET: "{0:.2%} of {1} would be lost where {2:.2%} may be",
    ReasonCode.OVER_SHARE: "{0:.2%} of {1} would be lost where {2:.2%} may be here, {3:.2%} in all",
    ReasonCode.OVER_BOUND: (
        "{0:.2%} of {1} would be lost, and up to {2:.2%} with a confidence of {3:.0%}, where {4:.2%} may be"
    ),
    ReasonCode.MILDEST: "in the mildest form",
    ReasonCode.STRONGER_FORM: "{0}: {cause}",
    ReasonCode.STRONGER_HOLDS: "holds, as a stronger form does",
    ReasonCode.REWRITES_LEFT_OUT: "left out: {0}",
    ReasonCode.FASTER_WITHOUT: ("left out in the end: without it the result is {0:.2f}x as fast ({1:.2f} to {2:.2f})"),
    ReasonCode.OUTPUTS_CHANGED: "the outputs changed: {0}: {cause}{1}",
    ReasonCode.STOPPED_RUNNING: "the outputs changed: it does not run any more{1}: {0}",
    ReasonCode.DOES_NOT_RUN: "the result does not run: {0}",
    ReasonCode.NO_MODEL: "the result is no model: {0}",
    ReasonCode.RAISED: "it raised {0}",
    ReasonCode.SEVERAL_SITES: "{cause} ({0} sites)",
    ReasonCode.OTHER_COUNT: "{0} arrays in place of {1}",
    ReasonCode.OTHER_TYPE: "type {0} in place of {1}",
    ReasonCode.OTHER_SHAPE: "shape {0} in place of {1}",
    ReasonCode.OTHER_VALUES: "{0:.2%} of the values differ",
    ReasonCode.OTHER_NOT_FINITE: "other values are not finite",
    ReasonCode.BEYOND_ROUNDING: "relative difference {0:.1e}, at most {1:.0e} is rounding",
}
"""What each code says; ``{0}`` and so on are figures and names, ``{cause}`` is another reason."""


@dataclasses.dataclass(frozen=True)
class Reason:
    """One reason."""

    code: ReasonCode
    words: tuple[object, ...] = ()
    """Figures and names that its text mentions."""
    values: tuple[str, ...] = ()
    """Names of the values of the model that it is about."""
    cause: Reason | None = None
    """What it follows from."""

    def __str__(self) -> str:
        return TEXTS[self.code].format(*self.words, cause=self.cause)


def describe(reasons: Sequence[Reason]) -> str:
    """Return reasons as one text."""
    text = ""
    for reason in reasons:
        separator = ", " if reason.code is ReasonCode.MILDEST else "; "
        text += f"{separator if text else ''}{reason}"
    return text
