"""Finds out where the nodes of a model run: in int8, in float, or in no kernel of their own; and what Q and DQ are for.

Two witnesses: the graph that ONNX Runtime makes of the model, and its profile, which tells for each kernel the element
types that it was given. Neither asks what a kernel is called.
"""

from __future__ import annotations

import dataclasses
import enum
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from onnxslim.analysis.regions import grouped
from onnxslim.errors import RunError
from onnxslim.model.nesting import main_graphs
from onnxslim.ops.traits import Trait, has
from onnxslim.runtime.kernels import first_value, value_of
from onnxslim.runtime.profile import RUNS, Kernel, kernels
from onnxslim.runtime.target import Target

EIGHT_BITS = frozenset({"int8", "uint8"})
FLOATS = frozenset({"float", "float16", "bfloat16", "double"})


class RunsIn(str, enum.Enum):
    """What a node, or a kernel, computes on."""

    INT8 = "int8"
    """Integers of 8 bits."""
    WEIGHTS = "packed weights"
    """Floats, with weights of few bits."""
    FLOAT = "float"
    CONVERSION = "conversion"
    """From floats to integers, or back."""
    OTHER = "other"
    """Neither: shapes, indices, truth values, text."""
    NOWHERE = "nowhere"
    """No kernel is left that does it: it was computed when the model was opened, or is never run."""


class Purpose(str, enum.Enum):
    """What a conversion between floats and integers is for."""

    INTO_INT8 = "into int8"
    """What follows computes on the integers."""
    OUT_OF_INT8 = "out of int8"
    """What made the integers computed on integers."""
    INTERFACE = "interface"
    """An input or an output of the model is made of integers."""
    PAIR = "pair around floats"
    """Floats are rounded, and go on as floats: it costs time and saves none."""
    STORED = "stored integers"
    """A weight that is stored in few bits is made floats in every run: it saves bytes, and costs time."""

    @property
    def saves_time(self) -> bool:
        """Whether time can be saved by it, or it cannot be helped."""
        return self not in (Purpose.PAIR, Purpose.STORED)


@dataclasses.dataclass(frozen=True)
class PlacedNode:
    """Where one node of the model runs. Conversions are not listed."""

    node: ir.Node
    place: RunsIn
    kernel: Kernel | None


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A conversion between floats and integers that is a kernel of its own."""

    kernel: Kernel
    purpose: Purpose
    neighbours: tuple[ir.Node, ...]
    """The nodes of ONNX Runtime's graph that it is there for, or in vain: those behind it, or before it."""


@dataclasses.dataclass(frozen=True)
class KernelPlacement:
    """Where a model runs."""

    kernels: Mapping[str, Kernel]
    """All kernels, by name."""
    places: Mapping[str, RunsIn]
    """What each computes on, by its name."""
    nodes: tuple[PlacedNode, ...]
    conversions: tuple[Conversion, ...] | None
    """None where the provider does not write the graph that it runs."""


def place(model: ir.Model, feeds: Mapping[str, Any], target: Target, runs: int = RUNS) -> KernelPlacement:
    """Run `model`, which is not changed, on `feeds`, and return where each node runs.

    Raises:
        RunError: The model does not run on `feeds`.
    """
    named = model.clone()
    for graph in main_graphs(named):
        for node in graph:
            node.name = first_value(node)  # names of nodes may be missing, or there twice
    with tempfile.TemporaryDirectory(prefix="onnxslim-", ignore_cleanup_errors=True) as folder:
        path = pathlib.Path(folder) / "optimized.onnx"
        try:
            found = kernels(named, feeds, target, runs, path)
        except RunError:  # a provider that compiles nodes cannot write them; whatever else it is comes up again
            found = kernels(named, feeds, target, runs)
        graphs = main_graphs(ir.load(path)) if path.exists() else ()
        return _placement(model, found, graphs)


def _placement(model: ir.Model, found: Sequence[Kernel], graphs: Sequence[ir.Graph]) -> KernelPlacement:
    by_name = {kernel.name: kernel for kernel in found}
    runtime = {node.name or "": node for graph in graphs for node in graph}
    places = {name: place_of(kernel, runtime.get(name)) for name, kernel in by_name.items()}
    covering = _covering(model, by_name, places, runtime)
    nodes = []
    for graph in main_graphs(model):
        for node in graph:
            if not _converts(node):
                kernel = covering.get(node)
                where = RunsIn.NOWHERE if kernel is None else places[kernel.name]
                nodes.append(PlacedNode(node, RunsIn.FLOAT if where is RunsIn.CONVERSION else where, kernel))
    conversions = tuple(_conversions(graphs, by_name, places)) if graphs else None
    return KernelPlacement(by_name, places, tuple(nodes), conversions)


def place_of(kernel: Kernel, node: ir.Node | None = None) -> RunsIn:
    """Return what a kernel computes on; `node` is its node in ONNX Runtime's graph, where that is known.

    A profile leaves out the weights that a kernel packed when the model was opened; the graph has them.
    """
    values = () if node is None else node.inputs
    stored = {value.dtype.name.lower() for value in values if value is not None and value.dtype is not None}
    given, made = EIGHT_BITS & {*kernel.inputs, *stored}, EIGHT_BITS & set(kernel.outputs)
    if kernel.op_type in CONVERTERS or (made and not given and FLOATS & set(kernel.inputs)):
        return RunsIn.CONVERSION
    if node is not None and "bits" in node.attributes and FLOATS & set(kernel.outputs):
        return RunsIn.WEIGHTS
    if given and kernel.op_type not in CASTS:
        return RunsIn.INT8
    return RunsIn.FLOAT if FLOATS & {*kernel.inputs[:1], *kernel.outputs[:1]} else RunsIn.OTHER


CONVERTERS = frozenset(op_type for trait in (Trait.QUANTIZES, Trait.DEQUANTIZES) for _, op_type in trait.ops)
"""Op types; a profile does not tell the domain."""
CASTS = frozenset(op_type for _, op_type in Trait.CONVERTS.ops)


def _converts(node: ir.Node) -> bool:
    return has(node, Trait.QUANTIZES) or has(node, Trait.DEQUANTIZES)


def _covering(
    model: ir.Model, found: Mapping[str, Kernel], places: Mapping[str, RunsIn], runtime: Mapping[str, ir.Node]
) -> dict[ir.Node, Kernel]:
    """Return the kernel that does the work of each node of the model.

    Of several kernels that make one value, in another layout or type, the one that takes longest counts; conversions
    only where there is no other.
    """
    covering: dict[ir.Node, Kernel] = {}
    for graph in main_graphs(model):
        values = ((node, output.name) for node in graph for output in node.outputs if output.name)
        makers: dict[str | None, str] = {name: first_value(node) for node, name in values}
        by_value: dict[str, Kernel] = {}
        for name, kernel in found.items():
            made = [output.name for output in runtime[name].outputs] if name in runtime else []
            value = next((makers[output] for output in made if output in makers), None)
            if value is None and places[name] is not RunsIn.CONVERSION:  # those are called after what they are for
                value = value_of(name, makers)
            if value is None:
                continue
            known = by_value.get(value)
            if known is None or _weight(kernel, places) > _weight(known, places):
                by_value[value] = kernel
        for value, nodes in grouped(graph, by_value).items():
            if value:
                covering.update(dict.fromkeys(nodes, by_value[value]))
    return covering


def _weight(kernel: Kernel, places: Mapping[str, RunsIn]) -> tuple[bool, float]:
    return places[kernel.name] is not RunsIn.CONVERSION, kernel.milliseconds


def _conversions(
    graphs: Sequence[ir.Graph], found: Mapping[str, Kernel], places: Mapping[str, RunsIn]
) -> Iterator[Conversion]:
    for graph in graphs:
        for node in graph:
            kernel = found.get(node.name or "")
            if kernel is None or not _converts(node):
                continue
            readers = [use.node for output in node.outputs for use in output.uses()]
            source = node.inputs[0]
            producer = None if source is None else source.producer()
            if has(node, Trait.QUANTIZES):
                purpose = Purpose.INTO_INT8
                if node.outputs[0].is_graph_output():
                    purpose = Purpose.INTERFACE
                elif readers and all(map(_converts, readers)):
                    purpose = Purpose.PAIR
                    readers = [use.node for reader in readers for output in reader.outputs for use in output.uses()]
                neighbours = readers
            elif producer is not None:
                purpose = Purpose.PAIR if _converts(producer) else Purpose.OUT_OF_INT8
                neighbours = readers if purpose is Purpose.PAIR else [producer]
            else:
                stored = source is not None and source.is_initializer()
                purpose, neighbours = Purpose.STORED if stored else Purpose.INTERFACE, readers
            yield Conversion(kernel, purpose, tuple(dict.fromkeys(neighbours)))
