"""Cuts in several steps, with training between: what a small cut has cost is won back before the next is made. Where
the training drives channels to zero, there is one before the first cut as well.

Source: Han et al., "Learning both weights and connections for efficient neural networks" (arXiv 1506.02626), section
3.4; of channels Molchanov et al., "Pruning convolutional neural networks for resource efficient inference" (arXiv
1611.06440), section 2.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxslim.pipeline.discovery import find_pass
from onnxslim.pipeline.interface import Change, Context, Note, NoteKind, Pass
from onnxslim.pipeline.observations import Observations
from onnxslim.pipeline.training_pass import TrainingPass

StepShare = Callable[[float], float]
"""Gives the share of the cost that is to go in a step, told what the model costs then."""
Cut = Callable[[ir.Model, Context, StepShare], Change]
"""Cuts a model in place."""
Train = Callable[[int, ir.Model, Context], Change]
"""Trains what a step, counted from 1, has left, in place; 0: before the first."""


class CutSchedule(enum.Enum):
    """How much is left behind each step."""

    GEOMETRIC = "geometric"
    """The same share of what the step before has left."""
    LINEAR = "linear"
    """In each step the same share of the whole less."""

    def left(self, share: float, steps: int) -> list[float]:
        """Return which share of the cost is left behind each of so many steps, when `share` of it goes in all."""
        parts = [(number + 1) / steps for number in range(steps)]
        if self is CutSchedule.GEOMETRIC:
            return [(1 - share) ** part for part in parts]
        return [1 - share * part for part in parts]


def cut_in_steps(
    model: ir.Model, context: Context, left: Sequence[float], cut: Cut, train: Train, *, train_first: bool = False
) -> Change:
    """Cut a model in place, step by step, and train it behind each but the last; return what was done in all.

    What a step takes too little of, or too much, the next one makes up for.

    Args:
        model: The model.
        context: What the pass is given. Later steps see other models at each strength, and find out anew about them.
        left: Which share of the cost is left behind each step.
        cut: See there.
        train: See there.
        train_first: Train before the first step, too.
    """
    notes: list[Note] = []
    if train_first:
        notes += _of_step(train(0, model, context).notes, "before the first cut", notes)
    whole: list[float] = []
    modified = False
    for number, share in enumerate(left, start=1):
        context.progress(f"step {number} of {len(left)}", number - 1, len(left))

        def of(cost: float, share: float = share) -> float:
            whole.append(cost)
            return 1 - share * whole[0] / max(cost, 1e-12)

        change = cut(model, context, of)
        notes += _of_step(change.notes, f"step {number} of {len(left)}" if len(left) > 1 else "", notes)
        modified |= change.modified
        context = dataclasses.replace(context, observations=Observations())
        if change.modified and number < len(left):
            notes += _of_step(train(number, model, context).notes, f"behind step {number}", notes)
    return Change(modified, tuple(notes))


def distillation_between(behind: Sequence[Pass], epochs: int, number: int) -> TrainingPass:
    """Return the training behind a step (0: before all of them): the first behind the pass that goes on with what it is
    given, of so many epochs; `distill` where there is none.

    It writes checkpoints of its own, so that what was done is done whichever step a run was killed in.
    """
    asked = next((step for step in behind if isinstance(step, TrainingPass) and step.goes_on), find_pass("distill")())
    assert isinstance(asked, TrainingPass)
    file = None if asked.checkpoint is None else f"{asked.checkpoint}.step{number}"
    return dataclasses.replace(asked, epochs=epochs, checkpoint=file)


def _of_step(notes: Sequence[Note], step: str, known: Sequence[Note]) -> list[Note]:
    """Return notes with the step in them, if it has a name; what was left alone before, for the same reason, is not
    told again."""
    told = {(note.subject, note.reason) for note in known if note.kind is NoteKind.LEFT_ALONE}
    return [
        note
        if note.kind is NoteKind.LEFT_ALONE or not step
        else dataclasses.replace(note, action=f"{note.action} ({step})")
        for note in notes
        if (note.subject, note.reason) not in told
    ]
