"""Runs one op in ONNX Runtime on operands that fit it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnx.defs
import onnx.helper
import onnxruntime
import pytest

from onnxslim.ops.signatures import OpName

f32, i64, u8 = np.float32, np.int64, np.uint8
OPSET = 21


ATTRIBUTES = {
    "BitShift": {"direction": "LEFT"},
    "Cast": {"to": onnx.TensorProto.INT32},
    "DepthToSpace": {"blocksize": 2},
    "SpaceToDepth": {"blocksize": 2},
    "RandomNormal": {"shape": [9]},
    "RandomUniform": {"shape": [9]},
    "Multinomial": {"sample_size": 40},
    "Squeeze": {},
    "Split": {"num_outputs": 2},
    "Resize": {"mode": "linear"},
    "Mod": {"fmod": 1},
    "Constant": {"value_ints": [1, 2]},
    "Concat": {"axis": 1},
}


SCALES = (f32(0.1), u8(3))


OPERANDS: dict[str, tuple[object, ...]] = {
    # What follows the first operand of an elementwise op, where it is no tensor of the same shape.
    "Clip": (f32(-0.5), f32(0.5)),
    "Dropout": (),
    "com.microsoft::QLinearAdd": (*SCALES, "same", *SCALES, *SCALES),
    "com.microsoft::QLinearMul": (*SCALES, "same", *SCALES, *SCALES),
    "com.microsoft::QLinearSigmoid": (*SCALES, *SCALES),
    "com.microsoft::QLinearLeakyRelu": (*SCALES, *SCALES),
    "com.microsoft::QLinearWhere": ("same", *SCALES, "same", *SCALES, *SCALES),
    "com.microsoft::BiasGelu": (),  # its bias has one axis
}


UNPROVABLE = {
    ("com.microsoft", "QLinearWhere"): "ONNX Runtime's kernel wants its scales as constants",
    ("", "Swish"): "ONNX Runtime has no kernel for it yet",
}


SMALL = np.arange(24, dtype=f32).reshape(1, 2, 3, 4)


MOVES: dict[str, tuple[object, ...]] = {
    "Identity": (SMALL,),
    "Transpose": (SMALL,),
    "Reshape": (SMALL, np.array([3, -1])),
    "Flatten": (SMALL,),
    "Squeeze": (SMALL,),
    "Unsqueeze": (SMALL, np.array([1])),
    "Expand": (SMALL, np.array([2, 2, 3, 4])),
    "Slice": (SMALL, np.array([2]), np.array([0]), np.array([3]), np.array([-1])),
    "Split": (SMALL[0],),
    "Tile": (SMALL, np.array([1, 2, 1, 3])),
    "Gather": (SMALL[0], np.array([[1, 0, -1]])),
    "GatherElements": (SMALL, np.zeros((1, 2, 3, 4), i64)),
    "GatherND": (SMALL, np.zeros((2, 3), i64)),
    "DepthToSpace": (np.arange(64, dtype=f32).reshape(1, 4, 4, 4),),
    "SpaceToDepth": (np.arange(64, dtype=f32).reshape(1, 4, 4, 4),),
    "ReverseSequence": (SMALL[0, 0], np.array([2, 1, 1, 3])),
}


KEEPING_THE_SHAPE: dict[str, tuple[object, ...]] = {
    "Reshape": (SMALL, np.array([0, 0, -1, 4])),
    "Flatten": (SMALL[0, 0],),
    "Squeeze": (SMALL[0],),
    "Unsqueeze": (SMALL, np.array([], i64)),
    "Expand": (SMALL, np.array([1, 3, 1])),
    "Slice": (SMALL, np.array([-9]), np.array([9]), np.array([3])),
    "Tile": (SMALL, np.ones(4, i64)),
    "Resize": (SMALL, None, np.ones(4, f32)),
    "Upsample": (SMALL, np.ones(4, f32)),
    **{f"Reduce{kind}": (-SMALL, np.array([0])) for kind in ("Max", "Mean", "Min", "Prod", "Sum")},
}


SIZED: dict[str, tuple[tuple[object, ...], tuple[object, ...]]] = {
    "Compress": ((SMALL, np.array([True, False])), (SMALL, np.array([True, True]))),
    "ConstantOfShape": ((np.array([2]),), (np.array([3]),)),
    "Expand": ((SMALL, np.array([2, 1, 1, 1])), (SMALL, np.array([1, 1, 1, 1]))),
    "NonZero": ((np.zeros(3, f32),), (np.ones(3, f32),)),
    "OneHot": ((np.array([0]), i64(2), np.zeros(2, f32)), (np.array([0]), i64(3), np.zeros(2, f32))),
    "Pad": ((SMALL[0, 0], np.zeros(4, i64)), (SMALL[0, 0], np.ones(4, i64))),
    "Range": ((f32(0), f32(3), f32(1)), (f32(0), f32(4), f32(1))),
    "Resize": ((SMALL, None, np.ones(4, f32)), (SMALL, None, np.array([1, 1, 2, 2], f32))),
    "Tile": ((SMALL, np.ones(4, i64)), (SMALL, np.full(4, 2))),
}


def name(op: OpName) -> str:
    return "::".join(filter(None, op))


def params(ops: Iterable[OpName]) -> list[object]:
    return [pytest.param(op, id=name(op)) for op in sorted(ops)]


def session(op: OpName, operands: tuple[object, ...], outputs: int = 1, opset: int = OPSET, **attributes: object):
    domain, op_type = op
    labels = ["" if operand is None else f"x{at}" for at, operand in enumerate(operands)]
    made = [f"y{at}" for at in range(outputs)]
    node = onnx.helper.make_node(op_type, labels, made, domain=domain, **{**ATTRIBUTES.get(op_type, {}), **attributes})
    inputs = [
        onnx.helper.make_tensor_value_info(label, onnx.helper.np_dtype_to_tensor_dtype(np.asarray(each).dtype), None)
        for label, each in zip(labels, operands, strict=True)
        if label
    ]
    results = [onnx.helper.make_empty_tensor_value_info(label) for label in made]
    opsets = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", inputs, results), opset_imports=opsets, ir_version=10
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    feeds = {label: np.asarray(each) for label, each in zip(labels, operands, strict=True) if label}
    opened = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: opened.run(None, feeds)


def run(op: OpName, *operands: object, **settings: object):
    return session(op, operands, **settings)()


def draw(kind: np.dtype, shape: tuple[int, ...], generator: np.random.Generator, most: int = 5):
    if kind.kind == "b":
        return generator.random(shape) < 0.5
    if kind.kind in "iu":
        return generator.integers(1, most, shape).astype(kind)
    return generator.choice([-2.5, -1, -0.5, -0.2, 0.3, 0.7, 1, 1.5, 3], shape).astype(kind)


def schema_of(op_type: str) -> onnx.defs.OpSchema:
    try:
        return onnx.defs.get_schema(op_type, OPSET)
    except onnx.defs.SchemaError:  # it is newer
        return onnx.defs.get_schema(op_type)


def formals(op: OpName) -> list[tuple[str, np.dtype]]:
    """Return the operands that an op must have: the word for their type, and one that it takes."""
    domain, op_type = op
    if domain:
        return [("T", np.dtype(u8 if op_type.startswith("QLinear") else f32))]
    schema = schema_of(op_type)
    kinds = {"tensor(float)": f32, "tensor(bool)": np.bool_, "tensor(int64)": i64, "tensor(uint8)": u8}
    found = [
        (each.type_str, np.dtype(next(kinds[kind] for kind in kinds if kind in each.types)))
        for each in schema.inputs
        if each.option != onnx.defs.OpSchema.FormalParameterOption.Optional
    ]
    variadic = schema.inputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic
    return found * 2 if variadic else found


def operands(op: OpName, shapes: list[tuple[int, ...]], seed: int = 0) -> list[object]:
    """Return operands of the given shapes, the last of which serves for all that follow."""
    generator = np.random.default_rng(seed)
    told = OPERANDS.get(name(op))
    if told is None:
        kinds = [kind for _, kind in formals(op)]
        return [draw(kind, shapes[min(at, len(shapes) - 1)], generator) for at, kind in enumerate(kinds)]
    kind = formals(op)[0][1]
    first = draw(kind, shapes[0], generator, 60)
    rest = [draw(kind, shapes[-1], generator, 60) if isinstance(each, str) else each for each in told]
    return [first, *rest] if name(op) != "com.microsoft::BiasGelu" else [first, draw(kind, shapes[0][-1:], generator)]


def refused(call) -> bool:
    try:
        call()
    except Exception:
        return True
    return False
