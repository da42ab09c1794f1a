"""Notes say what they are; a plan is made of them without guessing."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir
from sample_models import from_text
from story import make_context

from onnxslim.pipeline.interface import Change, Context, Kind, Note, NoteKind, Pass, left_alone, remark
from onnxslim.pipeline.plan import Obstacle, Planned


@dataclasses.dataclass(frozen=True)
class Telling(Pass):
    """Does one thing, leaves another alone, and remarks on a third."""

    name: ClassVar[str] = "telling"
    kind: ClassVar[Kind] = Kind.EXACT

    def run(self, model: ir.Model, context: Context) -> Change:
        notes = (
            Note("a", "halved"),
            left_alone("b", "b is odd", "odd", action="left in float"),
            Note("c", "left out", "c broke", NoteKind.LEFT_OUT, "broke", ("n",), ("v",)),
            remark("method", "by hand", "there is no other"),
        )
        return Change(True, notes)


def test_a_plan_knows_what_is_done_from_the_kind_of_a_note_not_from_its_words() -> None:
    model = from_text('<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) { y = Relu (x) }')
    assert Telling().plan(model, make_context(model)).lines == (
        Planned("a", 1, "halved"),
        Planned("b", 0, "left in float", (Obstacle("b is odd", 1, "b", "b is odd", "odd"),)),
        Planned("c", 0, "left out", (Obstacle("c broke", 1, "c", "c broke", "broke", ("n",), ("v",)),)),
        Planned("method", 0, "by hand: there is no other"),
    )
