"""Evaluates what is known before the model runs: the nodes that compute nothing but constants.

What cannot be evaluated (`onnxslim.analysis.evaluate`) stays, and so does what would make the file grow.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.evaluate import divides_safely, evaluate_nodes
from onnxslim.analysis.evaluation_limits import (
    LOOKED_BYTES,
    MOST_MACS,
    PART_BYTES,
    known_bytes,
    known_macs,
    most_bytes,
    must_be_looked_at,
)
from onnxslim.analysis.growth import Growth
from onnxslim.arrays import Array
from onnxslim.model.constants import (
    CONSTANT,
    Operation,
    as_tensor,
    constant,
    constant_tensor,
    static_bytes,
    tensor_bytes,
)
from onnxslim.model.edit import Editor, new_initializer, take_over
from onnxslim.model.nesting import HOLDERS, main_graphs
from onnxslim.ops.signatures import OpName
from onnxslim.ops.traits import Trait, has

SHARED_BYTES = 1 << 10
"""Constants from this size on are worth asking whether they can go."""

SMALLEST_WEIGHT = 64
"""Numbers from which on a constant in half precision, or of few bits, is a weight that is stored so on purpose."""

SESSION_BYTES = 64 << 20
"""Constants that one session is given at once: weights on disk are not all to be read into memory together."""


def may_evaluate(op: Operation) -> bool:
    """Whether an op of constants may be computed ahead: ONNX's own, but for random ones and weights in few bits.

    Unfolding a DequantizeLinear would undo a compression.
    """
    return not (op.domain or any(has(op, trait) for trait in LEFT_ALONE))


def _unpacks(node: ir.Node) -> bool:
    """Whether a node makes a stored weight in half precision, or of few bits, wider: ONNX Runtime does so when it loads
    the model."""
    if not has(node, Trait.CONVERTS):
        return False
    tensor, made = constant_tensor(node.inputs[0]), node.outputs[0].dtype
    if tensor is None or made is None or tensor.size < SMALLEST_WEIGHT:
        return False
    if not tensor.dtype.is_floating_point() and tensor.dtype.bitwidth >= 8:
        return False
    return tensor.dtype.bitwidth < made.bitwidth


def _makes_a_value(op: Operation) -> bool:
    """Whether folding an op would make a new constant: identities are eliminated, and literals are constants."""
    return not op.domain and (op.domain, op.op_type) not in _unfolded()


LEFT_ALONE = (Trait.RANDOM, Trait.DEQUANTIZES)


@functools.cache
def _unfolded() -> frozenset[OpName]:
    return frozenset((CONSTANT,)).union(*(trait.ops for trait in (*LEFT_ALONE, Trait.IDENTITY)))


def known_shape(node: ir.Node) -> Array | None:
    """Return what a Shape or Size makes, where the part of the shape that it reads is static; None for other nodes."""
    sizes_wanted = has(node, Trait.LISTS_SIZES)
    if not (sizes_wanted or has(node, Trait.COUNTS_ELEMENTS)) or not node.inputs or node.inputs[0] is None:
        return None
    shape = node.inputs[0].shape
    if shape is None:
        return None
    sizes = list(shape)
    if sizes_wanted:
        start, end = node.attributes.get("start"), node.attributes.get("end")
        sizes = sizes[start.as_int() if start else None : end.as_int() if end else None]
    known = [size for size in sizes if isinstance(size, int) and size >= 0]  # exporters write -1 for an unknown one
    if len(known) != len(sizes):
        return None
    return np.array(known if sizes_wanted else math.prod(known), np.int64)


def fold_constants(model: ir.Model, growth: Growth | None = None) -> tuple[str, ...]:
    """Replace what can be computed now by initializers, in the graph and in nested subgraphs; return their names.

    Random ops, DequantizeLinear, casts that widen a stored weight, ops with subgraphs and ops of other domains are left
    alone, and so is what is larger than the constants that go with it, where the budget does not allow for that. Local
    functions hold no initializers and are left alone, too.

    Args:
        model: Changed in place.
        growth: How much larger it may become in all, and what is left of that; None: a budget for this call alone.
    """
    editor, growth = Editor(model), growth or Growth()
    parts = (_Folding(editor, graph, model.opset_imports, growth) for graph in main_graphs(model))
    return tuple(name for part in parts for name in part.run())


class _Folding:
    """Folds the constants of one graph of a model."""

    def __init__(self, editor: Editor, graph: ir.Graph, opsets: Mapping[str, int], growth: Growth) -> None:
        self._editor, self._graph, self._growth = editor, graph, growth
        self._opsets = {"": 1, **opsets}
        self._names: list[str] = []
        self._blocked: set[ir.Node] = set()
        """Nodes that stay: they cannot be evaluated, or what they make is too large."""

    def run(self) -> list[str]:
        """Fold all that can be, and return the names of the values that became initializers."""
        while True:
            self._blocked = set(filter(_unpacks, self._graph))
            before = len(self._names)
            self._fold()
            if len(self._names) == before:  # else once more: a divisor that was folded can be trusted now
                return self._names

    def _fold(self) -> None:
        for node in list(self._graph):
            self._fold_known(node)
        blocked = -1
        while blocked < len(self._blocked):
            blocked = len(self._blocked)
            parts = list(_components(_region(self._graph, self._blocked)))
            too_large = {node for part in parts for node in _oversize(part, self._growth)}
            if too_large:
                self._blocked |= too_large
                continue
            for batch in _batches(parts):
                self._fold_batch(batch)

    def _fold_known(self, node: ir.Node) -> None:
        """Replace a node whose only output is known without running anything: a shape, or what inference said."""
        if len(node.outputs) != 1 or not _makes_a_value(node):
            return
        array = known_shape(node)
        if array is None and node.outputs[0].const_value is not None:
            array = node.outputs[0].const_value.numpy()
        if array is not None:
            self._replace(node.outputs[0], array)
            self._graph.remove(node, safe=True)

    def _fold_batch(self, batch: Sequence[list[ir.Node]]) -> None:
        """Fold parts in one session; one by one where they cannot be evaluated together."""
        nodes = [node for part in batch for node in part]
        if must_be_looked_at(nodes):  # such a part is a batch of its own
            self._fold_looking(nodes)
            return
        results = self._run(nodes, _frontier(nodes))
        if results is not None:
            for part in batch:
                self._put(part, {value: results[value] for value in _frontier(part)})
        elif len(batch) > 1:
            for part in batch:
                self._fold_batch([part])
        else:
            self._blocked.add(self._culprit(nodes))

    def _fold_looking(self, part: Sequence[ir.Node]) -> None:
        """Fold a part node by node: how large a value becomes is asked when the inputs of its node are known."""
        arrays: dict[ir.Value, Array] = {leaf: array for leaf in _leaves(part) if (array := constant(leaf)) is not None}
        total = 0.0
        for node in part:
            total += most_bytes(node, [arrays.get(value) if value is not None else None for value in node.inputs])
            wanted = [output for output in node.outputs if output.name != ""]
            results = None if total > LOOKED_BYTES else self._run([node], wanted, arrays)
            if results is None:
                self._blocked.add(node)
                return
            arrays.update(results)
        self._put(part, {value: arrays[value] for value in _frontier(part)})

    def _put(self, part: Sequence[ir.Node], made: Mapping[ir.Value, Array]) -> None:
        """Put what was made into the place of a part, where the budget allows for it."""
        texts = (array for array in made.values() if array.dtype.kind in "OSU")
        letters = sum(tensor_bytes(as_tensor(array)) - array.nbytes for array in texts)
        more = self._growth.size(made.values()) + letters - _replaced_bytes(part)
        if not self._growth.allows(more, len(part)):
            self._blocked.update(maker for value in made if (maker := value.producer()) is not None)
            return
        self._growth.spend(more, made.values())
        for value, array in made.items():
            self._replace(value, array)
        self._graph.remove(list(reversed(part)), safe=True)

    def _run(
        self, nodes: Sequence[ir.Node], wanted: Sequence[ir.Value], known: Mapping[ir.Value, Array] | None = None
    ) -> dict[ir.Value, Array] | None:
        """Return what nodes make, or None; `known` are the arrays that they read, where these are no constants yet."""
        feeds: dict[ir.Value, Array] = {}
        for leaf in _leaves(nodes):
            array = constant(leaf) if known is None else known.get(leaf)
            if array is None:
                return None
            feeds[leaf] = array
        arrays = evaluate_nodes(nodes, feeds, wanted, self._opsets)
        return None if arrays is None else dict(zip(wanted, arrays, strict=True))

    def _culprit(self, nodes: Sequence[ir.Node]) -> ir.Node:
        """Return the first node that cannot be evaluated together with those before it."""
        low, high = 0, len(nodes) - 1  # nodes[:high + 1] fails
        while low < high:
            middle = (low + high) // 2
            if self._run(nodes[: middle + 1], [o for o in nodes[middle].outputs if o.name != ""][:1]) is None:
                high = middle
            else:
                low = middle + 1
        return nodes[low]

    def _replace(self, value: ir.Value, array: Array) -> None:
        """Let an initializer stand where `value` stood; a graph output is passed on by an Identity, under its name."""
        name = value.name or "folded"
        if value.is_graph_output():
            name = self._editor.name(f"{name}/folded")
        initializer = new_initializer(self._graph, name, array)
        self._names.append(name)
        if not value.is_graph_output():
            value.replace_all_uses_with(initializer)
            return
        identity = ir.Node("", "Identity", [initializer], name=self._editor.name(f"{name}/Identity"))
        producer = value.producer()
        if producer is not None:
            self._graph.insert_before(producer, identity)
        take_over(identity.outputs[0], value)
        identity.outputs[0].type = initializer.type


def _region(graph: ir.Graph, blocked: set[ir.Node]) -> list[ir.Node]:
    """Return the nodes that depend on nothing but constants, in order."""
    region: dict[ir.Node, None] = {}
    for node in graph:
        if not all(v is None or v.producer() in region or constant_tensor(v) is not None for v in node.inputs):
            continue  # most nodes: so this is asked first
        if node in blocked or not _makes_a_value(node):
            continue
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            continue
        if any(attribute.is_ref() or attribute.type in HOLDERS for attribute in node.attributes.values()):
            continue
        if not divides_safely(node) or known_bytes([node]) > PART_BYTES or known_macs(node) > MOST_MACS:
            continue
        region[node] = None
    return list(region)


def _components(region: Sequence[ir.Node]) -> Iterator[list[ir.Node]]:
    """Split a region into parts that share no edge and no large constant; each keeps its order.

    A constant that several nodes read goes only where all of them are folded: they are decided on together.
    """
    parent = {node: node for node in region}

    def root(node: ir.Node) -> ir.Node:
        while parent[node] is not node:
            parent[node] = node = parent[parent[node]]
        return node

    readers: dict[ir.Value, ir.Node] = {}
    for node in region:
        for value in node.inputs:
            maker = value.producer() if value is not None else None
            if maker in parent:
                parent[root(maker)] = root(node)
            elif value is not None and tensor_bytes(value.const_value) >= SHARED_BYTES:
                parent[root(readers.setdefault(value, node))] = root(node)
    parts: dict[ir.Node, list[ir.Node]] = {}
    for node in region:
        parts.setdefault(root(node), []).append(node)
    yield from parts.values()


def _leaves(part: Iterable[ir.Node]) -> list[ir.Value]:
    inside = set(part)
    values = {v: None for node in part for v in node.inputs if v is not None and v.producer() not in inside}
    return list(values)


def _frontier(part: Iterable[ir.Node]) -> list[ir.Value]:
    """Return the values of a part that somebody outside it needs."""
    inside = set(part)
    return [
        output
        for node in part
        for output in node.outputs
        if output.is_graph_output() or any(use.node not in inside for use in output.uses())
    ]


def _replaced_bytes(part: Sequence[ir.Node]) -> int:
    """Return the size of the constants that nobody needs once `part` is folded."""
    inside = set(part)
    return sum(
        tensor_bytes(leaf.const_value)
        for leaf in _leaves(part)
        if not leaf.is_graph_output() and all(use.node in inside for use in leaf.uses())
    )


def _oversize(part: Sequence[ir.Node], growth: Growth) -> set[ir.Node]:
    """Return the node whose result makes a part too large to fold, or to evaluate, as far as its shapes tell."""
    if known_bytes(part) > PART_BYTES:
        return {max(part, key=lambda node: known_bytes([node]))}
    sizes = {value: static_bytes(value) or 0 for value in _frontier(part)}
    if growth.allows(sum(sizes.values()) - _replaced_bytes(part), len(part)):
        return set()
    largest = max(sizes, key=lambda value: sizes[value])
    maker = largest.producer()
    return {maker} if maker is not None else set()


def _batches(components: Iterable[list[ir.Node]]) -> Iterator[list[list[ir.Node]]]:
    batch: list[list[ir.Node]] = []
    total = 0
    for part in components:
        size = sum(tensor_bytes(leaf.const_value) for leaf in _leaves(part)) + known_bytes(part)
        if must_be_looked_at(part):
            yield [part]
            continue
        if batch and total + size > SESSION_BYTES:
            yield batch
            batch, total = [], 0
        batch.append(part)
        total += size
    if batch:
        yield batch
