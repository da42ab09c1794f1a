"""Exact pruning: removes channels that the outputs do not depend on.

Dead channels (0, or read by nobody), constant ones, whose readers' biases take what they add, and those that hold the
same as another, whose weights their readers add to those of the other. A channel that goes may leave others without a
reader, so it is done again until nothing is found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.contraction import Contraction
from onnxslim.analysis.coupling import ChannelGroup, Coupling, couple
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.arrays import Indices
from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor, overwrite
from onnxslim.pipeline.rewrite_gate import RewriteGate

from .channel_values import ChannelValues
from .consumers import Consumer, find_consumers, shift_of
from .cutting import add_to_bias, cut
from .structural_values import follow

WITHOUT_TRACE, DOUBLE = "what is dead or constant", "what is double"
"""The two ways in which a group loses channels, as the gate is asked for them."""

ROUNDS = 50
"""Rounds at most; each finds something, so that this many mean a chain of as many layers."""


@dataclasses.dataclass(frozen=True)
class RemovedChannels:
    """What went, by the name of the group."""

    name: str
    dead: int = 0
    """Channels that nothing depends on."""
    constant: int = 0
    """Channels that readers' biases stand for now."""
    double: int = 0
    """Channels that held the same as others."""


def remove_exactly(
    model: ir.Model, choose: Callable[[Coupling], Sequence[ChannelGroup]], gate: RewriteGate
) -> list[RemovedChannels]:
    """Remove channels that the outputs do not depend on, in place.

    Args:
        model: Shapes are known; vectors that several nodes share by chance are apart (`untie_vectors`).
        choose: Names the groups that may lose channels.
        gate: Asked before each group loses any, so that a wrong one can be found out and left out by itself.

    Returns:
        One entry for each group and round that lost any.
    """
    result: list[RemovedChannels] = []
    for _ in range(ROUNDS):
        coupling = couple(model)
        found = choose(coupling)
        if not found:
            break
        known = ChannelValues(model, coupling, follow)
        ends = list(find_consumers(model, coupling, known))
        state = (model, coupling, found, known, ends, gate)
        step = remove_dead_and_constant(*state) or merge_duplicates(*state)
        if not step:
            break
        infer_shapes(model)
        result += step
    return result


def remove_dead_and_constant(
    model: ir.Model,
    coupling: Coupling,
    found: Sequence[ChannelGroup],
    known: ChannelValues,
    ends: Sequence[Consumer],
    gate: RewriteGate,
) -> list[RemovedChannels]:
    """Remove the channels that add nothing, or a constant, wherever they end."""
    labels = coupling.labels
    stays = np.zeros(labels.count, np.bool_)
    absorbable = np.zeros(labels.count, np.bool_)
    for end in ends:
        places, roots = labels.bases(end.labels)
        stays[roots[~(end.inert | end.absorbable)[places]]] = True
        absorbable[roots[(end.absorbable & ~end.inert)[places]]] = True
    roots = np.concatenate([group.roots for group in found])
    taken = _not_empty(coupling, roots[~stays[roots]])
    for group in found:
        among = np.isin(taken, group.roots)
        if among.any() and gate.check(f"removing channels of {group.name}", WITHOUT_TRACE) is not None:
            taken = taken[~among]
    gone = labels.removed(taken)
    editor = Editor(model)
    for read in _readers(ends):
        own = coupling.of(read.data, read.data_axis)
        if own is not None and gone[own].any():
            shift = shift_of(known, read, np.flatnonzero(gone[own]))
            if shift.any():
                add_to_bias(editor, coupling, read, shift, gone)
    if len(taken):
        cut(model, coupling, gone)
    result = []
    for group in found:
        own = group.roots[np.isin(group.roots, taken)]
        constants = int(absorbable[own].sum()) * group.width
        if len(own):
            result.append(RemovedChannels(group.name, dead=len(own) * group.width - constants, constant=constants))
    return result


def merge_duplicates(
    model: ir.Model,
    coupling: Coupling,
    found: Sequence[ChannelGroup],
    known: ChannelValues,
    ends: Sequence[Consumer],
    gate: RewriteGate,
) -> list[RemovedChannels]:
    """Remove the channels that hold the same as another wherever they end, and add their weights to those of it."""
    labels = coupling.labels
    barred = np.zeros(labels.count, np.bool_)
    # For each root where it is read: the number of the reader, and what the places there hold.
    contents: dict[int, list[tuple[int, bytes]]] = {}
    for number, end in enumerate(ends):
        roots = np.unique(labels.bases(end.labels)[1])
        own = None if end.read is None else coupling.of(end.read.data, end.read.data_axis)
        along = None if end.read is None else known.of(end.read.data, end.read.data_axis)
        # A weight that is read elsewhere too may have another meaning there.
        if end.read is None or own is None or along is None or len(end.read.weight.uses()) > 1:
            barred[roots] = True
            continue
        places, bases = labels.bases(own)
        order = np.lexsort((places, bases))
        places, bases = places[order], bases[order]
        for root, begin, stop in zip(
            roots.tolist(), np.searchsorted(bases, roots), np.searchsorted(bases, roots, "right"), strict=True
        ):
            contents.setdefault(root, []).append((number, along.classes[places[begin:stop]].tobytes()))
    pairs: list[tuple[int, int]] = []
    result: list[RemovedChannels] = []
    for group in found:
        first: dict[tuple[tuple[int, bytes], ...], int] = {}
        before = len(pairs)
        for root in group.roots.tolist():
            if root in contents and not barred[root]:
                kept = first.setdefault(tuple(contents[root]), root)
                pairs += [(kept, root)] if kept != root else []
        if len(pairs) == before:
            continue
        if gate.check(f"removing channels of {group.name}", DOUBLE) is not None:
            del pairs[before:]
        else:
            result.append(RemovedChannels(group.name, double=(len(pairs) - before) * group.width))
    if pairs:
        for read in _readers(ends):
            _merge(coupling, read, pairs)
        cut(model, coupling, labels.removed(np.array([root for _, root in pairs], np.int64)))
    return result


def _merge(coupling: Coupling, read: Contraction, pairs: Sequence[tuple[int, int]]) -> None:
    """Add what a weight makes of the second channel of each pair to what it makes of the first."""
    operand = read.fitted.signature.inputs[read.weight_index]
    array = constant(read.weight)
    assert array is not None
    summed = set(read.over) - read.fitted.signature.reaching
    for axis, (dimension, _) in enumerate(operand.axes(array.ndim)):
        labels = coupling.of(read.weight, axis)
        if labels is None or not summed & set(dimension.factors):
            continue
        places, roots = coupling.labels.bases(labels)
        concerned = np.isin(roots, np.array(pairs).ravel())
        if not concerned.any():
            continue  # a large weight is not copied for nothing
        places, roots = places[concerned], roots[concerned]
        moved = np.moveaxis(array.astype(np.float64), axis, 0).copy()
        changed = False
        for kept, removed in pairs:
            to, source = np.sort(places[roots == kept]), np.sort(places[roots == removed])
            if len(source):
                moved[to] += moved[source]
                changed = True
        if changed:
            array = np.moveaxis(moved, 0, axis).astype(array.dtype)
            overwrite(read.weight, array)


def _readers(ends: Sequence[Consumer]) -> list[Contraction]:
    """Return the contractions among the ends, each once."""
    return list({end.read.node: end.read for end in ends if end.read is not None}.values())


def _not_empty(coupling: Coupling, roots: Indices) -> Indices:
    """Return those of `roots` that may all go without an axis running empty."""
    labels = coupling.labels
    while len(roots):
        gone = labels.removed(roots)
        kept: set[int] = set()
        for axis, first in labels.start.items():
            size = coupling.relations.sizes[axis] or 0
            if size and gone[first : first + size].all():
                bases = labels.bases(first + np.arange(size))[1]
                own = bases[np.isin(bases, roots)]
                if len(own) and not kept & set(own.tolist()):
                    kept.add(int(own[0]))
        if not kept:
            return roots
        roots = roots[~np.isin(roots, list(kept))]
    return roots
