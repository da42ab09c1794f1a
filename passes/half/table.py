"""Reads which ops a provider runs in half precision, and what must be known of ops besides."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from onnxslim.ops.parameters import op_of
from onnxslim.ops.signatures import OpName, op_name
from onnxslim.runtime.provider import load_provider, reading_table
from onnxslim.toml import tomllib

from .formats import HalfFormat

EVERY = ("", "*")
"""In the place of an op: all of them."""
Places = Mapping[OpName, Sequence[int]]
"""Inputs, or outputs, of ops."""


@dataclasses.dataclass(frozen=True)
class HalfTable:
    """What a provider does in half precision. `targets/cpu.toml` explains the columns."""

    provider: str
    declared: bool
    """Whether it says anything."""
    activations: str = "float"
    """Whether inner values pay: ``half`` or ``float``."""
    reason: str = ""
    """Why they do not."""
    casts: Sequence[str] = ()
    """Types for which it casts by itself where it has no kernel, so that the model runs all the same."""
    kernels: Mapping[str, Mapping[OpName, int]] = dataclasses.field(default_factory=dict)
    """For each type the ops that have a kernel of that type, and the operator set since which they have."""

    def has_kernel(self, node: ir.Node, half: HalfFormat, opset: int) -> bool:
        """Whether an op runs in half precision by itself, where `opset` is that of its domain."""
        kernels = self.kernels.get(half.name, {})
        since = kernels.get(op_of(node), kernels.get(EVERY))
        return since is not None and opset >= since


@functools.cache
def load_half_table(provider: str) -> HalfTable:
    """Return the table of `provider`.

    Raises:
        ExtensionError: It comes from another distribution, and declares what is no table.
    """
    content = load_provider(provider).half
    if not content:
        return HalfTable(provider, declared=False)
    with reading_table(provider, "half"):
        kernels = {name: dict(map(_kernel, content[name])) for name in content if name in ("float16", "bfloat16")}
        others = {name: content[name] for name in ("activations", "reason", "casts") if name in content}
        if unknown := content.keys() - kernels.keys() - others.keys():
            raise KeyError(min(unknown))
        if others.get("activations", "float") not in ("half", "float"):
            raise ValueError(f"activations = {others['activations']!r}")
    return HalfTable(provider, declared=True, kernels=kernels, **others)


def _kernel(word: str) -> tuple[OpName, int]:
    name, _, since = word.partition("@")
    return op_name(name), int(since or 1)


@dataclasses.dataclass(frozen=True)
class OpFacts:
    """What `ops.toml` says, which explains its tables."""

    result_type: Mapping[OpName, str]
    float32_inputs: Places
    float32_outputs: Places
    one_type: frozenset[OpName]
    digits: frozenset[OpName]
    differences: frozenset[OpName]
    negates: frozenset[OpName]
    only_with: Mapping[OpName, Mapping[str, int | str]]
    small: Places
    angles: Places
    limits: Places
    masks: Places
    sums: Mapping[OpName, str]


@functools.cache
def load_op_facts() -> OpFacts:
    """Return what `ops.toml` says."""
    text = (importlib.resources.files(__package__) / "ops.toml").read_text(encoding="utf-8")
    tables: Mapping[str, Mapping[str, Any]] = tomllib.loads(text)
    named = {
        table: {op_name(word): entry for word, entry in rows.items()}
        for table, rows in tables.items()
        if "ops" not in rows
    }
    listed = {table: frozenset(map(op_name, rows["ops"])) for table, rows in tables.items() if "ops" in rows}
    return OpFacts(**named, **listed)  # type: ignore[arg-type]  # the file is ours, and a test reads it


def stands_in(places: Places, node: ir.Node, index: int) -> bool:
    """Whether an input, or an output, of a node is among `places`."""
    return index in places.get(op_of(node), ())
