"""Ops that rename, order, join, cut and repeat axes; what they do to small integers, they do here, too."""

from __future__ import annotations

from onnxslim.ops.arithmetic import floordiv, is_nonnegative, is_positive, maximum, minimum, never_equal
from onnxslim.ops.elementwise import broadcast_shapes
from onnxslim.ops.fact import Element, Fact, NodeFacts, ShapeRule, Unknowable, axis_of
from onnxslim.ops.symbols import Size, exact_quotient, is_unknown, product

FAR = 1_000_000_000
"""An end of a Slice from here on means the end of the axis: exporters write INT_MAX or this, and no axis is so long."""


def reshape(site: NodeFacts) -> Fact:
    """Reshape: 0 copies, -1 is what is left over."""
    first = site.fact(0)
    told = site.attribute("shape")
    target: tuple[Element, ...] | None = tuple(told) if told is not None else site.elements(1)
    if target is None:
        length = site.shape(1)[0]
        return Fact(first.dtype, site.unknowns(length) if isinstance(length, int) else None)
    source, keep_zero = first.shape, bool(site.attribute("allowzero", 0))
    result: list[Size | None] = []
    rest: int | None = None
    for place, size in enumerate(target):
        if size == -1:
            rest = place
            result.append(None)
        elif size == 0 and not keep_zero:
            result.append(source[place] if source is not None and place < len(source) else site.unknown(place))
        elif size is None or isinstance(size, float) or not _is_size(size, place, source, keep_zero):
            result.append(site.unknown(place))
        else:
            result.append(size)
    if rest is not None:
        result[rest] = _left_over(source, [size for size in result if size is not None])
        if result[rest] is None:
            result[rest] = site.unknown(rest)
    shape = tuple(size for size in result if size is not None)
    if source is not None and product(shape) != product(source):
        shape = _complete(site, source, shape)
    return Fact(first.dtype, shape, first.elements if len(shape) < 2 else None)


def _is_size(size: Size, place: int, source: tuple[Size, ...] | None, keep_zero: bool) -> bool:
    """Whether an element of a target is the size that results: no -1, and no 0 that copies another size.

    A size that may be 0 at run time copies what the input has at that place. That is 0, too, if the input has as many
    elements there as a multiple of the size. (Two sizes that are 0 at once are not thought of.)
    """
    if is_positive(size):
        return True
    if not is_nonnegative(size):
        return False
    return keep_zero or (source is not None and exact_quotient(product(source), size) is not None)


def _left_over(source: tuple[Size, ...] | None, others: list[Size]) -> Size | None:
    if source is None:
        return None
    known, total = product(others), product(source)
    return None if known == 0 else floordiv(total, known)


def _complete(site: NodeFacts, source: tuple[Size, ...], shape: tuple[Size, ...]) -> tuple[Size, ...]:
    """Find the one size that is not known from those that are, for the elements are as many as before."""
    mine = [place for place in range(len(shape)) if shape[place] == site.unknown(place)]
    if len(mine) != 1:
        return shape
    known = product([size for place, size in enumerate(shape) if place != mine[0]])
    if not is_positive(known):
        return shape
    quotient = exact_quotient(product(source), known)
    return shape if quotient is None else tuple(quotient if p == mine[0] else s for p, s in enumerate(shape))


def flatten(site: NodeFacts) -> Fact:
    """Flatten: two axes, all before `axis` and all from it on."""
    shape = site.shape()
    axis = site.attribute("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return Fact(site.fact(0).dtype, (product(shape[:axis]), product(shape[axis:])))


def transpose(site: NodeFacts) -> Fact:
    """Transpose: the axes in another order."""
    shape = site.shape()
    order = site.attribute("perm") or range(len(shape) - 1, -1, -1)
    return Fact(site.fact(0).dtype, tuple(shape[axis] for axis in order), site.fact(0).elements)


def squeeze(site: NodeFacts) -> Fact:
    """Squeeze: the axes that are named go, or all of size 1."""
    shape = site.shape()
    axes = site.integers("axes", 1)
    if axes is not None and not axes:
        # ONNX Runtime takes no axes for all of size 1, the reference implementation for none: not even onnx is asked.
        return Fact(site.fact(0).dtype)
    if axes is None:
        if not all(isinstance(size, int) for size in shape):
            raise Unknowable
        dropped = {axis for axis, size in enumerate(shape) if size == 1}
    else:
        dropped = {axis_of(axis, len(shape)) for axis in axes}
    rest = tuple(size for axis, size in enumerate(shape) if axis not in dropped)
    return Fact(site.fact(0).dtype, rest, site.fact(0).elements)


def unsqueeze(site: NodeFacts) -> Fact:
    """Unsqueeze: ones at the places that are named."""
    shape, axes = list(site.shape()), site.integers("axes", 1)
    if axes is None:
        raise Unknowable
    rank = len(shape) + len(axes)
    for axis in sorted(axis_of(axis, rank) for axis in axes):
        shape.insert(axis, 1)
    return Fact(site.fact(0).dtype, tuple(shape), site.fact(0).elements if rank < 2 else None)


def concat(site: NodeFacts) -> Fact:
    """Concat: sizes add up along the axis; the others are those of any input."""
    kind = next((fact.dtype for fact in site.facts if fact is not None and fact.dtype is not None), None)
    known = [fact.shape for fact in site.facts if fact is not None and fact.shape is not None]
    if not known:
        return Fact(kind)
    rank, axis = len(known[0]), axis_of(site.attribute("axis", 1), len(known[0]))
    result: list[Size] = []
    for place in range(rank):
        sizes = [shape[place] for shape in known]
        if place != axis:
            result.append(min(sizes, key=lambda size: 0 if isinstance(size, int) else 1 + is_unknown(size)))
        elif len(known) == len(site.facts):
            total: Size = 0
            for size in sizes:
                total = size + total
            result.append(total)
        else:
            result.append(site.unknown(place))
    elements: tuple[Element, ...] | None = None
    if rank == 1 and any(fact is not None and fact.elements is not None for fact in site.facts):
        parts = [site.elements(index) for index in range(len(site.facts))]
        if all(part is not None for part in parts):
            elements = tuple(each for part in parts for each in part or ())
    return Fact(kind, tuple(result), elements)


def split(site: NodeFacts) -> tuple[Fact, ...]:
    """Split: equal parts, the last of which may be smaller, or parts as long as told."""
    first, count = site.fact(0), len(site.node.outputs)
    shape = site.shape()
    axis = axis_of(site.attribute("axis", 0), len(shape))
    lengths: tuple[Element, ...] | None
    if site.has(1):
        lengths = site.elements(1)
    elif "split" in site.node.attributes:
        lengths = tuple(site.attribute("split"))
    else:
        whole = shape[axis]
        pieces = site.attribute("num_outputs", count)
        each = floordiv(whole + (pieces - 1), pieces) if site.version >= 18 else floordiv(whole, pieces)
        exact = exact_quotient(whole, pieces) is not None or site.version < 18
        last = each if exact else (whole - each * (pieces - 1) if isinstance(whole, int) else None)
        lengths = (*[each] * (count - 1), last)
    facts: list[Fact] = []
    start: Size = 0
    for output in range(count):
        length = lengths[output] if lengths is not None and output < len(lengths) else None
        size = site.unknown(axis, output) if length is None or isinstance(length, float) else length
        elements = None
        if first.elements is not None and isinstance(start, int) and isinstance(size, int):
            elements = first.elements[start : start + size]
        start = start + size
        facts.append(Fact(first.dtype, (*shape[:axis], size, *shape[axis + 1 :]), elements))
    return tuple(facts)


def slice_(site: NodeFacts) -> Fact:
    """Slice: starts and ends are held within the axis, negative ones count from its end."""
    first, shape = site.fact(0), list(site.shape())
    if site.version < 10:
        starts: tuple[Element, ...] | None = tuple(site.attribute("starts"))
        ends: tuple[Element, ...] | None = tuple(site.attribute("ends"))
    else:
        starts, ends = site.elements(1), site.elements(2)
    axes = site.integers("axes", 3)
    count = len(starts) if starts is not None else len(ends) if ends is not None else None
    if axes is None:
        if count is None:
            raise Unknowable
        axes = tuple(range(count))
    steps = site.elements(4) if site.has(4) else (1,) * len(axes)
    elements = first.elements
    for at, axis in enumerate(axes):
        place = axis_of(axis, len(shape))
        start, end = (starts[at] if starts else None), (ends[at] if ends else None)
        step = steps[at] if steps else None
        whole = shape[place]
        size = sliced_size(whole, start, end, step)
        shape[place] = site.unknown(place) if size is None else size
        if elements is not None and size is not None:
            if isinstance(start, int) and isinstance(end, int) and isinstance(step, int):
                elements = tuple(elements[at] for at in _places(len(elements), start, end, step))
            elif size != whole or not isinstance(step, int) or step < 0:
                elements = None
        else:
            elements = None
    return Fact(first.dtype, tuple(shape), elements)


def _places(length: int, start: int, end: int, step: int) -> range:
    """Return what a Slice takes of an axis: starts and ends are held within it, to the place before it backwards."""
    start, end = (place + length if place < 0 else place for place in (start, end))
    if step > 0:
        return range(min(max(start, 0), length), min(max(end, 0), length), step)
    return range(min(max(start, 0), length - 1), min(max(end, -1), length - 1), step)


def sliced_size(whole: Size, start: Element, end: Element, step: Element) -> Size | None:
    """Return how much a Slice leaves of an axis, or None."""
    if not isinstance(step, int) or step == 0 or isinstance(start, float) or isinstance(end, float):
        return None
    if step < 0:
        return _sliced_backwards(whole, start, end, step)
    low, high = _held(whole, start), _held(whole, end)
    if low is None or high is None:
        return None
    return floordiv(maximum(0, high - low) + (step - 1), step)


def _held(whole: Size, place: Size | None) -> Size | None:
    """Return a place of a Slice, counted from the front and held within the axis."""
    if place is None:
        return None
    if isinstance(place, int):
        if place >= FAR - 1:
            return whole
        return minimum(place, whole) if place >= 0 else maximum(0, whole + place)
    if is_nonnegative(place):
        return minimum(place, whole)
    if is_positive(-place):
        return maximum(0, whole + place)
    return None


def _sliced_backwards(whole: Size, start: Size | None, end: Size | None, step: int) -> Size | None:
    if isinstance(end, int) and end >= FAR - 1:
        return None  # runtimes take it for the place before the first, or for the end
    if isinstance(whole, int) and isinstance(start, int) and isinstance(end, int):
        return len(_places(whole, start, end, step))
    # The whole axis backwards is all that is worth more.
    if step == -1 and (start == -1 or (isinstance(start, int) and start >= FAR - 1)):
        return whole if isinstance(end, int) and end <= -FAR + 1 else None
    return None


def gather(site: NodeFacts) -> Fact:
    """Gather: the axes of the indices in the place of one axis."""
    first, shape, places = site.fact(0), site.shape(0), site.shape(1)
    axis = axis_of(site.attribute("axis", 0), len(shape))
    elements = None
    indices = site.fact(1).elements
    if first.elements is not None and indices is not None and len(shape) == 1:
        elements = tuple(_element(first.elements, index) for index in indices)
    return Fact(first.dtype, (*shape[:axis], *places, *shape[axis + 1 :]), elements)


def _element(elements: tuple[Element, ...], index: Element) -> Element:
    return elements[index] if isinstance(index, int) and -len(elements) <= index < len(elements) else None


def gather_elements(site: NodeFacts) -> Fact:
    """GatherElements: as large as the indices."""
    return Fact(site.fact(0).dtype, site.shape(1))


def gather_nd(site: NodeFacts) -> Fact:
    """GatherND: the last axis of the indices says where, the others remain."""
    shape, places = site.shape(0), site.shape(1)
    depth = places[-1]
    if not isinstance(depth, int):
        raise Unknowable
    return Fact(site.fact(0).dtype, (*places[:-1], *shape[site.attribute("batch_dims", 0) + depth :]))


def expand(site: NodeFacts) -> Fact:
    """Expand: the shape of the data and the one that is told broadcast."""
    first = site.fact(0)
    target = site.elements(1)
    if target is None:
        raise Unknowable
    shape = first.shape
    if shape is None:
        return Fact(first.dtype)
    rank = max(len(shape), len(target))
    asked = tuple(1 if size is None or isinstance(size, float) else size for size in target)
    result = tuple(
        site.unknown(place)
        if place >= rank - len(target) and target[place - rank] is None and not never_equal(size, 1)
        else size
        for place, size in enumerate(broadcast_shapes([shape, asked]))
    )
    elements = first.elements
    if elements is not None and result != shape:
        length = result[0] if len(result) == 1 else None
        elements = elements * length if len(elements) == 1 and isinstance(length, int) and length <= 64 else None
    return Fact(first.dtype, result, elements)


def tile(site: NodeFacts) -> Fact:
    """Tile: each axis as often as told."""
    first, shape = site.fact(0), site.shape()
    repeats = site.elements(1)
    if repeats is None or site.version < 6:
        return Fact(first.dtype, site.unknowns(len(shape)))
    sizes = tuple(
        site.unknown(axis) if times is None or isinstance(times, float) else size * times
        for axis, (size, times) in enumerate(zip(shape, repeats, strict=True))
    )
    return Fact(first.dtype, sizes)


def pad(site: NodeFacts) -> Fact:
    """Pad: each axis grows by what is put before and after it, or shrinks by what is cut off."""
    first, shape = site.fact(0), list(site.shape())
    told = site.attribute("pads", site.attribute("paddings"))
    pads: tuple[Element, ...] | None = tuple(told) if told is not None else site.elements(1)
    axes = site.integers("axes", 3) or range(len(shape))
    if pads is None:
        if site.has(3):
            return Fact(first.dtype, site.unknowns(len(shape)))
        pads = (None,) * (2 * len(shape))
    for at, axis in enumerate(axes):
        before, after = pads[at], pads[at + len(axes)]
        place = axis_of(axis, len(shape))
        if before is None or after is None or isinstance(before, float) or isinstance(after, float):
            shape[place] = site.unknown(place)
        else:
            shape[place] = shape[place] + (before + after)
    return Fact(first.dtype, tuple(shape))


def depth_to_space(site: NodeFacts) -> Fact:
    """DepthToSpace: blocks of channels become blocks of space."""
    batch, channels, height, width = site.shape()
    block = site.attribute("blocksize")
    return Fact(site.fact(0).dtype, (batch, floordiv(channels, block * block), height * block, width * block))


def space_to_depth(site: NodeFacts) -> Fact:
    """SpaceToDepth: blocks of space become blocks of channels."""
    batch, channels, height, width = site.shape()
    block = site.attribute("blocksize")
    sizes = (batch, channels * (block * block), floordiv(height, block), floordiv(width, block))
    return Fact(site.fact(0).dtype, sizes)


def same(site: NodeFacts) -> Fact:
    """Return what the first input is, for ops that only put other elements into it."""
    return Fact(site.fact(0).dtype, site.fact(0).shape)


RULES: dict[tuple[str, str], ShapeRule] = {
    ("", "Reshape"): reshape,
    ("", "Flatten"): flatten,
    ("", "Transpose"): transpose,
    ("", "Squeeze"): squeeze,
    ("", "Unsqueeze"): unsqueeze,
    ("", "Concat"): concat,
    ("", "Split"): split,
    ("", "Slice"): slice_,
    ("", "Gather"): gather,
    ("", "GatherElements"): gather_elements,
    ("", "GatherND"): gather_nd,
    ("", "Expand"): expand,
    ("", "Tile"): tile,
    ("", "Pad"): pad,
    ("", "DepthToSpace"): depth_to_space,
    ("", "SpaceToDepth"): space_to_depth,
    ("", "ScatterElements"): same,
    ("", "ScatterND"): same,
    ("", "Scatter"): same,
    ("", "Trilu"): same,
    ("", "ReverseSequence"): same,
    ("", "CumSum"): same,
    ("", "TensorScatter"): same,
}
"""The rules of this theme, by domain and op."""
