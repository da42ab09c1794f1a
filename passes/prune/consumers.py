"""Where channels end: which of them a node sums up, and whether the sum is the same, or can be mended, without them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.contraction import Contraction
from onnxslim.analysis.coupling import Coupling
from onnxslim.arrays import Floats, Indices, Mask
from onnxslim.ops.binding import BoundSignature, bind
from onnxslim.ops.relations import AddsUp, Axis, Mixes, NodeAxes
from onnxslim.ops.signatures import Operand
from onnxslim.ops.table import relations_of

from .channel_values import ChannelValues, exactly_constant, multiplied, recurrent


@dataclasses.dataclass(frozen=True)
class Consumer:
    """Channels that one node sums up."""

    labels: Indices
    """The labels of the axis, or factor, that is summed over."""
    inert: Mask
    """For each of them whether the sum is the same without it: what is added is 0."""
    absorbable: Mask
    """For each of them whether what is added is constant, so that a bias can make up for it."""
    read: Contraction | None = None
    """How it is read, where a stored weight does."""


def find_consumers(model: ir.Model, coupling: Coupling, known: ChannelValues) -> Iterator[Consumer]:
    """Yield where channels of the main graph end. What passes through a node, place by place, does not end there."""
    for node in model.graph:
        fitted = bind(node)
        if fitted is not None:
            yield from _row_ends(coupling, known, fitted)
            continue
        for relation in relations_of(NodeAxes(node))[1]:
            if isinstance(relation, (Mixes, AddsUp)) and isinstance(relation.axis, Axis):
                yield from _axis_end(coupling, known, relation.axis, sums=isinstance(relation, AddsUp))


def _axis_end(coupling: Coupling, known: ChannelValues, axis: Axis, *, sums: bool) -> Iterator[Consumer]:
    labels = coupling.of(*axis)
    if labels is not None and known.is_prunable(*axis):
        along = known.of(*axis)
        zero = np.zeros(len(labels), np.bool_) if along is None or not sums else along.constant == 0
        yield Consumer(labels, zero, np.zeros(len(labels), np.bool_))


def _row_ends(coupling: Coupling, known: ChannelValues, fitted: BoundSignature) -> Iterator[Consumer]:
    signature = fitted.signature
    bound = coupling.fitted[fitted.node][1] if fitted.node in coupling.fitted else {}
    read = known.contractions.get(fitted.node)
    for key, axis in bound.items():
        letter = key[0]
        labels = coupling.of_axis(axis)
        if letter.isdigit() or labels is None or not len(coupling.labels.bases(labels)[1]):
            continue
        again = recurrent(fitted, {letter})
        if letter in signature.reaching and letter not in signature.mixed and not again:
            continue
        nothing = np.zeros(len(labels), np.bool_)
        # A sum over this factor alone, of products: a 0 on either side adds nothing.
        simple = letter not in signature.mixed and sum(letter in term for term in signature.macs) == 1
        if again:
            yield Consumer(labels, _unread(known, fitted, letter, len(labels)), nothing)
        elif not simple or not _floats(fitted):
            yield Consumer(labels, nothing, nothing)
        else:
            inert = nothing.copy()
            for operand in multiplied(fitted):
                for value in _values(fitted, operand):
                    for along in known.contribution(fitted, operand, value, [key], [len(labels)]):
                        inert |= along.constant == 0
            own = read if read is not None and letter in read.over else None
            absorbable = nothing if own is None else _mended(known, own, letter, len(labels))
            yield Consumer(labels, inert, absorbable, own)


def _unread(known: ChannelValues, fitted: BoundSignature, letter: str, size: int) -> Mask:
    """Return which places of a recurrent state no weight reads. What they are fed does not matter then."""
    unread = np.zeros(size, np.bool_)
    for operand in fitted.signature.inputs:
        if sum(letter in dimension.factors for dimension in operand.dimensions) > 1:
            axis = [dimension.factors for dimension in operand.dimensions].index((letter,))
            for value in _values(fitted, operand):
                along = known.of(value, axis)
                if along is not None and len(along.constant) == size:
                    unread |= along.constant == 0
    return unread


def _mended(known: ChannelValues, read: Contraction, letter: str, size: int) -> Mask:
    """Return which channels are constant for their reader, in all groups, or not read where they are not."""
    data = known.of(read.data, read.data_axis)
    shape = [read.sizes[read.letters.index(factor)] if factor in read.letters else 0 for factor in read.over]
    bias = read.bias
    if data is None or 0 in shape or int(np.prod(shape)) != len(data.constant) or bias is None or not bias.free:
        return np.zeros(size, np.bool_)
    fixed = exactly_constant(read, data).reshape(shape)
    others = tuple(position for position, factor in enumerate(read.over) if factor != letter)
    result: Mask = np.asarray(fixed.all(axis=others), np.bool_)
    return result if len(result) == size else np.zeros(size, np.bool_)


def shift_of(known: ChannelValues, read: Contraction, places: Indices) -> Floats:
    """Return what constant channels at `places` of the data add to each output channel."""
    data = known.of(read.data, read.data_axis)
    assert data is not None
    constants = np.zeros(len(data.constant))
    constants[places] = np.nan_to_num(np.where(exactly_constant(read, data), data.constant, 0.0))[places]
    return read.contract(constants, read.result)


def _values(fitted: BoundSignature, operand: Operand) -> list[ir.Value]:
    return [value for source, value in fitted.operands() if source is operand]


def _floats(fitted: BoundSignature) -> bool:
    return all(value.dtype is not None and value.dtype.is_floating_point() for _, value in fitted.operands())
