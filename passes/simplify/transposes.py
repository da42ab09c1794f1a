"""Moves Transposes through ops that work the same in any layout, to where they meet and cancel.

For each permutation it is asked which ops should compute in the layout before it. That is a minimum cut: an op lies on
one side or the other, and each value that crosses the border costs a Transpose. What lies on the side of the sources is
computed in the other layout; that is done only where it leaves fewer Transposes than there are.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Hashable

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.inference import Inference
from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor, note_same, take_over
from onnxslim.model.nesting import main_graphs

from .no_ops import BROADCASTING

Permutation = tuple[int, ...]
Rewrite = Callable[[ir.Node, Permutation], "Turned | None"]

UNARY = frozenset(
    {
        "Abs",
        "Acos",
        "Acosh",
        "Asin",
        "Asinh",
        "Atan",
        "Atanh",
        "BitwiseNot",
        "Cast",
        "Ceil",
        "Celu",
        "Cos",
        "Cosh",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "IsInf",
        "IsNaN",
        "LeakyRelu",
        "Log",
        "Mish",
        "Neg",
        "Not",
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Shrink",
        "Sigmoid",
        "Sign",
        "Sin",
        "Sinh",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Swish",
        "Tan",
        "Tanh",
        "ThresholdedRelu",
    }
)
"""Ops on each element by itself."""

WITH_SCALARS = frozenset({"Clip", "DequantizeLinear", "QuantizeLinear"})
"""The same, if all that they are told is scalars."""

REDUCTIONS = frozenset(
    {
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
    }
)
LARGEST_CONSTANT = 1 << 20
"""Elements of a constant that is worth a copy in another layout."""
UNLIMITED = 1 << 30
OPSET_OF_ONE_AXIS = 13
"""Before it, Softmax flattened what followed its axis."""


@dataclasses.dataclass(frozen=True)
class Turned:
    """How a node is written in the layout before a permutation: `values` are turned, the rest as here."""

    values: tuple[int, ...]
    """Places of inputs that have a layout."""
    attributes: tuple[ir.Attr, ...] = ()
    """Attributes that are said anew."""
    inputs: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """Inputs that are told anew: the place, and the integers."""


def move_transposes(model: ir.Model, known: Inference) -> int:
    """Compute in other layouts what leaves fewer Transposes. Returns how many are saved."""
    editor, opset = Editor(model), model.opset_imports.get("", 0)
    return sum(
        _Layout(editor, graph, permutation, known, opset).apply()
        for graph in main_graphs(model)
        for permutation in dict.fromkeys(permutation_of(node, known) for node in graph)
        if permutation is not None and permutation != tuple(range(len(permutation)))
    )


def permutation_of(node: ir.Node, known: Inference) -> Permutation | None:
    """Return what a Transpose does; None for other nodes, and where it cannot be told."""
    if node.op_type != "Transpose" or node.domain or node.inputs[0] is None:
        return None
    perm = node.attributes.get("perm")
    if perm is not None:
        return None if perm.is_ref() else tuple(perm.as_ints())
    shape = known.fact(node.inputs[0]).shape
    return None if shape is None else tuple(reversed(range(len(shape))))


class _Layout:
    """One graph, and the layout before one permutation: `p[i]` is where axis `i` was."""

    def __init__(self, editor: Editor, graph: ir.Graph, permutation: Permutation, known: Inference, opset: int) -> None:
        self._editor = editor
        self._graph, self._p, self._known, self._opset = graph, permutation, known, opset
        self._back = tuple(int(each) for each in np.argsort(permutation))
        self._moved: dict[ir.Value, ir.Value] = {}
        self._same: list[tuple[str, str]] = []
        self._region: dict[ir.Node, Turned] = {}

    def apply(self) -> int:
        """Rewrite what is worth it."""
        candidates = {node: turned for node in self._graph if (turned := self._turned(node)) is not None}
        saved, self._region = self._cut(candidates)
        for node, turned in self._region.items():
            self._rewrite(node, turned)
        self._graph.remove(self._region, safe=True)
        note_same(self._graph, self._same)
        return saved

    def _rank(self, value: ir.Value) -> int | None:
        shape = self._known.fact(value).shape
        return None if shape is None else len(shape)

    def _is_scalar(self, value: ir.Value | None) -> bool:
        shape = self._known.fact(value).shape if value is not None else ()
        return shape is not None and len(shape) <= len(self._p) and all(size == 1 for size in shape)

    def _has_layout(self, value: ir.Value | None) -> bool:
        """Whether a value can be had in the other layout: of this rank, or a constant that is no larger."""
        if value is None:
            return False
        shape = self._known.fact(value).shape
        if value.const_value is not None and not value.is_graph_input():
            return value.const_value.size <= LARGEST_CONSTANT and len(value.const_value.shape) <= len(self._p)
        return shape is not None and len(shape) == len(self._p)

    def _turned(self, node: ir.Node) -> Turned | None:
        if node.domain or any(self._rank(output) != len(self._p) for output in node.outputs):
            return None
        if any(attribute.is_ref() for attribute in node.attributes.values()) or not node.inputs:
            return None
        op, rest = node.op_type, range(1, len(node.inputs))
        first = Turned((0,)) if self._has_layout(node.inputs[0]) and not self._is_known(node.inputs[0]) else None
        if op in BROADCASTING:
            places = tuple(i for i, value in enumerate(node.inputs) if not self._is_scalar(value))
            told = all(self._has_layout(node.inputs[i]) for i in places)
            return Turned(places) if told and any(not self._is_known(node.inputs[i]) for i in places) else None
        if op == "Concat":
            whole = Turned(tuple(range(len(node.inputs))), self._axis(node))
            return whole if all(map(self._has_layout, node.inputs)) else None
        if first is None:
            return None
        if op in UNARY or (op in WITH_SCALARS and all(self._is_scalar(node.inputs[i]) for i in rest)):
            return first
        if op == "Split":
            return dataclasses.replace(first, attributes=self._axis(node))
        if op in ("Softmax", "LogSoftmax"):  # kernels want the last axis
            axis = self._axis(node, -1)
            last = self._opset >= OPSET_OF_ONE_AXIS and axis[0].as_int() == len(self._p) - 1
            return dataclasses.replace(first, attributes=axis) if last else None
        if op in REDUCTIONS:
            return self._reduction(node)
        return self._cuts(node) if op in ("Slice", "Pad") else None

    def _is_known(self, value: ir.Value | None) -> bool:
        return value is not None and value.const_value is not None and not value.is_graph_input()

    def _axis(self, node: ir.Node, default: int = 0) -> tuple[ir.Attr, ...]:
        axis = node.attributes.get("axis")
        return (ir.AttrInt64("axis", self._axes([default if axis is None else axis.as_int()])[0]),)

    def _axes(self, axes: list[int]) -> tuple[int, ...]:
        return tuple(self._p[axis % len(self._p)] for axis in axes)

    def _reduction(self, node: ir.Node) -> Turned | None:
        keep, axes = node.attributes.get("keepdims"), node.attributes.get("axes")
        if keep is not None and not keep.as_int():
            return None
        if axes is not None:
            return Turned((0,), (ir.AttrInt64s("axes", self._axes(list(axes.as_ints()))),))
        if len(node.inputs) < 2 or node.inputs[1] is None:
            return Turned((0,))
        told = constant(node.inputs[1])
        return None if told is None else Turned((0,), inputs=((1, self._axes(told.tolist())),))

    def _cuts(self, node: ir.Node) -> Turned | None:
        place = 3 if node.op_type == "Slice" else 1
        told = constant(node.inputs[place]) if len(node.inputs) > place else None
        if told is None:
            return None
        if node.op_type == "Slice":
            return Turned((0,), inputs=((place, self._axes(told.tolist())),))
        if told.size != 2 * len(self._p) or (len(node.inputs) > 3 and node.inputs[3] is not None):
            return None
        return Turned((0,), inputs=((1, tuple(told.reshape(2, -1)[:, list(self._back)].reshape(-1).tolist())),))

    def _cut(self, candidates: dict[ir.Node, Turned]) -> tuple[int, dict[ir.Node, Turned]]:
        """Return how many Transposes are saved, and the nodes to compute in the other layout, in order."""
        flow = _Flow()
        seen: set[ir.Value] = set()
        for node, turned in candidates.items():
            for value in (*(node.inputs[i] for i in turned.values), *node.outputs):
                if value is None or value in seen or self._is_known(value):
                    continue
                seen.add(value)
                self._price(value, candidates, flow)
        saved = flow.run()
        return saved, {node: turned for node, turned in candidates.items() if node in flow.reached}

    def _price(self, value: ir.Value, candidates: dict[ir.Node, Turned], flow: _Flow) -> None:
        """Say what a value costs where its maker and its users are on different sides."""
        maker = value.producer()
        from_transpose = self._is_turned(value)
        inside, outside, cancels = [], value.is_graph_output(), False
        for node, place in value.uses():
            if node in candidates and place in candidates[node].values:
                inside.append(node)
                continue
            perm = permutation_of(node, self._known) if node.graph is self._graph else None
            cancels |= perm == self._back
            outside |= perm is None or from_transpose
        if maker is not None and maker in candidates:
            flow.edge(maker, (value, "out"), 1)
            flow.edge((value, "in"), maker, 1)
            if cancels:
                flow.starts.append(maker)
        elif from_transpose:
            flow.starts.append((value, "out"))
        else:
            flow.edge((value, "in"), flow.SINK, 1)
        if outside:
            flow.edge((value, "out"), flow.SINK, UNLIMITED)
        for node in inside:
            flow.edge((value, "out"), node, UNLIMITED)
            flow.edge(node, (value, "in"), UNLIMITED)

    def _is_turned(self, value: ir.Value) -> bool:
        maker = value.producer()
        return maker is not None and maker.graph is self._graph and permutation_of(maker, self._known) == self._p

    def _rewrite(self, node: ir.Node, turned: Turned) -> None:
        inputs = list(node.inputs)
        for place in turned.values:
            inputs[place] = self._before(node.inputs[place], node)
        for place, integers in turned.inputs:
            like = constant(node.inputs[place])
            array = np.array(integers, np.int64 if like is None else like.dtype)
            inputs[place] = self._editor.initializer(f"{node.outputs[0].name}/turned_{place}", array, self._graph)
        attributes = {**node.attributes, **{each.name: each for each in turned.attributes}}
        new = ir.Node("", node.op_type, inputs, attributes.values(), num_outputs=len(node.outputs), name=node.name)
        self._graph.insert_before(node, new)
        for old, other in zip(node.outputs, new.outputs, strict=True):
            self._describe(other, old, self._editor.name(f"{old.name}/turned"), self._back)
            self._same.append((other.name or "", old.name or ""))
            self._moved[old] = other
            self._hand_over(old, other, node)

    def _describe(self, new: ir.Value, like: ir.Value, name: str, permutation: Permutation) -> None:
        new.name, new.type = name, like.type
        if like.shape is not None:
            new.shape = ir.Shape([like.shape[axis] for axis in permutation])

    def _before(self, value: ir.Value | None, node: ir.Node) -> ir.Value:
        """Return a value as it is before the permutation."""
        assert value is not None  # or it would have no layout
        if value not in self._moved:
            maker = value.producer()
            array = constant(value) if self._is_known(value) else None
            if array is not None:
                whole = array.reshape((1,) * (len(self._p) - array.ndim) + array.shape).transpose(self._back)
                self._moved[value] = self._editor.initializer(f"{value.name}/turned", whole, self._graph)
            elif maker is not None and self._is_turned(value):
                self._moved[value] = maker.inputs[0]  # type: ignore[assignment]  # a Transpose has an input
            else:
                self._moved[value] = self._transpose(value, self._back, f"{value.name}/turned", node)
        return self._moved[value]

    def _transpose(self, value: ir.Value, permutation: Permutation, name: str, before: ir.Node) -> ir.Value:
        name = self._editor.name(name)
        node = ir.Node("", "Transpose", [value], [ir.AttrInt64s("perm", permutation)], name=name)
        self._describe(node.outputs[0], value, name, permutation)
        self._graph.insert_before(before, node)
        return node.outputs[0]

    def _hand_over(self, old: ir.Value, new: ir.Value, node: ir.Node) -> None:
        """Let Transposes read what is turned already, and all others what is turned back for them."""
        for user, _ in list(old.uses()):
            perm = permutation_of(user, self._known) if user.graph is self._graph else None
            if perm is not None:
                user.replace_input_with(0, new)
                user.attributes["perm"] = ir.AttrInt64s("perm", [self._p[axis] for axis in perm])
        users = list(old.uses())
        inside = [place in self._region[user].values for user, place in users if user in self._region]
        if old.is_graph_output() or len(inside) < len(users) or not all(inside):
            back = self._transpose(new, self._p, f"{old.name}/back", node)
            take_over(back, old)
            self._moved[back] = new


class _Flow:
    """A maximum flow in a graph whose edges from the source have room for one each: paths are found one by one."""

    SINK = "sink"

    def __init__(self) -> None:
        self.starts: list[Hashable] = []
        self.reached: set[Hashable] = set()
        """After `run`: the side of the source in the smallest minimum cut."""
        self._room: dict[Hashable, dict[Hashable, int]] = collections.defaultdict(dict)

    def edge(self, one: Hashable, other: Hashable, room: int) -> None:
        """Add an edge."""
        self._room[one][other] = self._room[one].get(other, 0) + room
        self._room[other].setdefault(one, 0)

    def run(self) -> int:
        """Return how many starts have no way to the sink.

        What is reached in vain is left out from then on: no later path leads out of it.
        """
        return sum(not self._augment(start) for start in self.starts)

    def _augment(self, start: Hashable) -> bool:
        if start in self.reached:
            return False
        came: dict[Hashable, Hashable] = {start: start}
        queue = collections.deque([start])
        while queue:
            here = queue.popleft()
            for there, room in self._room[here].items():
                if room <= 0 or there in came or there in self.reached:
                    continue
                came[there] = here
                if there == self.SINK:
                    self._push(there, came)
                    return True
                queue.append(there)
        self.reached.update(came)
        return False

    def _push(self, end: Hashable, came: dict[Hashable, Hashable]) -> None:
        while came[end] != end:
            self._room[came[end]][end] -= 1
            self._room[end][came[end]] += 1
            end = came[end]
