"""Brings a training step, above all its convolutions, into the forms that ONNX Runtime's CPU provider runs fastest."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence

import onnx_ir as ir
import onnx_ir.passes.common

from onnxslim.autodiff.reverse import graph_builder
from onnxslim.model.builder import GraphBuilder
from onnxslim.model.constants import constant
from onnxslim.ops.fact import Unknowable
from onnxslim.ops.gradient import GradientSite, static_shape
from onnxslim.ops.lowering import BLOCKED, DOMAIN, PRODUCTS, like
from onnxslim.ops.parameters import attribute, op_of
from onnxslim.ops.traits import Trait, has

CHANNELS_LAST = (0, 2, 3, 1)


def lower_step(model: ir.Model, block: int | None) -> None:
    """Rewrite convolutions whose kernels are no constants, in place, for the CPU provider.

    What lies between blocked convolutions element by element stays in the blocked layout, too. Single numbers get the
    axes of what they are combined with, where the last of these has length 1.

    Args:
        model: A training step. All sizes are known.
        block: The channels of a block (`onnxslim.runtime.blocked.block_width`); None: there is no blocked layout.
    """
    lowering = _Lowering(graph_builder(model), block)
    for node in list(model.graph):
        with contextlib.suppress(Unknowable):  # of a size that is computed: it stays as it is
            lowering.visit(node)
    lowering.finish()


class _Lowering:
    def __init__(self, build: GraphBuilder, block: int | None) -> None:
        self._build, self._block = build, block
        self._blocked: dict[ir.Value, ir.Value] = {}
        """Values that are there in the blocked layout."""
        self._made: dict[ir.Value, ir.Value] = {}
        """Those of them that are made in it."""
        self._fused: set[ir.Node] = set()

    def visit(self, node: ir.Node) -> None:
        """Build what a node makes in another form, where that is better."""
        if node in self._fused:
            return
        site = GradientSite(node, self._build, (None,), frozenset())
        if op_of(node) in PRODUCTS and _is_computed(node):
            product = PRODUCTS[op_of(node)](site)
            if product is not None:
                _replace(node.outputs[0], product)
                return
        if has(node, Trait.BROADCASTING) and len(node.outputs) == 1:
            self._align(site)
        if self._block is None:
            return
        if op_of(node) in BLOCKED and _is_computed(node):
            self._convolve(site, self._block)
        elif has(node, Trait.ELEMENTWISE) and len(node.outputs) == 1:
            self._compute(node, self._block)

    def finish(self) -> None:
        """Let what is left in the plain layout read what is made in the blocked one."""
        for value, blocked in self._made.items():
            self._leave(value, blocked)
        model = self._build.model
        onnx_ir.passes.common.RemoveUnusedNodesPass()(model)
        if any(node.domain == DOMAIN for node in model.graph):
            model.graph.opset_imports[DOMAIN] = 1
        model.graph.sort()
        onnx_ir.passes.common.CommonSubexpressionEliminationPass()(model)
        onnx_ir.passes.common.RemoveUnusedNodesPass()(model)

    def _convolve(self, site: GradientSite, block: int) -> None:
        node, result = site.node, site.node.outputs[0]
        rectifier = _only_reader(result)
        if rectifier is not None and has(rectifier, Trait.RECTIFIES):
            made = BLOCKED[op_of(node)](site, self._enter, block, rectifier.op_type)
            if made is not None:
                self._fused.add(rectifier)
                result = rectifier.outputs[0]
        else:
            made = BLOCKED[op_of(node)](site, self._enter, block, None)
        if made is not None:
            self._blocked[result] = self._made[result] = made

    def _compute(self, node: ir.Node, block: int) -> None:
        """Compute element by element in the blocked layout, if an operand is there."""
        shape = static_shape(node.outputs[0])
        operands = [value for value in node.inputs if value is not None]
        whole = [value for value in operands if static_shape(value) == shape]
        single = all(math.prod(static_shape(value)) == 1 for value in operands if value not in whole)
        if len(shape) != 4 or shape[1] % block or not single or not any(value in self._blocked for value in whole):
            return
        if any(value not in self._blocked and value.dtype is not ir.DataType.FLOAT for value in whole):
            return  # only real numbers are brought into the layout
        inputs = [self._enter(value) if value in whole else value for value in node.inputs]
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        made = self._build.op(node.op_type, *inputs, domain=node.domain, **attributes)
        self._blocked[node.outputs[0]] = self._made[node.outputs[0]] = like(made, node.outputs[0])

    @staticmethod
    def _align(site: GradientSite) -> None:
        """Give single numbers as many axes as the result has, if the last of these has length 1.

        ONNX Runtime goes through such a result one element after the other otherwise: 512x256x1x1 times a number takes
        0.82 ms and not 0.014.
        """
        shape = site.result_shape()
        if math.prod(shape) == 1 or shape[-1] != 1:
            return
        for index, value in enumerate(site.node.inputs):
            if value is not None and math.prod(static_shape(value)) == 1 and len(static_shape(value)) < len(shape):
                site.node.replace_input_with(index, site.reshape(value, [1] * len(shape)))

    def _enter(self, value: ir.Value) -> ir.Value:
        """Return a value in the blocked layout."""
        if value not in self._blocked:
            self._blocked[value] = like(self._build.op("ReorderInput", value, domain=DOMAIN), value)
        return self._blocked[value]

    def _leave(self, value: ir.Value, blocked: ir.Value) -> None:
        """Let all that reads a value in the plain layout get it out of the blocked one."""
        shape = static_shape(value)
        if not any(value.uses()) or value.dtype is not ir.DataType.FLOAT:
            return  # others are computed again
        reorder = functools.partial(self._build.op, "ReorderOutput", blocked, domain=DOMAIN, channels=shape[1])
        last = [use.node for use in value.uses() if _brings_channels_last(use.node)]
        if last:
            result = like(reorder(channels_last=1), value, (shape[0], *shape[2:], shape[1]))
            for node in last:
                _replace(node.outputs[0], result)
        _replace(value, like(reorder(), value))


def _is_computed(node: ir.Node) -> bool:
    """Whether the kernel of a convolution is no constant, for which ONNX Runtime does all this itself."""
    return constant(node.inputs[1]) is None


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _brings_channels_last(node: ir.Node) -> bool:
    order = attribute(node, "perm")
    return has(node, Trait.PERMUTES) and isinstance(order, Sequence) and tuple(order) == CHANNELS_LAST


def _replace(value: ir.Value, other: ir.Value) -> None:
    """Let all nodes that read a value read another; an output of the graph stays what it is."""
    for use in list(value.uses()):
        use.node.replace_input_with(use.idx, other)
