"""Reads which kernels of a provider multiply by blocks of integers, or read rows of them, as `targets/*.toml` says."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from onnxslim.runtime.provider import load_provider, reading_table


@dataclasses.dataclass(frozen=True)
class BlockKernel:
    """An op that has a kernel for weights in blocks of integers."""

    op_type: str
    domain: str
    blocks: Mapping[int, tuple[int, ...]]
    """For each number of bits the sizes of blocks that it takes."""
    replaces: tuple[str, ...]
    """The ops in whose place it stands."""
    attributes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """What its nodes have besides."""

    def takes(self, node: ir.Node, bits: int, block: int) -> bool:
        """Whether it can stand in the place of `node`, with a weight of so many bits in such blocks."""
        return not node.domain and node.op_type in self.replaces and block in self.blocks.get(bits, ())


@dataclasses.dataclass(frozen=True)
class WeightOnlyKernels:
    """The kernels of a provider; None where it has none."""

    product: BlockKernel | None = None
    """Multiplies rows by a weight."""
    table: BlockKernel | None = None
    """Reads rows of a table."""


@functools.cache
def load_kernels(provider: str) -> WeightOnlyKernels:
    """Return the kernels of `provider`.

    Raises:
        ExtensionError: It comes from another distribution, and its table cannot be read.
    """
    content = load_provider(provider).weight_only
    with reading_table(provider, "weight_only"):
        return WeightOnlyKernels(**{role: _kernel(columns) for role, columns in content.items()})


def _kernel(columns: Mapping[str, Any]) -> BlockKernel:
    blocks = {int(bits): tuple(sizes) for bits, sizes in columns["blocks"].items()}
    return BlockKernel(**{**columns, "blocks": blocks, "replaces": tuple(columns["replaces"])})
