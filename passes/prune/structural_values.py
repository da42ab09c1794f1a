"""Follows constant and equal channels through ops without a row of their own, by the relations between their axes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.arrays import Floats, Indices
from onnxslim.model.constants import constant
from onnxslim.ops.binding import dimensions
from onnxslim.ops.op import Constancy
from onnxslim.ops.relations import Axis, Equal, Factored, Mixes, NodeAxes, Pairs, Relation, SameElements
from onnxslim.ops.table import constancy, fill, relations_of
from onnxslim.ops.traits import Trait, has

from .channel_values import AxisValues, ChannelValues, classify, run_on

MAX_ELEMENTS = 1 << 22
"""Reshapes of more elements than this are not followed."""


@dataclasses.dataclass(frozen=True, eq=False)
class PlacesRead:
    """What a result reads of an operand, place by place along one axis of each."""

    value: ir.Value
    values: AxisValues
    """What is known of the places that are read."""
    places: Indices
    """Where they go along the axis of the result."""


def follow(known: ChannelValues, node: ir.Node) -> None:
    """Record what is known of the outputs of a node whose kind of `ops.axes` is a structure."""
    results = [
        Axis(value, position)
        for value in node.outputs
        if value.name
        for position, size in enumerate(dimensions(value) or ())
        if size is not None and known.is_prunable(value, position)
    ]
    if not results:
        return
    relations = relations_of(NodeAxes(node))[1]
    reshaped = [relation for relation in relations if isinstance(relation, SameElements)]
    for relation in reshaped:
        _reshape(known, relation.first, relation.second)
    for result in results:
        if not any(result in relation.second for relation in reshaped):
            _follow_axis(known, node, result, relations)


def _follow_axis(known: ChannelValues, node: ir.Node, result: Axis, relations: Sequence[Relation]) -> None:
    one = _equal_axes(result, relations)
    if any(isinstance(relation, Mixes) and relation.axis in one for relation in relations):
        return
    if any(isinstance(relation, Factored) and relation.whole == result for relation in relations):
        return
    size = (dimensions(result.value) or ())[result.position] or 0
    places = np.arange(size)
    readings: list[PlacesRead] = []
    for axis, source, target in [
        *((axis, places, places) for axis in one if axis.value.producer() is not node),
        *_pairs(result, relations),
    ]:
        values = known.of(*axis)
        if values is None or len(values.classes) <= source.max(initial=-1):
            return
        readings.append(PlacesRead(axis.value, values.take(source), target))
    keeps = constancy(node)
    if not readings and keeps is Constancy.LOST:
        return
    # Where elements are only moved, the same value that is read twice holds the same.
    columns: dict[object, Indices] = {}
    for number, reading in enumerate(readings):
        column = columns.setdefault(reading.value if keeps is Constancy.KEPT else number, np.full(size, -1))
        column[reading.places] = reading.values.classes
    classes = classify(np.stack(list(columns.values()), axis=1)) if columns else np.zeros(size, np.int64)
    numbers = {value: _numbers(value, readings, size) for value in node.inputs if value is not None}
    filled = fill(node)
    if keeps is Constancy.EVALUATED:
        constants = _evaluated(known, node, numbers, size)
    elif keeps is Constancy.LOST:
        constants = np.full(size, np.nan)
    elif filled is not None:
        constants = _filled(result, relations, readings, filled, size)
    else:
        data = node.inputs if has(node, Trait.JOINING) else node.inputs[:1]
        constants = _agreed([numbers[value] for value in data if value is not None], size)
        if keeps is Constancy.ZERO_KEPT:
            constants = np.where(constants == 0, 0.0, np.nan)
    known.record(result.value, result.position, AxisValues(classes, constants))


def _equal_axes(result: Axis, relations: Iterable[Relation]) -> set[Axis]:
    """Return the axes of the operands that are one with an axis of a result, and this itself."""
    links: dict[object, list[Axis]] = {}
    for relation in relations:
        if isinstance(relation, Equal) and isinstance(relation.first, Axis) and isinstance(relation.second, Axis):
            links.setdefault(relation.first, []).append(relation.second)
            links.setdefault(relation.second, []).append(relation.first)
    seen, waiting = {result}, [result]
    while waiting:
        found = [axis for axis in links.get(waiting.pop(), ()) if axis not in seen]
        seen.update(found)
        waiting += found
    return seen


def _pairs(result: Axis, relations: Iterable[Relation]) -> Iterator[tuple[Axis, Indices, Indices]]:
    """Yield the axes of which some places become some of a result: the axis, its places, and those of the result."""
    for relation in relations:
        if isinstance(relation, Pairs):
            if relation.second == result:
                yield relation.first, relation.first_indices, relation.second_indices
            elif relation.first == result:
                yield relation.second, relation.second_indices, relation.first_indices


def _numbers(value: ir.Value, readings: Sequence[PlacesRead], size: int) -> Floats:
    """Return the number that an operand holds for each place of a result; inf where the place reads nothing of it."""
    own = [reading for reading in readings if reading.value is value]
    if own:
        result = np.full(size, np.inf)
        for reading in own:
            result[reading.places] = np.where(np.isinf(reading.values.constant), np.nan, reading.values.constant)
        return result
    array = constant(value)
    uniform = array is not None and array.dtype.kind in "fiub" and array.size and (array == array.ravel()[0]).all()
    return np.full(size, float(array.ravel()[0]) if uniform and array is not None else np.nan)


def _agreed(operands: Sequence[Floats], size: int) -> Floats:
    """Return for each place the number on which all operands that are read there agree; NaN where there is none."""
    result = np.full(size, np.inf)
    for numbers in operands:
        result = np.where(np.isinf(numbers) | (numbers == result), result, np.where(np.isinf(result), numbers, np.nan))
    return np.where(np.isinf(result), np.nan, result)


def _evaluated(known: ChannelValues, node: ir.Node, numbers: Mapping[ir.Value, Floats], size: int) -> Floats:
    """Return what an elementwise op makes of constants; the op itself is asked."""
    given = np.stack([numbers[value] for value in node.inputs if value is not None])
    result = np.full(size, np.nan)
    fixed = ~np.isnan(given).any(axis=0)
    if fixed.any():
        arrays: list[npt.NDArray[np.generic] | None] = []
        for value in node.inputs:
            array = constant(value)
            single = array is not None and array.size == 1
            arrays.append(array if single else None if value is None else numbers[value][fixed])
        made = run_on(node, arrays, known.opsets)
        if made is not None and made.size in (1, int(fixed.sum())):
            result[fixed] = made.ravel()
    if has(node, Trait.ABSORBS_ZERO):
        result[(given == 0).any(axis=0)] = 0
    return result


def _filled(
    result: Axis, relations: Sequence[Relation], readings: Sequence[PlacesRead], number: float, size: int
) -> Floats:
    """Return the constants of an op that puts `number` where it reads nothing, along other axes as well."""
    constants = np.full(size, number)
    rank = len(dimensions(result.value) or ())
    whole = all(
        len(_equal_axes(Axis(result.value, position), relations)) > 1
        for position in range(rank)
        if position != result.position
    )
    for reading in readings:
        kept = reading.values.constant
        constants[reading.places] = kept if whole else np.where(kept == number, number, np.nan)
    return constants


def _reshape(known: ChannelValues, source: Sequence[Axis], result: Sequence[Axis]) -> None:
    """Follow a reshape between two runs of axes that hold the same elements."""
    source_sizes, result_sizes = (
        [(dimensions(a.value) or ())[a.position] or 0 for a in axes] for axes in (source, result)
    )
    followed = [number for number, axis in enumerate(result) if known.is_prunable(*axis)]
    count = math.prod(source_sizes)
    if not source or not followed or count != math.prod(result_sizes) or count > MAX_ELEMENTS:
        return
    elements = np.zeros(source_sizes, np.int64)
    numbers = np.full(source_sizes, np.nan)
    for number, (axis, size) in enumerate(zip(source, source_sizes, strict=True)):
        values = known.of(*axis) if known.is_prunable(*axis) else None
        spread = [size if position == number else 1 for position in range(len(source))]
        classes = np.arange(size) if values is None else values.classes
        elements = elements * (int(classes.max(initial=0)) + 1) + classes.reshape(spread)
        if values is not None:
            numbers = np.where(np.isnan(numbers), values.constant.reshape(spread), numbers)
    for number in followed:
        size = result_sizes[number]
        rows, constants = (
            np.moveaxis(array.reshape(result_sizes), number, 0).reshape(size, -1) for array in (elements, numbers)
        )
        same = (constants == constants[:, :1]).all(axis=1)
        known.record(*result[number], AxisValues(classify(rows), np.where(same, constants[:, 0], np.nan)))
