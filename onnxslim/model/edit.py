"""Edits graphs: names that are free, new constants, values and nodes that take the place of others."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Array

from .constants import as_tensor
from .nesting import every_graph, values_of

LARGE = 1 << 12
"""Bytes of a constant above which its bytes are not remembered."""

SAME = "onnxslim.same"
"""Where a graph keeps the names of values that stand for others, in any layout: (name, the name of the other)."""


class Editor:
    """Adds to a model under names that nothing in it has: no value and no node, in nested graphs and functions either.

    Names in use are collected when the first name is asked for. From then on names must come from this editor, or be
    taken over from what they belonged to.

    Args:
        model: The model, changed in place.
    """

    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph
        self._model = model
        self._numbers: dict[str, Iterator[int]] = {}
        self._constants: dict[tuple[str, str, tuple[int, ...], bytes], ir.Value] = {}

    @functools.cached_property
    def _taken(self) -> set[str]:
        return {"", *names_in(every_graph(self._model))}

    def name(self, wanted: str) -> str:
        """Return `wanted`, or the first of ``wanted_1``, ``wanted_2``, ... that is free, and take it."""
        if wanted in self._taken:
            return self._next(f"{wanted}_", first=1)
        self._taken.add(wanted)
        return wanted

    def numbered(self, prefix: str) -> str:
        """Return the first of ``prefix0``, ``prefix1``, ... that is free, and take it."""
        return self._next(prefix, first=0)

    def initializer(self, wanted: str, array: Array, graph: ir.Graph | None = None) -> ir.Value:
        """Return a new initializer of the main graph, or of one nested in it, called `wanted` where that is free."""
        return new_initializer(self.graph if graph is None else graph, self.name(wanted), array)

    def constant(self, prefix: str, array: Array) -> ir.Value:
        """Return an initializer of the main graph under a numbered name, one for all equal arrays."""
        key = prefix, array.dtype.name, array.shape, _content(array)
        if key not in self._constants:
            self._constants[key] = new_initializer(self.graph, self.numbered(prefix), array)
        return self._constants[key]

    def _next(self, prefix: str, first: int) -> str:
        numbers = self._numbers.setdefault(prefix, itertools.count(first))
        name = next(name for number in numbers if (name := f"{prefix}{number}") not in self._taken)
        self._taken.add(name)
        return name


def _content(array: Array) -> bytes:
    """Return what tells an array from others of its type and shape: of a weight a digest, since it would be in memory
    twice by its bytes."""
    if array.nbytes <= LARGE or array.dtype.hasobject:
        return array.tobytes()
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).digest()


def names_in(graphs: Iterable[ir.Graph]) -> Iterator[str]:
    """Yield the names of the values and nodes of graphs, not of those nested in them; empty ones, too."""
    for graph in graphs:
        yield from (part.name or "" for part in (*values_of(graph), *graph))


def new_initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """Add `array` to `graph` as an initializer called `name`, which must be free, and return it."""
    value = constant_value(name, array)
    graph.register_initializer(value)
    return value


def constant_value(name: str, array: Array) -> ir.Value:
    """Return a value of no graph yet that is `array`."""
    tensor = as_tensor(array, name)
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)


def overwrite(value: ir.Value, array: Array) -> None:
    """Give an initializer other numbers, as many as it has; its shape and its element type stay."""
    tensor = value.const_value
    assert tensor is not None
    value.const_value = ir.tensor(array.reshape(tensor.shape.numpy()).astype(tensor.dtype.numpy()), name=value.name)


def set_inputs(node: ir.Node, values: Sequence[ir.Value | None]) -> None:
    """Let a node read `values`, and nothing else."""
    node.resize_inputs(len(values))
    for index, value in enumerate(values):
        node.replace_input_with(index, value)


def take_over(new: ir.Value, old: ir.Value) -> None:
    """Let `new` have the name, the type, the shape and all readers of `old`, which must go, or be named anew."""
    new.type, new.shape = old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name = old.name


def drop_unused(graph: ir.Graph, values: Iterable[ir.Value | None] | None = None) -> int:
    """Remove initializers that nothing reads, and that are neither inputs nor outputs; return how many.

    Args:
        graph: Their graph.
        values: Those to look at, and maybe other values; None: all initializers.
    """
    count = 0
    for value in list(graph.initializers.values()) if values is None else values:
        if value is None or value.uses() or value.is_graph_input() or value.is_graph_output():
            continue
        if value.is_initializer():
            count += graph.initializers.pop(value.name or "", None) is not None
    return count


def become(model: ir.Model, other: ir.Model) -> None:
    """Give `model` the graph, the functions and the version of `other`, which is of no use afterwards."""
    model.graph = other.graph
    model.ir_version = other.ir_version
    model.functions.clear()
    model.functions.update(other.functions)


def note_same(graph: ir.Graph, pairs: Iterable[tuple[str, str]]) -> None:
    """Note that values of a graph are the same as others that are in it, or that were: those go by their names too."""
    graph.meta[SAME] = (*graph.meta.get(SAME, ()), *pairs)  # a clone has the old one


def same_values(graph: ir.Graph) -> Mapping[str, Set[str]]:
    """Return for each name that was given to `note_same` all names of what is the same."""
    classes: dict[str, set[str]] = {}
    for name, same in graph.meta.get(SAME, ()):
        small, large = sorted((classes.get(name, {name}), classes.get(same, {same})), key=len)
        large |= small
        classes.update(dict.fromkeys((name, same, *small), large))
    return classes
