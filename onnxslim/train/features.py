"""Which values between are compared as well: those that student and original have under one name, equally large."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.errors import BadOptionValue, did_you_mean
from onnxslim.ops.binding import bind
from onnxslim.ops.traits import Trait, has

AUTO = "auto"
ATTENTION = "attention"
COUNT = 4
"""Features that are chosen where nobody names any: one for each stage of a network, as a rule."""


def choose_features(asked: Sequence[str], student: ir.Graph, teacher: ir.Graph) -> list[str]:
    """Return the names of the values that are compared.

    Args:
        asked: Names of values; ``auto`` stands for some sums of residual branches, evenly spread, and ``attention`` for
            all maps of attention; nothing for nothing.
        student: The graph of the student, specialised to the shapes of a batch.
        teacher: That of the original, likewise.

    Raises:
        BadOptionValue: Student and original have no value of a name that is asked for, of one shape.
    """
    own = {value.name or "": value for node in student for value in node.outputs}
    outputs = {value.name for value in student.outputs}
    alike = [name for name in alike_values(student, teacher) if name not in outputs and len(own[name].shape or ()) > 1]
    chosen: list[str] = []
    for name in asked:
        if name == AUTO:
            sums = [value for value in alike if (maker := own[value].producer()) is not None and has(maker, Trait.ADDS)]
            some = sums or alike
            places = np.unique(np.linspace(0, len(some) - 1, min(COUNT, len(some))).round().astype(int))
            chosen += [some[place] for place in places]
        elif name == ATTENTION and (maps := [value for value in alike if _attends(own[value])]):
            chosen += maps
        elif name in alike:
            chosen.append(name)
        else:
            raise BadOptionValue(
                f"features names {name!r}, which student and original do not both have in one shape",
                hint=did_you_mean(name, alike) + f"there are {', '.join(alike[:6])}",
            )
    return list(dict.fromkeys(chosen))


def alike_values(student: ir.Graph, teacher: ir.Graph) -> list[str]:
    """Return the names of the values of real numbers that both have in one shape, in the order of the student.

    Args:
        student: The graph of the student, specialised to the shapes of a batch.
        teacher: That of the original, likewise.
    """
    values = {value.name: value for node in teacher for value in node.outputs}
    return [
        value.name
        for node in student
        for value in node.outputs
        if value.name and value.name in values and value.dtype in (None, ir.DataType.FLOAT)
        if value.shape is not None and value.shape.is_static() and value.shape == values[value.name].shape
    ]


def _attends(value: ir.Value) -> bool:
    """Whether a value is a map of attention: distributions that other values are multiplied and summed by."""
    maker = value.producer()
    if maker is None or not has(maker, Trait.DISTRIBUTION):
        return False
    readers = (bind(use.node) for use in value.uses())
    return any(bound is not None and bound.signature.macs for bound in readers)
