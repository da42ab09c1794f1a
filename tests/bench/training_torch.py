"""Nothing by itself: the child of `training_step.py` that trains with PyTorch, in an environment that has it.

    python training_torch.py FOLDER THREADS

Runs the plain graph of FOLDER/model.onnx (convolutions with a bias, no BatchNormalization) in PyTorch's eager mode,
with FOLDER/feeds.npz; takes one step of SGD with momentum for each line that it reads, and answers with a line of JSON.
"""

from __future__ import annotations

import json
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as functional

Values = list[Any]
Attributes = Mapping[str, Any]
TYPES = {onnx.TensorProto.FLOAT: torch.float32, onnx.TensorProto.INT64: torch.int64, onnx.TensorProto.BOOL: torch.bool}


def padded(x: torch.Tensor, pads: list[int]) -> torch.Tensor:
    """Return x with zeros around it, as ONNX tells how many."""
    rank = len(pads) // 2
    pairs = [(pads[axis], pads[axis + rank]) for axis in reversed(range(rank))]
    return functional.pad(x, [number for pair in pairs for number in pair])


def symmetric(x: torch.Tensor, attributes: Attributes) -> tuple[torch.Tensor, list[int]]:
    """Return x and the padding of its space that is the same at both ends; what is not is put around x."""
    rank = x.ndim - 2
    pads = list(attributes.get("pads", [0] * 2 * rank))
    if pads[:rank] == pads[rank:]:
        return x, pads[:rank]
    return padded(x, [0, 0, *pads[:rank], 0, 0, *pads[rank:]]), [0] * rank


def convolution(values: Values, attributes: Attributes) -> torch.Tensor:
    x, padding = symmetric(values[0], attributes)
    told = {"dilation": attributes.get("dilations", 1), "groups": attributes.get("group", 1)}
    weight, *bias = values[1:]
    return functional.conv2d(x, weight, *bias, stride=attributes.get("strides", 1), padding=padding, **told)


def largest(values: Values, attributes: Attributes) -> torch.Tensor:
    x, padding = symmetric(values[0], attributes)
    return functional.max_pool2d(x, attributes["kernel_shape"], attributes.get("strides", 1), padding)


def average(values: Values, attributes: Attributes) -> torch.Tensor:
    axes = values[1].tolist() if len(values) > 1 else attributes.get("axes", [2, 3])
    return values[0].mean(tuple(axes), keepdim=bool(attributes.get("keepdims", 1)))


def dense(values: Values, attributes: Attributes) -> torch.Tensor:
    weight = values[1] if attributes.get("transB") else values[1].t()
    return functional.linear(values[0], weight, *values[2:])


def part(values: Values, attributes: Attributes) -> torch.Tensor:
    x, starts, ends, *others = values
    axes = others[0].tolist() if others else range(len(starts))
    steps = others[1].tolist() if len(others) > 1 else [1] * len(starts)
    cuts = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts.tolist(), ends.tolist(), steps, strict=True):
        cuts[axis] = slice(start, end, step)
    return x[tuple(cuts)]


def rows(values: Values, attributes: Attributes) -> torch.Tensor:
    table, indices = values
    assert not attributes.get("axis", 0)
    return functional.embedding(indices, table)


def elements(values: Values, attributes: Attributes) -> torch.Tensor:
    x, indices = values
    assert not attributes.get("batch_dims", 0)
    return x[tuple(indices.unbind(-1))]


def normalized(values: Values, attributes: Attributes) -> torch.Tensor:
    x, *scales = values
    return functional.layer_norm(x, x.shape[attributes.get("axis", -1) :], *scales, eps=attributes.get("epsilon", 1e-5))


OPS: Mapping[str, Callable[[Values, Attributes], torch.Tensor]] = {
    "Conv": convolution,
    "MaxPool": largest,
    "ReduceMean": average,
    "Gemm": dense,
    "Slice": part,
    "Relu": lambda values, _: functional.relu(values[0]),
    "Add": lambda values, _: values[0] + values[1],
    "GlobalAveragePool": lambda values, _: functional.adaptive_avg_pool2d(values[0], 1),
    "Flatten": lambda values, attributes: values[0].flatten(attributes.get("axis", 1)),
    "Reshape": lambda values, _: values[0].reshape(values[1].tolist()),
    "Transpose": lambda values, attributes: values[0].permute(attributes["perm"]),
    "Mul": lambda values, _: values[0] * values[1],
    "MatMul": lambda values, _: values[0] @ values[1],
    "Softmax": lambda values, attributes: values[0].softmax(attributes.get("axis", -1)),
    "Gelu": lambda values, attributes: functional.gelu(values[0], approximate=attributes.get("approximate", "none")),
    "LayerNormalization": normalized,
    "Gather": rows,
    "GatherND": elements,
    "And": lambda values, _: values[0] & values[1],
    "Where": lambda values, _: torch.where(*values),
    "Cast": lambda values, attributes: values[0].to(TYPES[attributes["to"]]),
    "Pad": lambda values, _: padded(values[0], values[1].tolist()),
}


def told(value: Any) -> Any:
    """Return the value of an attribute; texts are stored as bytes."""
    return value.decode() if isinstance(value, bytes) else value


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    torch.set_num_threads(int(sys.argv[2]))
    graph = onnx.load(folder / "model.onnx").graph
    stored = np.load(folder / "feeds.npz")
    constants = {each.name: torch.tensor(onnx.numpy_helper.to_array(each)) for each in graph.initializer}
    trained = [constants[name].requires_grad_() for name in stored["trained"].tolist()]
    nodes = [
        (
            OPS[node.op_type],
            list(node.input),
            node.output[0],
            {a.name: told(onnx.helper.get_attribute_value(a)) for a in node.attribute},
        )
        for node in graph.node
    ]
    feeds = {name.removeprefix("feed "): torch.tensor(stored[name]) for name in stored if name.startswith("feed ")}
    target = torch.tensor(stored["target"])
    optimizer = torch.optim.SGD(trained, lr=float(stored["rate"]), momentum=float(stored["momentum"]))

    def step() -> float:
        optimizer.zero_grad()
        values = {**constants, **feeds}
        for op, inputs, output, attributes in nodes:
            values[output] = op([values[name] for name in inputs if name], attributes)
        loss = functional.mse_loss(values[graph.output[0].name], target)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        started, cpu = time.perf_counter(), time.process_time()
        loss = step()
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answer = {"seconds": seconds, "cpu": cpu, "loss": loss, "peak": peak, "grown": peak - before}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
