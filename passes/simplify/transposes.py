"""Moves Transposes through ops that work the same in any layout, to where they meet and cancel.

For each permutation the pass decides which nodes compute in the layout before it. That is a minimum cut: a node lies on
one side or the other, and each value that crosses the border costs a Transpose. Nodes on the side of the sources are
computed in the other layout; that is done only where it leaves fewer Transposes than there are.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.inference import Inference
from onnxslim.model.constants import constant, constant_tensor
from onnxslim.model.edit import Editor, note_same, take_over
from onnxslim.model.nesting import main_graphs
from onnxslim.ops.fact import NodeFacts, Unknowable
from onnxslim.ops.families.movement import permutation
from onnxslim.ops.families.normalization import mixed_axes
from onnxslim.ops.parameters import attribute, integers
from onnxslim.ops.relations import NodeAxes
from onnxslim.ops.signatures import OpName
from onnxslim.ops.traits import Trait, has, having

from .min_cut import UnitFlow

Permutation = tuple[int, ...]

LARGEST_CONSTANT = 1 << 20
"""Elements of a constant that is worth a copy in another layout."""
UNLIMITED = 1 << 30

BEHAVIOURS = (
    Trait.ELEMENTWISE,
    Trait.JOINING,
    Trait.PARTS,
    Trait.QUANTIZES,
    Trait.DEQUANTIZES,
    Trait.NORMALIZES,
    Trait.REDUCES,
    Trait.SLICES,
    Trait.PADS,
)
"""Traits of ops that work in any layout; the first that an op has counts."""


@functools.cache
def _behaviour(op: OpName) -> Trait | None:
    return next((trait for trait in BEHAVIOURS if op in trait.ops), None)


@dataclasses.dataclass(frozen=True)
class PermutedForm:
    """How a node is written in the layout before a permutation; what is not listed stays as it is."""

    operands: tuple[int, ...]
    """The inputs that have a layout."""
    attributes: tuple[ir.Attr, ...] = ()
    """Attributes with axes in the other layout."""
    settings: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """(input, integers): constants with axes in the other layout."""


def move_transposes(model: ir.Model, known: Inference) -> int:
    """Compute in other layouts what leaves fewer Transposes. Returns how many are saved."""
    editor = Editor(model)
    return sum(
        _Layout(editor, graph, order, known).apply()
        for graph in main_graphs(model)
        for order in dict.fromkeys(permutation_of(node, known) for node in having([graph], Trait.PERMUTES))
        if order is not None and order != tuple(range(len(order)))
    )


def permutation_of(node: ir.Node, known: Inference) -> Permutation | None:
    """Return the permutation of a Transpose; None for other nodes, and where it is not known."""
    if not has(node, Trait.PERMUTES) or node.inputs[0] is None:
        return None
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return None
    shape = known.fact(node.inputs[0]).shape
    return None if shape is None and not node.attributes else permutation(NodeAxes(node), len(shape or ()))


class _Layout:
    """One graph, and the layout before one permutation: axis `i` of a permuted value was axis `permutation[i]`."""

    def __init__(self, editor: Editor, graph: ir.Graph, permutation: Permutation, known: Inference) -> None:
        self._editor, self._graph, self._known = editor, graph, known
        self._permutation, self._rank = permutation, len(permutation)
        self._inverse = tuple(int(axis) for axis in np.argsort(permutation))
        self._moved: dict[ir.Value, ir.Value] = {}
        self._same: list[tuple[str, str]] = []
        self._region: dict[ir.Node, PermutedForm] = {}

    def apply(self) -> int:
        """Rewrite the nodes that are worth it. Returns how many Transposes are saved."""
        candidates = {node: form for node in self._graph if (form := self._form_of(node)) is not None}
        saved, self._region = self._cut(candidates)
        for node, form in self._region.items():
            self._rewrite(node, form)
        self._graph.remove(self._region, safe=True)
        note_same(self._graph, self._same)
        return saved

    # Which nodes can be computed in the other layout ----------------------------------------------------------------

    def _form_of(self, node: ir.Node) -> PermutedForm | None:
        """Return the form of a node in the other layout, None where it has none."""
        trait = _behaviour((node.domain, node.op_type))
        # Kernels of ONNX Runtime's own ops want their operands as they are: a bias is a vector along the last axis.
        if trait is None or node.domain or not node.inputs:
            return None
        if any(self._rank_of(output) != self._rank for output in node.outputs):
            return None
        if any(attribute.is_ref() for attribute in node.attributes.values()):
            return None
        if trait is Trait.ELEMENTWISE:
            operands = tuple(index for index, value in enumerate(node.inputs) if not self._is_scalar(value)) or (0,)
            return None if has(node, Trait.RANDOM) else self._form(node, operands)
        if trait is Trait.JOINING:
            form = PermutedForm(tuple(range(len(node.inputs))), self._axis(node))
            return form if all(map(self._has_layout, node.inputs)) else None
        form_of_first = self._form(node, (0,))
        if form_of_first is None:
            return None
        match trait:
            case Trait.QUANTIZES | Trait.DEQUANTIZES:
                return form_of_first if all(map(self._is_scalar, node.inputs[1:])) else None
            case Trait.PARTS:
                return dataclasses.replace(form_of_first, attributes=self._axis(node))
            case Trait.NORMALIZES:  # kernels want the last axis
                axis, version = self._axis(node), self._known.opsets.get(node.domain, 1)
                last = self._axes(mixed_axes(NodeFacts(node, (), version), self._rank)) == (self._rank - 1,)
                return dataclasses.replace(form_of_first, attributes=axis) if axis and last else None
            case Trait.REDUCES:
                return self._with_integers(node, "axes", 1, self._axes, form_of_first)
            case Trait.SLICES:
                return self._with_integers(node, "axes", 3, self._axes)
            case _:
                padded = trait is Trait.PADS and not NodeAxes(node).has(3)
                return self._with_integers(node, "pads", 1, self._borders) if padded else None

    def _form(self, node: ir.Node, operands: tuple[int, ...]) -> PermutedForm | None:
        """Return the form in which `operands` are permuted; None where one of them cannot be, or all are constant."""
        values = [node.inputs[index] for index in operands]
        if not all(map(self._has_layout, values)) or all(constant_tensor(value) is not None for value in values):
            return None
        return PermutedForm(operands)

    def _axis(self, node: ir.Node) -> tuple[ir.Attr, ...]:
        """Return the attribute `axis` in the other layout; nothing where the op has none."""
        axis = attribute(node, "axis")
        return (ir.AttrInt64("axis", self._axes([axis])[0]),) if isinstance(axis, int) else ()

    def _axes(self, axes: Sequence[int]) -> tuple[int, ...]:
        return tuple(self._permutation[axis % self._rank] for axis in axes)

    def _borders(self, pads: Sequence[int]) -> tuple[int, ...]:
        if len(pads) != 2 * self._rank:
            raise Unknowable
        begins, ends = pads[: self._rank], pads[self._rank :]
        return tuple(border[axis] for border in (begins, ends) for axis in self._inverse)

    def _with_integers(
        self,
        node: ir.Node,
        name: str,
        index: int,
        convert: Callable[[Sequence[int]], tuple[int, ...]],
        default: PermutedForm | None = None,
    ) -> PermutedForm | None:
        """Return the form in which integers, an attribute or the input `index`, are converted.

        Returns:
            `default` where the node has none of them, None where they are computed when the model runs.
        """
        try:
            found = integers(NodeAxes(node), name, index)
            converted = None if found is None else convert(found)
        except Unknowable:
            return None
        if converted is None:
            return default
        if name in node.attributes:
            return PermutedForm((0,), (ir.AttrInt64s(name, converted),))
        return PermutedForm((0,), settings=((index, converted),))

    def _rank_of(self, value: ir.Value) -> int | None:
        shape = self._known.fact(value).shape
        return None if shape is None else len(shape)

    def _is_scalar(self, value: ir.Value | None) -> bool:
        shape = self._known.fact(value).shape if value is not None else ()
        return shape is not None and len(shape) <= self._rank and all(size == 1 for size in shape)

    def _has_layout(self, value: ir.Value | None) -> bool:
        """Whether a value can be had in the other layout: of this rank, or a constant that is no larger."""
        if value is None:
            return False
        if (tensor := constant_tensor(value)) is not None:
            return tensor.size <= LARGEST_CONSTANT and len(tensor.shape) <= self._rank
        return self._rank_of(value) == self._rank

    # Which of them are worth it -------------------------------------------------------------------------------------

    def _cut(self, candidates: dict[ir.Node, PermutedForm]) -> tuple[int, dict[ir.Node, PermutedForm]]:
        """Return how many Transposes are saved, and the nodes to compute in the other layout, in order."""
        flow = UnitFlow()
        seen: set[ir.Value] = set()
        for node, form in candidates.items():
            for value in (*(node.inputs[index] for index in form.operands), *node.outputs):
                if value is not None and value not in seen and constant_tensor(value) is None:
                    seen.add(value)
                    self._add_cost(value, candidates, flow)
        saved = flow.run()
        return saved, {node: form for node, form in candidates.items() if node in flow.reached}

    def _add_cost(self, value: ir.Value, candidates: dict[ir.Node, PermutedForm], flow: UnitFlow) -> None:
        """Add the cost of a value whose producer and users are on different sides."""
        producer = value.producer()
        from_transpose = self._is_permuted(value)
        inside, outside, cancels = [], value.is_graph_output(), False
        for node, index in value.uses():
            if node in candidates and index in candidates[node].operands:
                inside.append(node)
                continue
            order = permutation_of(node, self._known) if node.graph is self._graph else None
            cancels |= order == self._inverse
            outside |= order is None or from_transpose
        if producer is not None and producer in candidates:
            flow.edge(producer, (value, "out"), 1)
            flow.edge((value, "in"), producer, 1)
            if cancels:
                flow.starts.append(producer)
        elif from_transpose:
            flow.starts.append((value, "out"))
        else:
            flow.edge((value, "in"), flow.SINK, 1)
        if outside:
            flow.edge((value, "out"), flow.SINK, UNLIMITED)
        for node in inside:
            flow.edge((value, "out"), node, UNLIMITED)
            flow.edge(node, (value, "in"), UNLIMITED)

    def _is_permuted(self, value: ir.Value) -> bool:
        """Whether a value is the result of a Transpose of this graph by this permutation."""
        node = value.producer()
        return node is not None and node.graph is self._graph and permutation_of(node, self._known) == self._permutation

    # Rewriting ------------------------------------------------------------------------------------------------------

    def _rewrite(self, node: ir.Node, form: PermutedForm) -> None:
        inputs = list(node.inputs)
        for index in form.operands:
            inputs[index] = self._unpermuted(node.inputs[index], node)
        for index, elements in form.settings:
            old = constant(node.inputs[index])
            array = np.array(elements, np.int64 if old is None else old.dtype)
            inputs[index] = self._editor.initializer(f"{node.outputs[0].name}/turned_{index}", array, self._graph)
        attributes = {**node.attributes, **{attribute.name: attribute for attribute in form.attributes}}
        permuted = ir.Node(
            node.domain, node.op_type, inputs, attributes.values(), num_outputs=len(node.outputs), name=node.name
        )
        self._graph.insert_before(node, permuted)
        for output, new in zip(node.outputs, permuted.outputs, strict=True):
            self._copy_type(new, output, self._editor.name(f"{output.name}/turned"), self._inverse)
            self._same.append((new.name or "", output.name or ""))
            self._moved[output] = new
            self._hand_over(output, new, node)

    def _copy_type(self, new: ir.Value, old: ir.Value, name: str, permutation: Permutation) -> None:
        new.name, new.type = name, old.type
        if old.shape is not None:
            new.shape = ir.Shape([old.shape[axis] for axis in permutation])

    def _unpermuted(self, value: ir.Value | None, node: ir.Node) -> ir.Value:
        """Return a value as it is before the permutation, for `node` to read."""
        assert value is not None  # or it would have no layout
        if value not in self._moved:
            producer = value.producer()
            array = constant(value)
            if array is not None:
                array = array.reshape((1,) * (self._rank - array.ndim) + array.shape).transpose(self._inverse)
                self._moved[value] = self._editor.initializer(f"{value.name}/turned", array, self._graph)
            elif producer is not None and self._is_permuted(value):
                self._moved[value] = producer.inputs[0]  # type: ignore[assignment]  # a Transpose has an input
            else:
                self._moved[value] = self._transpose(value, self._inverse, f"{value.name}/turned", node)
        return self._moved[value]

    def _transpose(self, value: ir.Value, permutation: Permutation, name: str, before: ir.Node) -> ir.Value:
        name = self._editor.name(name)
        node = ir.Node("", "Transpose", [value], [ir.AttrInt64s("perm", permutation)], name=name)
        self._copy_type(node.outputs[0], value, name, permutation)
        self._graph.insert_before(before, node)
        return node.outputs[0]

    def _hand_over(self, old: ir.Value, new: ir.Value, node: ir.Node) -> None:
        """Let Transposes of `old` read `new`, composed with the permutation, and all other users a permuted copy."""
        for user, _ in list(old.uses()):
            order = permutation_of(user, self._known) if user.graph is self._graph else None
            if order is not None:
                user.replace_input_with(0, new)
                user.attributes["perm"] = ir.AttrInt64s("perm", self._axes(order))
        users = list(old.uses())
        inside = [index in self._region[user].operands for user, index in users if user in self._region]
        if old.is_graph_output() or len(inside) < len(users) or not all(inside):
            permuted = self._transpose(new, self._permutation, f"{old.name}/back", node)
            take_over(permuted, old)
            self._moved[permuted] = new
