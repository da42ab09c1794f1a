"""A second model that takes the place of the first: it is opened, must fit, and gets the interface of the first."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.shapes import forget_shapes, infer_shapes
from onnxslim.arrays import Array
from onnxslim.errors import BadOptionValue
from onnxslim.model import FORM, OriginalForm, open_model
from onnxslim.model.edit import become
from onnxslim.ops.binding import dimensions
from onnxslim.runtime.session import OpenSession

HINT = "export it with the inputs and outputs of the model: onnxslim inspect shows them"


def open_student(path: str, model: ir.Model, feeds: Mapping[str, Array], open_session: OpenSession) -> ir.Model:
    """Return a model from a file that can take the place of another, with the inputs and outputs in the same order.

    Args:
        path: The file.
        model: The model whose place it takes; not changed.
        feeds: One batch for both.
        open_session: Opens a model on the target.

    Raises:
        ModelError: The file is no model that we handle.
        BadOptionValue: It has other inputs or outputs: other names, types or shapes.
        RunError: One of the two does not run.
    """
    student = open_model(path)
    _check_values("input", _required(student.graph), _required(model.graph), path)
    _check_values("output", student.graph.outputs, model.graph.outputs, path)
    for given, wanted in zip(_required(student.graph), _by_name(student.graph, model.graph), strict=True):
        _check_accepts(given, wanted, path)
    mine, theirs = (open_session(each).run(feeds) for each in (student, model))
    for name, wanted in theirs.items():
        shapes = [np.shape(value) for value in (mine[name], wanted)]
        if not isinstance(wanted, list | dict) and shapes[0] != shapes[1]:
            raise _misfit(f"its output {name!r} is {_text(shapes[0])}, that of the model {_text(shapes[1])}", path)
    _reorder(student.graph, model.graph)
    return student


def replace_by(model: ir.Model, student: ir.Model) -> None:
    """Let a student take the place of a model, in place; it is of no use afterwards.

    Shapes of inputs and outputs are those of the model, by their names of dimensions as well.
    """
    shapes = {value.name: value.shape for value in (*model.graph.inputs, *model.graph.outputs)}
    for value in (*student.graph.inputs, *student.graph.outputs):
        shape = shapes.get(value.name)
        if shape is not None:
            value.shape = shape.copy()
    forget_shapes(student)
    infer_shapes(student)
    own: OriginalForm | None = student.graph.meta.get(FORM)
    form: OriginalForm | None = model.graph.meta.get(FORM)
    if own is not None and form is not None:
        version = max(own.ir_version, student.ir_version)
        external = own.external | form.external
        student.graph.meta[FORM] = dataclasses.replace(form, ir_version=version, external=external)
    become(model, student)


def _required(graph: ir.Graph) -> list[ir.Value]:
    """Return the inputs that must be given."""
    return [value for value in graph.inputs if not value.is_initializer()]


def _by_name(graph: ir.Graph, other: ir.Graph) -> list[ir.Value]:
    """Return the required inputs of `other` in the order of those of `graph`."""
    known = {value.name: value for value in _required(other)}
    return [known[value.name] for value in _required(graph)]


def _check_values(what: str, given: Sequence[ir.Value], wanted: Sequence[ir.Value], path: str) -> None:
    """Check that values have the same names and types, and no shapes that contradict each other."""
    own, other = ({value.name or "": value for value in values} for values in (given, wanted))
    if own.keys() != other.keys():
        names, expected = (", ".join(map(repr, values)) for values in (own, other))
        raise _misfit(f"its {what}s are {names}, those of the model {expected}", path)
    for name, value in own.items():
        if None not in (value.type, other[name].type) and value.type != other[name].type:
            raise _misfit(f"its {what} {name!r} is {value.type}, that of the model {other[name].type}", path)
        mine, theirs = dimensions(value), dimensions(other[name])
        if mine is None or theirs is None:
            continue
        if len(mine) != len(theirs) or any(
            None not in pair and pair[0] != pair[1] for pair in zip(mine, theirs, strict=True)
        ):
            shapes = _text(value.shape), _text(other[name].shape)
            raise _misfit(f"its {what} {name!r} is {shapes[0]}, that of the model {shapes[1]}", path)


def _check_accepts(given: ir.Value, wanted: ir.Value, path: str) -> None:
    """Check that an input takes all sizes that the model takes."""
    mine, theirs = dimensions(given), dimensions(wanted)
    if mine is None:
        return
    if theirs is None or any(own is not None and other is None for own, other in zip(mine, theirs, strict=True)):
        shapes = _text(given.shape), "of any size" if theirs is None else _text(wanted.shape)
        raise _misfit(f"its input {given.name!r} is {shapes[0]} and no other, that of the model {shapes[1]}", path)


def _text(shape: object) -> str:
    sizes = [] if shape is None else [str(getattr(size, "value", size)) for size in shape]  # type: ignore[attr-defined]
    return "x".join(sizes) or "a scalar"


def _misfit(what: str, path: str) -> BadOptionValue:
    return BadOptionValue(f"this student cannot take the place of the model: {what}", where=path, hint=HINT)


def _reorder(graph: ir.Graph, like: ir.Graph) -> None:
    """Bring inputs and outputs into the order of another graph; inputs that are defaults go last."""
    for own, other in ((graph.inputs, like.inputs), (graph.outputs, like.outputs)):
        places = {value.name: place for place, value in enumerate(other)}
        own[:] = sorted(own, key=lambda value: places.get(value.name, len(places)))
