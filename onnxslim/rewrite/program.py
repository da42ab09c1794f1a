"""What a body computes out of what is known: its nodes are gathered, and run together in one session."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import onnx
import onnx.defs
import onnx.helper
import onnx_ir as ir

from onnxslim.analysis.evaluate import evaluate
from onnxslim.arrays import Array
from onnxslim.model.schemas import find_schema
from onnxslim.ops.traits import Trait, has
from onnxslim.rewrite.mismatch import CannotCompute, MismatchCode
from onnxslim.rewrite.rule import IMPORTED_VERSION, BodyNode

FIXED_TYPES = {
    "tensor(int64)": ir.DataType.INT64,
    "tensor(int32)": ir.DataType.INT32,
    "tensor(float)": ir.DataType.FLOAT,
    "tensor(bool)": ir.DataType.BOOL,
}
"""Types that a schema spells out, where others are a word (``T``) that stands for the type of an input."""


class Program:
    """Nodes that were entered and did not run yet."""

    def __init__(self, opset: int, *, reference: bool) -> None:
        """Begin an empty program; `reference` tries the reference implementation where ONNX Runtime fails."""
        self._opset, self._reference = opset, reference
        self._protos: list[onnx.NodeProto] = []
        self._feeds: dict[str, Array] = {}
        self._opsets = {"": opset}
        self.kinds: dict[str, ir.DataType | None] = {}
        """The names that the program makes, with their element types as far as the schemas tell."""

    def awaits(
        self, node: BodyNode, known: Mapping[str, Array], referenced: Iterable[str], literals: Collection[str]
    ) -> bool:
        """Whether `node` cannot be entered before what is here has run.

        Args:
            node: What is to be entered.
            known: Arrays for those of its inputs that the program does not make.
            referenced: Values that its attributes are made of: they must be known.
            literals: Names of literals, which take the element types of what they meet: these must be known.
        """
        if any(name in self.kinds for name in referenced):
            return True
        pending = [name for name in node.inputs if name in self.kinds]
        if has(node, Trait.INTEGER_DIVISION) and node.inputs[1] in pending:  # never by integers that are not known
            dividend = known.get(node.inputs[0] or "")
            return dividend is None or dividend.dtype.kind in "iu"
        return any(self.kinds[name or ""] is None for name in pending) and any(i in literals for i in node.inputs)

    def add(
        self, node: BodyNode, inputs: Sequence[str], feeds: Mapping[str, Array], attributes: Iterable[ir.Attr]
    ) -> None:
        """Enter a node; `feeds` holds those of its inputs, "" where one is missing, that the program does not make."""
        # A literal may have other types at other nodes, so the type is part of the name.
        inputs = list(inputs)
        while inputs and not inputs[-1]:
            inputs.pop()
        labels = {name: f"{name} {array.dtype.char}" for name, array in feeds.items()}
        self._feeds.update({labels[name]: array for name, array in feeds.items()})
        proto = onnx.helper.make_node(
            node.op_type, [labels.get(name, name) for name in inputs], list(node.outputs), domain=node.domain
        )
        proto.attribute.extend(ir.to_proto(attribute) for attribute in attributes)
        self._protos.append(proto)
        if node.domain:
            self._opsets[node.domain] = IMPORTED_VERSION
        self.kinds.update(self._made(node, feeds))

    def _made(self, node: BodyNode, feeds: Mapping[str, Array]) -> dict[str, ir.DataType | None]:
        """Return the element types of what a node makes, None for those that the schema does not tell."""
        schema = find_schema(node.domain, node.op_type, self._opset)
        if schema is None:
            return dict.fromkeys(filter(None, node.outputs))
        words: dict[str, ir.DataType | None] = {}
        for name, word in type_words(schema, node):
            kind = ir.DataType.from_numpy(feeds[name].dtype) if name in feeds and feeds[name].dtype != object else None
            words[word] = words.get(word) or kind or self.kinds.get(name)
        formals = [formal.type_str for formal in schema.outputs]
        return {
            name: FIXED_TYPES.get(formal) or words.get(formal)
            for name, formal in zip(node.outputs, [*formals, *formals[-1:] * len(node.outputs)], strict=False)
            if name
        }

    def run(self, wanted: Iterable[str]) -> dict[str, Array]:
        """Run what was entered, and begin anew. Returns those of the names `wanted` that the program makes.

        Raises:
            CannotCompute: It does not run.
        """
        made = [name for name in self.kinds if name in set(wanted)]
        if not made:
            return {}
        with np.errstate(all="ignore"):
            arrays = evaluate(self._protos, self._feeds, made, self._opsets, reference=self._reference)
        if arrays is None:
            ops = ", ".join(proto.op_type for proto in self._protos)
            raise CannotCompute(MismatchCode.NOT_COMPUTABLE, made[-1], ops)
        self._protos, self._feeds, self.kinds = [], {}, {}
        return dict(zip(made, arrays, strict=True))


def type_words(schema: onnx.defs.OpSchema, node: BodyNode) -> list[tuple[str, str]]:
    """Pair the inputs of a node with the words (``T``) that the schema has for their element types."""
    formals = list(schema.inputs)
    pairs = []
    for place, name in enumerate(node.inputs):
        formal = formals[min(place, len(formals) - 1)] if formals else None
        if name is not None and formal is not None:
            pairs.append((name, formal.type_str))
    return pairs
