"""Runs the nodes that a rule matched, and those that would replace them, on random data, and compares."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx_ir as ir

from onnxslim.analysis.evaluate import evaluate, evaluate_nodes
from onnxslim.arrays import Array
from onnxslim.model.constants import constant
from onnxslim.rewrite.instantiate import Instantiation
from onnxslim.rewrite.match import Match
from onnxslim.rewrite.rule import IMPORTED_VERSION

Feeds = Mapping[ir.Value, Array]

TOLERANCE: Mapping[str, float] = {"float64": 1e-9, "float32": 2e-4, "float16": 2e-2}
"""Relative to the largest element of the result. Sides sum in different orders and round intermediate weights: some ten
roundings of 6e-8 in float32, times the condition of what is computed, which `1/sqrt(var + epsilon)` and differences of
nearly equal numbers make some hundreds."""

SYMBOL_SIZES = (2, 3, 5, 7)
"""What symbolic dimensions are at a site, in turn: not 1, which broadcasts."""

LARGEST_SITE = 1 << 26
"""Elements of one input; what is larger is not tried."""


@dataclasses.dataclass(frozen=True)
class Guess:
    """What stands in for what nothing tells."""

    size: int
    """A size without a number or a name."""
    rank: int
    """The rank of a value of which only the type is known."""


GUESSES = (Guess(3, 2), Guess(3, 4), Guess(1, 3), Guess(8, 1))
"""Tried in turn until the site runs: what a rule does where it does not know a size must hold for every size."""


@dataclasses.dataclass(frozen=True)
class SiteCheck:
    """What came of running a site and what would replace it."""

    ran: bool
    """Whether the site ran on what was drawn; if not, nothing can be said."""
    difference: str | None = None
    """How they differ, or None."""


def check_site(match: Match, plan: Instantiation, generator: np.random.Generator) -> SiteCheck:
    """Run a site and what would replace it on random data of the site's own types and shapes, and compare.

    Constants are what they are; symbolic dimensions get sizes, the same wherever a name occurs; what is not known of a
    shape is guessed, several times until the site runs.
    """
    for guess in GUESSES if is_guessed(match) else GUESSES[:1]:
        feeds = site_feeds(match, generator, guess)
        before = None if feeds is None else run_before(match, feeds)
        if feeds is None or before is None or not _as_declared(match, before):
            continue
        after = run_after(match, plan, feeds)
        if after is None:
            return SiteCheck(True, "what would replace it does not run")
        for result, old, new in zip(match.rule.results, before, after, strict=True):
            why = difference(old, new)
            if why is not None:
                return SiteCheck(True, f"{result.name} {why}")
        return SiteCheck(True)
    return SiteCheck(False)


def _as_declared(match: Match, results: list[Array]) -> bool:
    """Whether what a site made has the sizes that are known of its results: a guess may have missed them."""
    for value, array in zip(match.results(), results, strict=True):
        sizes = None if value.shape is None else [size if isinstance(size, int) else None for size in value.shape]
        if sizes is not None and len(sizes) != array.ndim:
            return False
        if any(size not in (None, have) for size, have in zip(sizes or (), array.shape, strict=False)):
            return False
    return True


def difference(expected: Array, got: Array) -> str | None:
    """Compare what the sides made. Returns None if they agree up to rounding, else how they differ."""
    if expected.shape != got.shape:
        return f"has the shape {list(got.shape)}, not {list(expected.shape)}"
    if expected.dtype != got.dtype:
        return f"has the type {got.dtype}, not {expected.dtype}"
    if expected.dtype.kind not in "fc":
        return None if np.array_equal(expected, got) else "has other elements"
    if not np.array_equal(np.isnan(expected), np.isnan(got)):
        return "is no number in other places"
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(got)) or not np.array_equal(
        expected[~finite], got[~finite], equal_nan=True
    ):
        return "is infinite in other places"
    if not finite.any():
        return None
    scale = max(1e-6, float(np.max(np.abs(expected[finite]))))
    worst = float(np.max(np.abs(expected[finite] - got[finite]))) / scale
    limit = TOLERANCE.get(str(expected.dtype), 2e-2)
    return None if worst <= limit else f"differs by {worst:.2g} of its largest element, more than {limit:g}"


def site_feeds(match: Match, generator: np.random.Generator, guess: Guess) -> dict[ir.Value, Array] | None:
    """Draw what flows into a site, of the types and shapes that it has; constants are what they are.

    Returns None where types are not known, or inputs are too large to try.
    """
    sizes: dict[str, int] = {}
    feeds: dict[ir.Value, Array] = {}
    inner = {output for node in match.nodes for output in node.outputs}
    for value in (v for node in match.nodes for v in node.inputs if v is not None and v not in inner):
        known = constant(value)
        if known is not None:
            feeds[value] = known
            continue
        if value in feeds:
            continue
        if value.dtype is None or value.dtype.is_string():
            return None
        shape = [_size(size, sizes, guess) for size in value.shape or [None] * guess.rank]
        if value.shape is not None and value.shape.rank() == 0:
            shape = []
        if np.prod(shape, dtype=np.int64) > LARGEST_SITE:
            return None
        feeds[value] = _random(shape, value.dtype.numpy(), generator)
    return feeds


def is_guessed(match: Match) -> bool:
    """Whether something about the shapes that flow into a site is not known, so that another guess is worth a try."""
    values = {v for node in match.nodes for v in node.inputs if v is not None and constant(v) is None}
    return any(v.shape is None or any(not isinstance(s, int) and s.value is None for s in v.shape) for v in values)


def _size(size: int | ir.SymbolicDim | None, sizes: dict[str, int], guess: Guess) -> int:
    if isinstance(size, int):
        return size if size >= 0 else guess.size
    if size is None or size.value is None:
        return guess.size
    return sizes.setdefault(size.value, SYMBOL_SIZES[len(sizes) % len(SYMBOL_SIZES)])


def _random(shape: list[int], dtype: np.dtype[Any], generator: np.random.Generator) -> Array:
    if dtype.kind == "b":
        return np.asarray(generator.random(shape) < 0.5)
    if dtype.kind in "iu":
        return np.asarray(generator.integers(0, 4, shape), dtype)
    return np.asarray(generator.normal(size=shape)).astype(dtype)


def run_before(match: Match, feeds: Feeds) -> list[Array] | None:
    """Run the nodes that a rule matched. Returns its results, or None where they do not run."""
    opsets = {**{node.domain: IMPORTED_VERSION for node in match.nodes}, "": match.rule.opset}
    return evaluate_nodes(_in_order(match), feeds, match.results(), opsets)


def _in_order(match: Match) -> list[ir.Node]:
    """Return the matched nodes such that each comes after those whose outputs it reads."""
    ordered: dict[ir.Node, None] = {}

    def add(node: ir.Node) -> None:
        for value in node.inputs:
            maker = value.producer() if value is not None else None
            if maker is not None and maker in match.nodes and maker not in ordered:
                add(maker)
        ordered[node] = None

    for node in match.nodes:
        if node not in ordered:
            add(node)
    return list(ordered)


def run_after(match: Match, plan: Instantiation, feeds: Feeds) -> list[Array] | None:
    """Run what would replace a site. Returns its results, or None where they do not run."""
    arrays = dict(plan.arrays)
    for planned in plan.nodes:
        for name in planned.inputs:
            value = plan.values.get(name) if name is not None else None
            if name is not None and value is not None:
                arrays[name] = feeds[value]
    protos = []
    for planned in plan.nodes:
        proto = onnx.helper.make_node(
            planned.body.op_type,
            [name or "" for name in planned.inputs],
            list(planned.body.outputs),
            domain=planned.body.domain,
        )
        proto.attribute.extend(ir.to_proto(attribute) for attribute in planned.attributes)
        protos.append(proto)
    wanted = [result.name for result in match.rule.results]
    left = [name for name in wanted if name not in plan.arrays]
    opsets = {**{proto.domain: IMPORTED_VERSION for proto in protos}, "": match.rule.opset}
    used = {name for proto in protos for name in proto.input}
    fed = {name: array for name, array in arrays.items() if name in used}
    made = evaluate(protos, fed, left, opsets) if left else []
    if made is None:
        return None
    results = dict(zip(left, made, strict=True))
    return [results[name] if name in results else plan.arrays[name] for name in wanted]
