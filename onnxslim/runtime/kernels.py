"""Gives the times of ONNX Runtime's kernels to nodes of the model: it fuses nodes, and gives names of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from onnxslim.analysis.regions import grouped
from onnxslim.runtime.profile import RUNS, node_milliseconds
from onnxslim.runtime.target import Target

ADDED = re.compile(r"(_token_\d+|_nchwc|_nhwc|_quant|_fused)$")
"""What ONNX Runtime appends to the name of a node or value where it makes another node of it."""
CUTS = re.compile(r"[/_]")


def kernel_milliseconds(
    model: ir.Model, feeds: Mapping[str, Any], target: Target, macs: Mapping[str, int], runs: int = RUNS
) -> tuple[dict[str, float], float]:
    """Return the milliseconds of nodes of the main graph by the first value that they make, and those of no node.

    A kernel covers the nodes between the values that kernels make; its time is that of the one of them with the most
    multiply-accumulates; `macs` has them by the first value that a node makes. Nodes that are missing were fused into
    others, or folded.

    Raises:
        RunError: The model does not run on `feeds`.
    """
    named = model.clone()
    for node in named.graph:
        node.name = first_value(node)  # names of nodes may be missing, or there twice
    return assign(named, node_milliseconds(named, feeds, target, runs), macs)


def assign(model: ir.Model, times: Mapping[str, float], macs: Mapping[str, int]) -> tuple[dict[str, float], float]:
    """Return `times`, which are by the names of kernels, as `kernel_milliseconds` does."""
    outputs = ((node, output) for node in model.graph for output in node.outputs)
    makers: dict[str | None, str] = {output.name: first_value(node) for node, output in outputs if output.name}
    makers |= {node.name: first_value(node) for node in model.graph if node.name}
    found = {kernel: value_of(kernel, makers) for kernel in times}
    groups = grouped(model.graph, {value for value in found.values() if value})
    result: dict[str, float] = {}
    unknown = 0.0
    for kernel, time in times.items():
        value = found[kernel]
        if value is None:
            unknown += time
            continue
        covered = [first_value(node) for node in groups.get(value, ())]
        heaviest = max(covered, key=lambda name: (macs.get(name, 0), name == value), default=value)
        result[heaviest] = result.get(heaviest, 0.0) + time
    return result, unknown


def first_value(node: ir.Node) -> str:
    """Return the name of the first value that a node makes and that has one."""
    return next((output.name for output in node.outputs if output.name), "")


def value_of(kernel: str, makers: Mapping[str | None, str]) -> str | None:
    """Return the value that a kernel makes: of the node or value whose name the kernel's begins with."""
    name = kernel.removeprefix("fused ")
    while name:
        if name in makers:
            return makers[name] or None
        shorter = ADDED.sub("", name)
        if shorter == name:
            cut = max((match.start() for match in CUTS.finditer(name)), default=0)
            shorter = name[:cut]
        name = shorter
    return None
