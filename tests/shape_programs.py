"""Draws small programs that compute with shapes, among ops of all themes: what inference must be right about."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper
from symbol_values import value_of

from onnxslim.analysis.evaluate import evaluate
from onnxslim.ops.fact import Fact

OPSET = 18
BINDING = {"N": 2, "M": 3, "K": 4}
"""Which sizes the names have while a program is drawn: each node is run, and stays only if it runs."""
MOST = 4096
"""Larger results are thrown away again."""


@dataclasses.dataclass
class Program:
    """A program and what its values are for `BINDING`."""

    inputs: dict[str, tuple[Any, tuple[str | int, ...]]]
    nodes: list[onnx.NodeProto] = dataclasses.field(default_factory=list)
    constants: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def constant(self, array: Any, dtype: Any = np.int64) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = self.arrays[name] = np.array(array, dtype)
        return name

    def add(self, op: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> str | None:
        """Add a node; return its first output, or None where it does not run."""
        names = [f"v{len(self.arrays)}_{place}" for place in range(outputs)]
        node = helper.make_node(op, inputs, names, **attributes)
        feeds = {name: self.arrays[name] for name in inputs if name}
        results = evaluate([node], feeds, names, {"": OPSET}, reference=False)
        if results is None or any(result.size > MOST for result in results):
            return None
        self.nodes.append(node)
        self.arrays.update(zip(names, results, strict=True))
        return names[0]

    def model(self) -> onnx.ModelProto:
        """Return the program as a model; its outputs are all values."""
        graph = helper.make_graph(
            self.nodes,
            "program",
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape)
                for name, (kind, shape) in self.inputs.items()
            ],
            [helper.make_empty_tensor_value_info(name) for node in self.nodes for name in node.output],
            [onnx.numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)

    def windows_fit(self, arrays: dict[str, np.ndarray]) -> bool:
        """Whether no window is larger than what it slides over; ONNX does not say what comes out then."""
        for node in self.nodes:
            attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
            if node.op_type not in ("Conv", "MaxPool", "AveragePool") or attributes.get("auto_pad", b"").startswith(
                b"S"
            ):
                continue
            space = arrays[node.input[0]].shape[2:]
            kernel = attributes.get("kernel_shape") or arrays[node.input[1]].shape[2:]
            pads = attributes.get("pads") or [0] * (2 * len(space))
            dilations = attributes.get("dilations") or [1] * len(space)
            for axis, size in enumerate(space):
                if size + pads[axis] + pads[axis + len(space)] <= (kernel[axis] - 1) * dilations[axis]:
                    return False
        return True

    def feeds(self, binding: dict[str, int]) -> dict[str, np.ndarray]:
        """Return inputs whose symbolic sizes are those of `binding`."""
        return {
            name: (np.arange(int(np.prod(sizes))) % 7 - 2).astype(kind).reshape(sizes)
            for name, (kind, shape) in self.inputs.items()
            for sizes in [[binding[size] if isinstance(size, str) else size for size in shape]]
        }


SIZES = st.sampled_from(["N", "M", "K", "N", "M", 1, 1, 2, 3, 4, 8])


@st.composite
def programs(draw: st.DrawFn, length: int = 10) -> Program:
    """Draw a program of up to `length` nodes, and those that lead to them."""
    inputs: dict[str, Any] = {
        f"x{place}": (np.float32, tuple(draw(st.lists(SIZES, min_size=rank, max_size=rank))))
        for place, rank in enumerate(draw(st.lists(st.sampled_from([1, 2, 3, 4, 4]), min_size=2, max_size=3)))
    }
    inputs["i"] = (np.int64, (draw(st.sampled_from([1, 2, 3])),))
    program = Program(inputs)
    program.arrays.update(program.feeds(BINDING))
    for _ in range(draw(st.integers(3, length))):
        step = draw(st.sampled_from(STEPS))
        step(draw, program)
    return program


def pick(draw: st.DrawFn, program: Program, kind: str, rank: int | None = None, least: int = 0) -> str | None:
    """Return a value whose type is of a kind ('f', 'i', 'b'), or None where there is none."""
    found = [
        name
        for name, array in program.arrays.items()
        if array.dtype.kind == kind and (array.ndim == rank if rank is not None else array.ndim >= least)
    ]
    # Younger values are the more interesting.
    return draw(st.sampled_from(found[-8:])) if found else None


def shape_of(draw: st.DrawFn, program: Program) -> str | None:
    source = pick(draw, program, "f", least=1)
    if source is None:
        return None
    if draw(st.booleans()):
        return program.add("Shape", [source])
    rank = program.arrays[source].ndim
    start, end = sorted(draw(st.lists(st.integers(-rank, rank), min_size=2, max_size=2)))
    return program.add("Shape", [source], start=start, end=end)


def vector(draw: st.DrawFn, program: Program) -> str | None:
    """Return a vector of few integers, computed or constant."""
    found = pick(draw, program, "i", rank=1)
    if found is None or draw(st.integers(0, 4)) == 0:
        return program.constant(draw(st.lists(st.integers(-2, 5), min_size=1, max_size=3)))
    return found


def gather(draw: st.DrawFn, program: Program) -> None:
    data = vector(draw, program) if draw(st.booleans()) else pick(draw, program, "f", least=1)
    if data is None:
        return
    indices = draw(st.sampled_from([0, [0], [-1], [0, 1], [1, 0, 1], [[0, 1]]]))
    program.add("Gather", [data, program.constant(indices)], axis=draw(st.integers(0, 1)))


def cut(draw: st.DrawFn, program: Program) -> None:
    data = vector(draw, program) if draw(st.booleans()) else pick(draw, program, "f", least=1)
    if data is None:
        return
    places = st.sampled_from([0, 1, 2, 3, -1, -2, -3, 2**31 - 1, 2**63 - 1, -(2**31)])
    computed = pick(draw, program, "i", rank=1)
    start, end = program.constant([draw(places)]), program.constant([draw(places)])
    if computed is not None and program.arrays[computed].size == 1:
        start, end = draw(st.sampled_from([(start, end), (start, computed), (computed, end)]))
    axes, steps = program.constant([draw(st.integers(-1, 1))]), program.constant([draw(st.sampled_from([1, 1, 2, -1]))])
    program.add("Slice", [data, start, end, axes, steps])


def concat(draw: st.DrawFn, program: Program) -> None:
    if draw(st.booleans()):
        parts = [vector(draw, program), vector(draw, program)]
    else:
        parts = [pick(draw, program, "f", least=1)] * 2
    if None not in parts:
        program.add("Concat", parts, axis=draw(st.sampled_from([0, 0, -1, 1])))


def arithmetic(draw: st.DrawFn, program: Program) -> None:
    op = draw(st.sampled_from(["Add", "Sub", "Mul", "Min", "Max", "Equal", "Greater", "LessOrEqual"]))
    first, second = vector(draw, program), vector(draw, program)
    if op not in ("Min", "Max") or draw(st.booleans()):
        second = draw(st.sampled_from([second, program.constant(draw(st.integers(-2, 4)))]))
    program.add(op, [first, second])


def division(draw: st.DrawFn, program: Program) -> None:
    first, second = vector(draw, program), program.constant([draw(st.sampled_from([1, 2, 3, 4, -2]))])
    if draw(st.booleans()):
        second = program.add("Max", [vector(draw, program), program.constant([1])])
    if second is not None:
        program.add(draw(st.sampled_from(["Div", "Mod"])), [first, second])


def choice(draw: st.DrawFn, program: Program) -> None:
    condition = pick(draw, program, "b")
    if condition is not None:
        program.add("Where", [condition, vector(draw, program), vector(draw, program)])


def one(draw: st.DrawFn, program: Program) -> None:
    """Ops on one vector of integers."""
    data = vector(draw, program)
    op = draw(
        st.sampled_from(["Neg", "Cast", "ReduceProd", "ReduceSum", "ReduceMax", "Unsqueeze", "Squeeze", "Identity"])
    )
    axes = [program.constant([0])] if op in ("Unsqueeze", "Squeeze") else []
    if op == "Cast":
        kind = draw(st.sampled_from([onnx.TensorProto.FLOAT, onnx.TensorProto.INT32, onnx.TensorProto.BOOL]))
        made = program.add("Cast", [data], to=kind)
        if made is not None and kind == onnx.TensorProto.FLOAT:
            factor = program.constant([draw(st.sampled_from([0.5, 1.0, 2.0, 3.0]))], np.float32)
            scaled = program.add(draw(st.sampled_from(["Mul", "Div"])), [made, factor])
            rounded = program.add(draw(st.sampled_from(["Floor", "Ceil", "Identity"])), [scaled]) if scaled else None
            made = program.add("Cast", [rounded], to=onnx.TensorProto.INT64) if rounded else None
        elif made is not None:
            made = program.add("Cast", [made], to=onnx.TensorProto.INT64)
        return
    attributes = {"keepdims": draw(st.integers(0, 1))} if op.startswith("Reduce") else {}
    program.add(op, [data, *axes], **attributes)


def told(op: str, extra: dict[str, Any] | None = None) -> Any:
    """Return a step that lets an op make something as large as a vector says."""

    def step(draw: st.DrawFn, program: Program) -> None:
        data = pick(draw, program, "f")
        target = vector(draw, program)
        if draw(st.booleans()):  # something that is likely to run: the shape of another value, or its own
            other = pick(draw, program, "f", least=1)
            target = program.add("Shape", [other]) if other is not None else target
        if target is not None and data is not None:
            program.add(op, [data, target] if op != "ConstantOfShape" else [target], **(extra or {}))

    return step


def reshape(draw: st.DrawFn, program: Program) -> None:
    """Reshape to parts of the own shape, in another order, with -1, 0 and products among them."""
    data = pick(draw, program, "f", least=1)
    if data is None:
        return
    shape = program.add("Shape", [data])
    rank = program.arrays[data].ndim
    places = draw(st.permutations(range(rank)))[: draw(st.integers(0, rank))]
    pieces = [program.add("Gather", [shape or "", program.constant([place])]) for place in places]
    pieces.insert(draw(st.integers(0, len(pieces))), program.constant([draw(st.sampled_from([-1, -1, 0, 1, 2]))]))
    if draw(st.booleans()) and len(pieces) > 1:
        pieces[0:2] = [program.add("Mul", pieces[0:2])]  # type: ignore[list-item]
    target = program.add("Concat", [piece for piece in pieces if piece], axis=0)
    if target is not None:
        program.add("Reshape", [data, target])


def range_(draw: st.DrawFn, program: Program) -> None:
    ends = [pick(draw, program, "i", rank=0) or program.constant(draw(st.integers(-2, 5))) for _ in range(2)]
    program.add("Range", [*ends, program.constant(draw(st.sampled_from([1, 1, 2, -1])))])


def binary(draw: st.DrawFn, program: Program) -> None:
    first, second = pick(draw, program, "f"), pick(draw, program, "f")
    if first and second:
        program.add(draw(st.sampled_from(["Add", "Mul", "MatMul", "Sum"])), [first, second])


def unary(draw: st.DrawFn, program: Program) -> None:
    data = pick(draw, program, "f", least=1)
    if data is None:
        return
    rank = program.arrays[data].ndim
    axis = draw(st.integers(-rank, rank - 1))
    keep = draw(st.integers(0, 1))
    op, extra, attributes, outputs = draw(
        st.sampled_from(
            [
                ("Relu", [], {}, 1),
                ("Softmax", [], {"axis": axis}, 1),
                ("Transpose", [], {}, 1),
                ("Flatten", [], {"axis": axis}, 1),
                ("ReduceMean", [[axis]], {"keepdims": keep}, 1),
                ("ArgMax", [], {"axis": axis, "keepdims": keep}, 1),
                ("TopK", [[1]], {"axis": axis}, 2),
                ("Split", [], {"axis": axis, "num_outputs": 2}, 2),
                ("Tile", [[2] * rank], {}, 1),
                ("Pad", [[1] * (2 * rank)], {}, 1),
                ("Pad", [[1, 0], None, [axis]], {}, 1),
                ("Unsqueeze", [[axis]], {}, 1),
                ("Squeeze", [[axis]], {}, 1),
                ("NonZero", [], {}, 1),
                ("GlobalAveragePool", [], {}, 1),
                ("DepthToSpace", [], {"blocksize": 2}, 1),
                ("SpaceToDepth", [], {"blocksize": 2}, 1),
                ("Dropout", [], {}, 2),
                ("LpNormalization", [], {"axis": axis}, 1),
                ("Einsum", [], {"equation": "...->..."}, 1),
            ]
        )
    )
    program.add(op, [data, *("" if e is None else program.constant(e) for e in extra)], outputs, **attributes)


def window(draw: st.DrawFn, program: Program) -> None:
    data = pick(draw, program, "f", least=3)
    if data is None:
        return
    rank = program.arrays[data].ndim - 2
    kernel = draw(st.integers(1, 3))
    attributes: dict[str, Any] = {"strides": [draw(st.integers(1, 3))] * rank}
    if draw(st.booleans()):
        attributes["auto_pad"] = draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    else:
        attributes["pads"] = [draw(st.integers(0, kernel - 1)) for _ in range(2 * rank)]
        attributes["dilations"] = [draw(st.integers(1, 2))] * rank
    op = draw(st.sampled_from(["Conv", "ConvTranspose", "MaxPool", "AveragePool"]))
    if op.endswith("Pool"):
        attributes["ceil_mode"] = draw(st.integers(0, 1))
        if op == "AveragePool":
            attributes.pop("dilations", None)
        program.add(op, [data], kernel_shape=[kernel] * rank, **attributes)
        return
    channels = program.arrays[data].shape[1]
    shape = [channels, 2] if op == "ConvTranspose" else [2, channels]
    program.add(op, [data, program.constant(np.ones([*shape, *[kernel] * rank]), np.float32)], **attributes)


def resize(draw: st.DrawFn, program: Program) -> None:
    data = pick(draw, program, "f", least=1)
    if data is None:
        return
    rank = program.arrays[data].ndim
    if draw(st.booleans()):
        scales = draw(st.lists(st.sampled_from([1.0, 2.0, 0.5, 1.5, 0.7]), min_size=rank, max_size=rank))
        program.add("Resize", [data, "", program.constant(scales, np.float32)], mode="nearest")
    else:
        target = vector(draw, program)
        if target is not None:
            program.add("Resize", [data, "", "", target], mode="nearest")


STEPS = [
    *[shape_of] * 4,
    *[gather] * 3,
    *[cut] * 3,
    *[concat] * 2,
    *[arithmetic] * 3,
    division,
    choice,
    *[one] * 2,
    told("Expand"),
    told("ConstantOfShape"),
    told("Reshape"),
    told("Tile"),
    *[reshape] * 3,
    range_,
    *[binary] * 2,
    *[unary] * 3,
    *[window] * 2,
    resize,
]


def check_facts(
    facts: dict[str, Fact], arrays: dict[str, np.ndarray], binding: dict[str, int], elements: bool = True
) -> None:
    """Compare what is inferred of values with what they are."""
    names = dict(binding)
    for name, array in arrays.items():  # what is said to be unknown is whatever it is
        names.update({f"{{?{name}#{axis}}}": size for axis, size in enumerate(array.shape)})
        if array.ndim < 2 and array.dtype.kind in "iu":
            names.update({f"{{!{name}#{place}}}": int(each) for place, each in enumerate(array.ravel())})
    for name, array in arrays.items():
        fact = facts.get(name)
        if fact is None:
            continue
        if fact.dtype is not None:
            assert fact.dtype.numpy() == array.dtype, name
        if fact.shape is not None:
            assert [value_of(size, names) for size in fact.shape] == list(array.shape), (name, fact.shape, binding)
        for place, element in enumerate((fact.elements or ()) if elements else ()):
            if element is not None:
                known = element if isinstance(element, float) else value_of(element, names)
                assert np.float64(known) == np.float64(array.ravel()[place]), (name, place, element, binding)
