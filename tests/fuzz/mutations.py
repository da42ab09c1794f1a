"""Breaks a model in one of many ways: at random, but knowing what the fields of a model file mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper

NAMES = (
    "", "x", "y", "a", "undefined", "name with spaces", "\x1b[31mred\x1b[0m", "[bold]x[/bold]", "a\nb", "../../up",
    "n" * 300, "<script>alert(1)</script>", "\u202egnp.exe", "%s%n", "$(id)", "a:b", "\x00", "💥",
)  # fmt: skip
INTEGERS = (0, 1, -1, 2, 3, 7, 255, 2**31 - 1, -(2**31), 2**31, 2**40, 2**62, -(2**63), 2**63 - 1)
FLOATS = (0.0, -0.0, 1.0, 1e-45, 1e38, float("inf"), float("-inf"), float("nan"))
OPS = (
    "Add", "Sub", "Mul", "Div", "Mod", "Pow", "MatMul", "Gemm", "Conv", "ConvTranspose", "Relu", "Softmax", "Concat",
    "Split", "Slice", "Gather", "GatherND", "ScatterND", "Reshape", "Transpose", "Expand", "Tile", "Range", "Resize",
    "Pad", "Shape", "Cast", "Where", "If", "Loop", "Scan", "LSTM", "TopK", "NonZero", "Unique", "OneHot", "Einsum",
    "ConstantOfShape", "Identity", "Dropout", "StringConcat", "DequantizeLinear", "BatchNormalization", "NoSuchOp",
)  # fmt: skip
TYPES = tuple(range(25))

Mutation = Callable[[onnx.ModelProto, np.random.Generator], None]


def mutate(model: onnx.ModelProto, generator: np.random.Generator) -> bytes:
    """Return the bytes of a broken copy of `model`: one to three mutations, seldom of the bytes themselves."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    if generator.random() < 0.08:
        return _spoiled(copy.SerializeToString(), generator)
    for _ in range(int(generator.integers(1, 4))):
        mutation = MUTATIONS[int(generator.integers(len(MUTATIONS)))]
        try:
            mutation(copy, generator)
        except (ValueError, TypeError, IndexError, UnicodeError):
            continue  # protobuf refuses some values itself, and some models lack what is to be broken
    return bytes(copy.SerializeToString())


def _pick(items: Any, generator: np.random.Generator) -> Any:
    return items[int(generator.integers(len(items)))]


def _graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    found = [graph]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                found += _graphs(attribute.g)
    return found


def _nodes(model: onnx.ModelProto, generator: np.random.Generator) -> Any:
    """Return the nodes of one of the model's graphs or functions."""
    places = [graph.node for graph in _graphs(model.graph)] + [function.node for function in model.functions]
    return _pick(places, generator)


def _any_name(model: onnx.ModelProto, generator: np.random.Generator) -> str:
    known = [name for node in model.graph.node for name in (*node.input, *node.output)] or ["x"]
    return str(_pick(known, generator) if generator.random() < 0.6 else _pick(NAMES, generator))


def _rename_operand(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    node = _pick(_nodes(model, generator), generator)
    names = _pick((node.input, node.output), generator)
    names[int(generator.integers(len(names)))] = _any_name(model, generator)


def _count_operands(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    node = _pick(_nodes(model, generator), generator)
    names = _pick((node.input, node.output), generator)
    if generator.random() < 0.5:
        names.pop()
    else:
        names.extend([_any_name(model, generator)] * int(generator.choice([1, 2, 40])))


def _change_op(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    node = _pick(_nodes(model, generator), generator)
    if generator.random() < 0.75:
        node.op_type = _pick(OPS, generator)
    else:
        node.domain = _pick(("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "local", *NAMES), generator)


def _change_nodes(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    nodes = _nodes(model, generator)
    place = int(generator.integers(len(nodes)))
    kind = generator.integers(3)
    if kind == 0:
        del nodes[place]
    elif kind == 1:
        nodes.add().CopyFrom(nodes[place])
    else:
        nodes.add().CopyFrom(nodes[place])
        del nodes[place]


def _change_attribute(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    node = _pick([node for node in _nodes(model, generator) if node.attribute], generator)
    attribute = _pick(node.attribute, generator)
    kind = generator.integers(8)
    if kind == 0:
        attribute.i = _pick(INTEGERS, generator)
    elif kind == 1:
        attribute.f = _pick(FLOATS, generator)
    elif kind == 2:
        attribute.s = _pick(NAMES, generator).encode() + b"\xff" * int(generator.integers(2))
    elif kind == 3:
        attribute.type = _pick(list(AttributeProto.AttributeType.values()), generator)
    elif kind == 4:
        attribute.ints.extend(_pick(INTEGERS, generator) for _ in range(int(generator.integers(1, 5))))
    elif kind == 5 and attribute.ints:
        attribute.ints[int(generator.integers(len(attribute.ints)))] = _pick(INTEGERS, generator)
    elif kind == 6:
        attribute.name = _pick((*NAMES, "axis", "perm", "pads", "value", "to"), generator)
    else:
        attribute.ref_attr_name = _pick(NAMES, generator)


def _drop_attribute(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    node = _pick([node for node in _nodes(model, generator) if node.attribute], generator)
    del node.attribute[int(generator.integers(len(node.attribute)))]


def _tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    found = [tensor for graph in _graphs(model.graph) for tensor in graph.initializer]
    found += [sparse.values for sparse in model.graph.sparse_initializer]
    found += [sparse.indices for sparse in model.graph.sparse_initializer]
    for nodes in [graph.node for graph in _graphs(model.graph)] + [function.node for function in model.functions]:
        found += [each.t for node in nodes for each in node.attribute if each.type == AttributeProto.TENSOR]
    return found


def _change_tensor(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    tensor = _pick(_tensors(model), generator)
    kind = generator.integers(8)
    if kind == 0:
        tensor.dims[int(generator.integers(len(tensor.dims)))] = _pick(INTEGERS, generator)
    elif kind == 1:
        tensor.dims.append(_pick(INTEGERS, generator))
    elif kind == 2:
        tensor.data_type = _pick((*TYPES, 99), generator)
    elif kind == 3:
        tensor.raw_data = tensor.raw_data[: int(generator.integers(len(tensor.raw_data) + 1))]
    elif kind == 4:
        tensor.name = _any_name(model, generator)
    elif kind == 5:
        tensor.float_data.append(_pick(FLOATS, generator))
    elif kind == 6:
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", _pick(("model.onnx", "../x", "/etc/hostname", *NAMES), generator)),
                           ("offset", str(_pick(INTEGERS, generator))), ("length", "many")):  # fmt: skip
            if generator.random() < 0.7:
                tensor.external_data.add(key=key, value=value)
    else:
        values = np.frombuffer(tensor.raw_data, np.uint8).copy()
        values[:] = _pick((0, 0x7F, 0x80, 0xFF), generator)
        tensor.raw_data = values.tobytes()


def _change_interface(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    values = _pick((model.graph.input, model.graph.output, model.graph.value_info), generator)
    kind = generator.integers(6)
    if kind == 0 or not len(values):
        values.append(helper.make_tensor_value_info(_any_name(model, generator), 1, [2, "N"]))
        return
    value = _pick(values, generator)
    if kind == 1:
        values.remove(value)
    elif kind == 2:
        value.name = _any_name(model, generator)
    elif kind == 3:
        value.type.tensor_type.elem_type = _pick((*TYPES, 99), generator)
    elif kind == 4:
        dimensions = value.type.tensor_type.shape.dim
        if generator.random() < 0.3:
            dimensions.add(dim_value=_pick(INTEGERS, generator))
        elif generator.random() < 0.5:
            _pick(dimensions, generator).dim_value = _pick(INTEGERS, generator)
        else:
            _pick(dimensions, generator).dim_param = _pick(("N", "M", *NAMES), generator)
    else:
        value.ClearField("type")


def _change_versions(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    kind = generator.integers(4)
    if kind == 0:
        model.ir_version = _pick((0, 1, 3, 4, 7, 9, 11, 99, 2**62), generator)
    elif kind == 1:
        _pick(model.opset_import, generator).version = _pick((*range(30), -1, 2**62), generator)
    elif kind == 2:
        del model.opset_import[int(generator.integers(len(model.opset_import)))]
    else:
        model.opset_import.append(helper.make_opsetid(_pick(("", "ai.onnx", "local", *NAMES), generator), 13))


def _change_function(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    function = _pick(model.functions, generator)
    kind = generator.integers(5)
    if kind == 0:
        function.node.add(op_type=function.name, domain=function.domain, input=function.input, output=["r"])
    elif kind == 1:
        function.input.append(_any_name(model, generator))
    elif kind == 2:
        function.name = _pick(NAMES, generator)
    elif kind == 3:
        del function.opset_import[:]
    else:
        model.functions.add().CopyFrom(function)


def _change_sparse(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    sparse = _pick(model.graph.sparse_initializer, generator)
    if generator.random() < 0.5:
        sparse.dims[int(generator.integers(len(sparse.dims)))] = _pick(INTEGERS, generator)
    else:
        places = np.frombuffer(sparse.indices.raw_data, np.int64).copy()
        places[int(generator.integers(len(places)))] = _pick(INTEGERS, generator)
        sparse.indices.raw_data = places.tobytes()


def _change_strings(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    text = _pick(NAMES, generator)
    kind = generator.integers(4)
    if kind == 0:
        model.doc_string = model.producer_name = text
    elif kind == 1:
        model.graph.name = text
    elif kind == 2:
        model.metadata_props.add(key=text, value=text)
    else:
        _pick(_nodes(model, generator), generator).name = text


def _spoiled(data: bytes, generator: np.random.Generator) -> bytes:
    """Return bytes of which some are flipped, cut off, or written twice."""
    array = bytearray(data)
    kind = generator.integers(3)
    if kind == 0:
        for place in generator.integers(0, len(array), int(generator.integers(1, 9))):
            array[int(place)] ^= int(generator.integers(1, 256))
    elif kind == 1:
        del array[int(generator.integers(len(array))) :]
    else:
        start = int(generator.integers(len(array)))
        array[start:start] = array[start : start + int(generator.integers(1, 64))]
    return bytes(array)


MUTATIONS: tuple[Mutation, ...] = (
    _rename_operand, _rename_operand, _count_operands, _change_op, _change_op, _change_nodes, _change_attribute,
    _change_attribute, _change_attribute, _drop_attribute, _change_tensor, _change_tensor, _change_tensor,
    _change_interface, _change_interface, _change_versions, _change_function, _change_sparse, _change_strings,
)  # fmt: skip
