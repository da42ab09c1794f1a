"""Which inputs and outputs of a node may be in half precision, by the schema of its op."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx
import onnx_ir as ir

from onnxslim.model.schemas import find_schema
from onnxslim.ops.parameters import op_of

from .formats import HalfFormat
from .table import OpFacts, stands_in

STASH = "stash_type"
"""The attribute that says the type of the statistics of normalizations, which are outputs of some."""


@dataclasses.dataclass(frozen=True)
class HalfOperands:
    """The float32 operands of a node by what may become of them."""

    inputs: tuple[int, ...]
    """Inputs that would be half precision."""
    outputs: tuple[int, ...]
    """Outputs that would be."""
    fixed: tuple[int, ...]
    """Inputs that stay float32."""

    @property
    def any(self) -> bool:
        """Whether there is something to convert."""
        return bool(self.inputs or self.outputs)


def is_float(value: ir.Value | None) -> bool:
    """Whether a value is a float32 tensor."""
    return value is not None and value.dtype is ir.DataType.FLOAT and isinstance(value.type, ir.TensorType)


def half_operands(node: ir.Node, opset: int | None, half: HalfFormat, facts: OpFacts) -> HalfOperands | None:
    """Return what may become of the operands of a node; None where its op is not known.

    Operands whose types are one variable of the schema change together, and all operands that may change do.

    Args:
        node: Its operands have types.
        opset: The operator set of its domain.
        half: The format.
        facts: What schemas do not say.
    """
    given = [index for index, value in enumerate(node.inputs) if is_float(value)]
    made = [index for index, value in enumerate(node.outputs) if is_float(value) and value.name != ""]
    if op_of(node) in facts.one_type:
        inputs, outputs = set(given), set(made)
    else:
        schema = None if opset is None else find_schema(node.domain, node.op_type, opset)
        if schema is None:
            return None
        inputs = {index for index in given if _allows(schema, _formal(schema.inputs, index), half)}
        outputs = {index for index in made if _allows(schema, _formal(schema.outputs, index), half)}
        if op_of(node) not in facts.result_type:  # the type of an output follows from that of an input
            variables = {_formal(schema.inputs, index).type_str for index in inputs}
            free = {index for index in outputs if _formal(schema.outputs, index).type_str not in variables}
            if free and STASH not in schema.attributes:  # nothing says of which type they are
                return HalfOperands((), (), tuple(given))
            outputs = {index for index in outputs if _formal(schema.outputs, index).type_str in variables}
        # A variable of which one operand must stay float32 stays.
        bound = {_formal(schema.outputs, index).type_str for index in made if index not in outputs}
        inputs = {index for index in inputs if _formal(schema.inputs, index).type_str not in bound}
    inputs = {index for index in inputs if not stands_in(facts.float32_inputs, node, index)}
    outputs = {index for index in outputs if not stands_in(facts.float32_outputs, node, index)}
    fixed = tuple(index for index in given if index not in inputs)
    return HalfOperands(tuple(sorted(inputs)), tuple(sorted(outputs)), fixed)


def _formal(formals: Sequence[onnx.defs.OpSchema.FormalParameter], index: int) -> onnx.defs.OpSchema.FormalParameter:
    return formals[min(index, len(formals) - 1)]  # the last one may be variadic


def _allows(schema: onnx.defs.OpSchema, formal: onnx.defs.OpSchema.FormalParameter, half: HalfFormat) -> bool:
    wanted = f"tensor({half.name})"
    return any(
        rule.type_param_str == formal.type_str and wanted in rule.allowed_type_strs for rule in schema.type_constraints
    )
