"""The vector that is added to what a node makes: its own bias, or a stored summand behind it."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Floats
from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor, overwrite
from onnxslim.ops.traits import Trait, has


@dataclasses.dataclass(frozen=True)
class Bias:
    """The place of the vector that is added to what a contraction makes, whether there is one yet or not."""

    node: ir.Node
    """The contraction itself, or an addition that alone reads it."""
    index: int
    """The index of that input."""
    own: bool
    """Whether it is an input of the contraction itself."""
    plain: bool
    """Whether what is written there is added to the output as it is: not scaled, nor sent through an activation."""
    outputs: int
    """Output channels of the contraction."""
    dtype: ir.DataType | None
    """The element type of its weight."""

    @property
    def value(self) -> ir.Value | None:
        """The present value, None where there is none."""
        return self.node.inputs[self.index] if self.index < len(self.node.inputs) else None

    @property
    def vector(self) -> Floats | None:
        """The vector, shape [output channels]: zeros where there is none; None where it is computed, or has more axes
        than the output channels."""
        array = constant(self.value)
        if self.value is None:
            return np.zeros(self.outputs)
        if array is None or array.shape[-1:] != (self.outputs,) or array.size != self.outputs:
            return None
        return array.astype(np.float64).ravel()

    @property
    def free(self) -> bool:
        """Whether other numbers may be written there, so that they are added to the output as they are.

        Not where the output is scaled or goes through an activation, nor where the bias is computed, shared, or laid
        out along more than the output channels.
        """
        alone = self.value is None or (self.value.is_initializer() and len(self.value.uses()) == 1)
        return alone and self.plain and self.vector is not None

    def write(self, editor: Editor, vector: Floats) -> None:
        """Replace the vector, or add one; a vector that other nodes read as well stays for them.

        Args:
            editor: Of the model.
            vector: Shape [output channels].
        """
        value, array = self.value, constant(self.value)
        if value is not None and array is not None and len(value.uses()) == 1 and not value.is_graph_output():
            overwrite(value, vector)
            return
        if self.index >= len(self.node.inputs):
            self.node.resize_inputs(self.index + 1)
        assert self.dtype is not None
        own = vector.reshape(vector.shape if array is None else array.shape).astype(self.dtype.numpy())
        self.node.replace_input_with(self.index, editor.initializer(f"{self.node.outputs[0].name}_bias", own))


def only_use(value: ir.Value) -> tuple[ir.Node, int] | None:
    """Return the one node of its graph that reads a value, and as which input; None where there are other readers, or
    the value is an output."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0].node.graph is not value.graph:
        return None
    return uses[0].node, uses[0].idx


def other_summand(value: ir.Value) -> tuple[ir.Node, int] | None:
    """Return the sum of two values that alone reads `value`, and which input of it the other one is."""
    use = only_use(value)
    if use is None or not has(use[0], Trait.ADDS) or len(use[0].inputs) != 2:
        return None
    return use[0], 1 - use[1]
