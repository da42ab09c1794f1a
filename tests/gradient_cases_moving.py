"""Draws nodes that move, pick, write or multiply elements, for the proof of gradients: all that a gradient hangs on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from op_cases_moving import beside as elements_beside
from op_cases_moving import expand, gather, gather_nd, pad, scatter_nd, slice_
from op_draw import Array, Case, Draw

from onnxslim.ops.signatures import OpName

f32, i64 = np.float32, np.int64
NEW_MODES = 19
"""The operator set that has Pad with mode wrap."""
REDUCED = 18
"""The operator set from which Scatter* take max and min."""
FAR = 10**9 - 1
"""From here on an end is beyond any axis."""


def cut(draw: Draw) -> Case:
    """A Slice whose result has a known size: runtimes do not agree on a far end backwards."""
    return next(case for case in iter(lambda: slice_(draw), None) if not _ends_far(case))


def _ends_far(case: Case) -> bool:
    ends, steps = (case.operands[at] if len(case.operands) > at else None for at in (2, 4))
    return ends is not None and steps is not None and bool(((steps < 0) & (ends >= FAR)).any())


def widened(draw: Draw) -> Case:
    """An Expand to a shape that its input fits."""
    return next(case for case in iter(lambda: expand(draw), None) if _fits(case))


def _fits(case: Case) -> bool:
    source, target = case.operands
    assert source is not None
    assert target is not None
    pairs = zip(source.shape[::-1], target[::-1].tolist(), strict=False)
    return all(1 in pair or pair[0] == pair[1] for pair in pairs)


def picked(draw: Draw) -> Case:
    """A Gather: of any place, of a run, of all places in another order, forwards and back."""
    if draw.chance():
        case = gather(draw)
        case.fixed = case.fixed - {0}
        if case.operands[0] is not None and case.operands[0].dtype != f32:
            case.operands[0] = case.operands[0].astype(f32)
        return case
    shape = draw.shape(most=7)
    axis = draw.axis(len(shape))
    size = shape[axis]
    start, step = draw.number(0, size - 1), draw.one_of([1, 2, -1])
    places = draw.one_of([np.arange(size)[start::step], draw.random.permutation(size)[: draw.number(1, size)]])
    return Case(("", "Gather"), [draw.data(shape), places.astype(i64)], {"axis": axis}, frozenset({1}))


def framed(draw: Draw) -> Case:
    case = pad(draw)
    shape = case.operands[0].shape if case.operands[0] is not None else ()
    case.fixed = frozenset({1, 3})  # the number that is put there may be trained
    if draw.opset >= NEW_MODES and draw.chance(0.3):
        pads = [draw.number(0, min(2, size)) for size in shape] * 2
        return Case(("", "Pad"), [draw.data(shape), draw.vector(*pads)], {"mode": "wrap"}, frozenset({1}))
    return case


def written(op_type: str) -> Callable[[Draw], Case]:
    def drawn(draw: Draw) -> Case:
        case = scatter_nd(draw) if op_type == "ScatterND" else elements_beside(draw, op_type, True)
        reductions = ["none", "none", "add", "mul"] + ["max", "min"] * (draw.opset >= REDUCED)
        if draw.chance(0.8):
            case.attributes["reduction"] = draw.one_of(reductions)
        reduction = case.attributes.get("reduction", "none")
        case.fixed = frozenset({1} if reduction == "mul" or draw.chance() else ())
        if reduction in ("add", "max", "min") and draw.chance():
            case.operands[1] = np.zeros_like(case.operands[1])  # one place, again and again
        return case

    return drawn


def picked_tuples(draw: Draw) -> Case:
    case = gather_nd(draw)
    case.fixed = frozenset({1} if draw.chance() else ())
    return case


def blocks(op_type: str) -> Callable[[Draw], Case]:
    def drawn(draw: Draw) -> Case:
        block, n, c, h, w = (draw.number(1, 3) for _ in range(5))
        deep = op_type == "DepthToSpace"
        shape = (n, c * block * block, h, w) if deep else (n, c, h * block, w * block)
        mode = {"mode": draw.one_of(["DCR", "CRD"])} if deep and draw.chance(0.8) else {}
        return Case(("", op_type), [draw.data(shape)], {"blocksize": block, **mode})

    return drawn


def reverse_sequence(draw: Draw) -> Case:
    shape = draw.shape(2, 4)
    time = draw.number(0, 1)
    lengths = np.asarray(draw.random.integers(1, shape[time] + 1, shape[1 - time]), i64)
    axes = {} if time == 0 and draw.chance() else {"time_axis": time, "batch_axis": 1 - time}
    return Case(("", "ReverseSequence"), [draw.data(shape), lengths], axes, frozenset({1} if draw.chance() else ()))


def trilu(draw: Draw) -> Case:
    operands: list[Array | None] = [draw.data(draw.shape(2, 4)), np.array(draw.number(-2, 2), i64)]
    attributes = {"upper": draw.number(0, 1)} if draw.chance(0.7) else {}
    return Case(("", "Trilu"), operands[: draw.number(1, 2)], attributes, frozenset({1}))


def matmul(draw: Draw) -> Case:
    m, k, n = (draw.number(1, 4) for _ in range(3))
    outer = draw.shape(0, 2, 1, 3)
    left, right = (
        tuple(1 if draw.chance(0.3) else size for size in outer)[draw.number(0, len(outer)) :] for _ in range(2)
    )
    first = (k,) if draw.chance(0.2) else (*left, m, k)
    second = (k,) if draw.chance(0.2) else (*right, k, n)
    return Case(("", "MatMul"), [draw.data(first), draw.data(second)])


def gemm(draw: Draw) -> Case:
    m, k, n = (draw.number(1, 4) for _ in range(3))
    turned = draw.number(0, 1), draw.number(0, 1)
    first, second = (k, m) if turned[0] else (m, k), (n, k) if turned[1] else (k, n)
    operands: list[Array | None] = [draw.data(first), draw.data(second)]
    if draw.chance(0.8):
        operands.append(draw.data(draw.one_of([(), (1,), (n,), (1, n), (m, 1), (m, n)])))
    attributes: dict[str, object] = {"transA": turned[0], "transB": turned[1]}
    attributes |= {name: 0.5 for name in ("alpha", "beta") if draw.chance()}
    return Case(("", "Gemm"), operands, attributes)


EQUATIONS = (
    "bhid,bhjd->bhij",
    "ij,jk",
    "i,i->",
    "i,j->ij",
    "ij->ji",
    "ii->i",
    "ii->",
    "iij->j",
    "ij->i",
    "ij,kl->il",
    "ij,jk,kl->il",
    "...ij,...jk->...ik",
    "b...i,ij->b...j",
    "...i->...",
    "bij, bjk -> bik",
    "i,->i",
)


def einsum(draw: Draw) -> Case:
    equation = draw.one_of(EQUATIONS)
    sizes: dict[str, int] = {}
    shapes = []
    outer = draw.shape(0, 2, 1, 3)
    for term in equation.replace(" ", "").partition("->")[0].split(","):
        own = [sizes.setdefault(letter, draw.number(1, 3)) for letter in term.replace("...", "")]
        if "..." in term:
            place = term.index("...")
            broadcast = [1 if draw.chance(0.3) else size for size in outer]
            own[place:place] = broadcast
        shapes.append(tuple(own))
    return Case(("", "Einsum"), [draw.data(shape) for shape in shapes], {"equation": equation})


DRAWN_FOR_GRADIENTS: Mapping[OpName, Callable[[Draw], Case]] = {
    ("", "Slice"): cut,
    ("", "Expand"): widened,
    ("", "Gather"): picked,
    ("", "GatherND"): picked_tuples,
    ("", "Pad"): framed,
    **{("", name): written(name) for name in ("ScatterElements", "ScatterND")},
    **{("", name): blocks(name) for name in ("DepthToSpace", "SpaceToDepth")},
    ("", "ReverseSequence"): reverse_sequence,
    ("", "Trilu"): trilu,
    ("", "MatMul"): matmul,
    ("", "Gemm"): gemm,
    ("", "Einsum"): einsum,
}
"""For each op what draws a node of it, where `op_cases.DRAWN` has none, or none with all that its gradient reads."""
