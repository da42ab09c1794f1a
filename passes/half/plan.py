"""Decides which nodes of a model run in half precision, and why the others do not."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping

import onnx_ir as ir

from onnxslim.model.constants import constant_tensor
from onnxslim.model.nesting import nested_graphs
from onnxslim.ops.parameters import op_of
from onnxslim.ops.table import moved_inputs
from onnxslim.ops.traits import Trait, has
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.selection import Selection

from .codes import HalfCode
from .formats import HalfFormat
from .operands import HalfOperands, half_operands, is_float
from .ranges import Fitness
from .table import HalfTable, OpFacts, load_op_facts

LOOKING_BACK = (Trait.ELEMENTWISE, Trait.MOVEMENT, Trait.JOINING, Trait.REDUCES)
"""What integers are made of goes back through these: sizes and indices are computed by them, features by products."""


@dataclasses.dataclass
class HalfPlan:
    """Which nodes run in half precision. A node that touches no float32 tensor is neither here nor there."""

    half: dict[ir.Node, HalfOperands]
    """Those that do."""
    left: dict[ir.Node, Reason]
    """Those that stay in float32, and why."""

    @property
    def half_values(self) -> set[ir.Value]:
        """The values that are made in half precision."""
        return {node.outputs[index] for node, operands in self.half.items() for index in operands.outputs}

    def leave(self, node: ir.Node, reason: Reason) -> None:
        """Leave a node in float32."""
        if self.half.pop(node, None) is not None:
            self.left[node] = reason


def possible(
    model: ir.Model,
    half: HalfFormat,
    table: HalfTable,
    facts: OpFacts,
    selection: Selection,
    *,
    kernels_only: bool,
) -> HalfPlan:
    """Return a plan of all nodes of the main graph that could run in half precision, whatever their values are.

    Args:
        model: The types of its values are known.
        half: The format.
        table: What the target does.
        facts: What is known of ops.
        selection: What is asked for.
        kernels_only: Only ops with a kernel of that type, and not those for which the target casts by itself.
    """
    plan = HalfPlan({}, {})
    indices = makes_indices(model.graph, half, model.opset_imports, facts)
    casts = not kernels_only and half.name in table.casts
    for node in model.graph:
        operands = [value for value in (*node.inputs, *node.outputs) if value is not None]
        if not any(map(is_float, operands)):
            continue
        opset = model.opset_imports.get(node.domain)
        found = half_operands(node, opset, half, facts)
        reason = selection.against(node)
        if reason is None and any(nested_graphs(node)):
            reason = Reason(HalfCode.NESTED)
        if reason is None and (found is None or opset is None or node.op_identifier() in model.functions):
            reason = Reason(HalfCode.NOT_KNOWN, (node.op_type,))
        if reason is None and any(not isinstance(value.type, ir.TensorType | None) for value in operands):
            reason = Reason(HalfCode.NO_TENSOR)
        if reason is None and (op_of(node) in facts.digits or _differs(node, facts)):
            reason = Reason(HalfCode.DIGITS, (node.op_type, half.name))
        if reason is None and found is not None and not found.any:
            reason = Reason(HalfCode.NO_TYPE, (half.name, node.op_type, opset))
        if reason is None and node in indices:
            reason = Reason(HalfCode.INDICES)
        helped = casts and found is not None and found.inputs  # casts are added for inputs of that type
        if reason is None and not helped and opset is not None and not table.has_kernel(node, half, opset):
            reason = Reason(HalfCode.NO_KERNEL, (node.op_type, half.name, table.provider))
        if reason is None and found is not None:
            plan.half[node] = found
        elif reason is not None:
            plan.left[node] = reason
    return plan


def _differs(node: ir.Node, facts: OpFacts) -> bool:
    """Whether an attribute is another than the one with which the op takes half precision."""
    wanted = facts.only_with.get(op_of(node), {})
    given = {name: node.attributes[name].value for name in wanted if name in node.attributes}
    return any(number != wanted[name] for name, number in given.items())


def makes_indices(graph: ir.Graph, half: HalfFormat, opsets: Mapping[str, int], facts: OpFacts) -> set[ir.Node]:
    """Return the nodes whose float32 results become integers, or sizes that ops take as float32."""
    waiting: list[ir.Node] = []
    found: set[ir.Node] = set()
    for node in graph:
        if has(node, Trait.CONVERTS) and is_float(node.inputs[0]):
            dtype = node.outputs[0].dtype
            if dtype is not None and dtype.is_integer():
                waiting.append(node)
        operands = half_operands(node, opsets.get(node.domain), half, facts)
        fixed = (node.inputs[index] for index in (operands.fixed if operands is not None else ()))
        waiting += [maker for value in fixed if value is not None and (maker := value.producer()) is not None]
    while waiting:
        node = waiting.pop()
        if node in found or not any(has(node, trait) for trait in LOOKING_BACK):
            continue
        found.add(node)
        waiting += [maker for value in node.inputs if is_float(value) and value and (maker := value.producer())]
    return found


def judged_by_values(plan: HalfPlan, fitness: Fitness) -> None:
    """Leave the nodes in float32 that touch what does not fit into half precision."""
    for node, operands in list(plan.half.items()):
        reason = next(_against(node, operands, fitness), None)
        if reason is not None:
            plan.leave(node, reason)


def _against(node: ir.Node, operands: HalfOperands, fitness: Fitness) -> Iterator[Reason]:
    for index in operands.inputs:
        value = node.inputs[index]
        assert value is not None, "it is float32"
        known = constant_tensor(value) is not None
        reason = fitness.against_constant(value, node, index) if known else fitness.against(value)
        if reason is not None:
            yield reason
    for index in operands.outputs:
        reason = fitness.against(node.outputs[index])
        if reason is not None:
            yield reason
    reason = fitness.against_sums(node)
    if reason is not None:
        yield reason


def leave_small_regions(plan: HalfPlan, macs: Mapping[str, int]) -> None:
    """Leave regions without products in float32, which lie among float32 nodes: their casts cost more than they gain.

    Where nothing multiplies, the regions stay: nothing better can be had.

    Args:
        plan: Changed.
        macs: Multiply-accumulates by the name of the first output of a node.
    """
    regions = [region for region in _regions(plan) if not any(_macs(node, macs) for node in region)]
    if len(plan.half) == sum(map(len, regions)):
        return
    for region in regions:
        for node in region:
            plan.leave(node, Reason(HalfCode.TOO_LITTLE))


def _macs(node: ir.Node, macs: Mapping[str, int]) -> int:
    return macs.get(next((output.name for output in node.outputs if output.name), ""), 0)


def _regions(plan: HalfPlan) -> Iterator[list[ir.Node]]:
    """Yield the nodes of a plan that hand half precision to each other, together."""
    neighbours: dict[ir.Node, list[ir.Node]] = {node: [] for node in plan.half}
    for node, operands in plan.half.items():
        for index in operands.outputs:
            for use in node.outputs[index].uses():
                reader = plan.half.get(use.node)
                if reader is not None and use.idx in reader.inputs:
                    neighbours[node].append(use.node)
                    neighbours[use.node].append(node)
    seen: set[ir.Node] = set()
    for start in plan.half:
        region, waiting = [], [start]
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                region.append(node)
                waiting += neighbours[node]
        if region:
            yield region


def keep_moved_weights(
    plan: HalfPlan,
    model: ir.Model,
    half: HalfFormat,
    table: HalfTable,
    stored: Collection[ir.Value],
    exact: Collection[ir.Node],
) -> None:
    """Let nodes that take slices of a stored weight do so in half precision, where the target has a kernel.

    The rows that are taken of an embedding are cast then, and not the whole of it.

    Args:
        plan: Changed.
        model: The model.
        half: The format.
        table: What the target does.
        stored: The weights that are stored in half precision.
        exact: Nodes that must keep all digits.
    """
    for node in model.graph:
        opset = model.opset_imports.get(node.domain, 0)
        if node in plan.half or node in exact or not has(node, Trait.TAKES_SLICES):
            continue
        operands = half_operands(node, opset, half, load_op_facts())
        moved = tuple(moved_inputs(node))
        if operands is None or operands.inputs != moved or not table.has_kernel(node, half, opset):
            continue
        if all(node.inputs[index] in stored for index in moved):
            plan.left.pop(node, None)
            plan.half[node] = operands
