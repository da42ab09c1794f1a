"""Gradients are those of PyTorch's autograd, where it is installed: a second judge that shares nothing with the first.

Central differences (`test_gradients.py`) prove each gradient of what ONNX Runtime computes. Here whole ops are compared
with what another framework means by them, in float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from gradient_proof import differentiated
from op_draw import Array, Case
from op_proof import Batch, Runner

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
functional = torch.nn.functional
OPSET = 20
CLOSE = 1e-5
"""Relative to the largest element."""


@dataclasses.dataclass(frozen=True)
class Twin:
    """An op, and what PyTorch has for it."""

    op_type: str
    shapes: Sequence[tuple[int, ...] | Array]
    """Of real operands; or an operand as it is."""
    run: Callable[..., Any]
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    name: str = ""
    positive: bool = False
    domain: str = ""

    @property
    def label(self) -> str:
        return f"{self.op_type}{' ' if self.name else ''}{self.name}"


def integers(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


def unary(op_type: str, run: Callable[..., Any], **attributes: Any) -> Twin:
    return Twin(op_type, [(3, 4)], run, attributes, positive=op_type in ("Log", "Sqrt", "Reciprocal"))


IMAGE, KERNEL, BIAS = (2, 4, 9, 8), (6, 4, 3, 3), (6,)
STRIDED = {"strides": [2, 1], "pads": [1, 2, 1, 2], "dilations": [1, 2]}
TWINS = [
    *(
        unary(*each)
        for each in (
            ("Relu", torch.relu),
            ("Sigmoid", torch.sigmoid),
            ("Tanh", torch.tanh),
            ("Exp", torch.exp),
            ("Log", torch.log),
            ("Sqrt", torch.sqrt),
            ("Reciprocal", torch.reciprocal),
            ("Erf", torch.erf),
            ("Abs", torch.abs),
            ("Neg", torch.neg),
            ("Sin", torch.sin),
            ("Cos", torch.cos),
            ("Softplus", functional.softplus),
            ("Softsign", functional.softsign),
            ("Elu", functional.elu),
            ("Selu", functional.selu),
            ("Celu", functional.celu),
            ("HardSwish", functional.hardswish),
            ("HardSigmoid", lambda x: functional.relu6(6 * (x * 0.2 + 0.5)) / 6),
            ("Mish", functional.mish),
            ("Gelu", functional.gelu),
            ("LeakyRelu", lambda x: functional.leaky_relu(x, 0.01)),
        )
    ),
    Twin("Gelu", [(3, 4)], lambda x: functional.gelu(x, approximate="tanh"), {"approximate": "tanh"}, "tanh"),
    Twin("Softmax", [(3, 4, 5)], lambda x: x.softmax(1), {"axis": 1}),
    Twin("LogSoftmax", [(3, 4, 5)], lambda x: x.log_softmax(-1), {"axis": -1}),
    Twin("PRelu", [(2, 4, 3), (4, 1)], lambda x, slope: torch.where(x < 0, x * slope, x)),
    Twin("Add", [(3, 4), (4,)], torch.add),
    Twin("Sub", [(3, 1), (2, 3, 4)], torch.sub),
    Twin("Mul", [(3, 4), (1, 4)], torch.mul),
    Twin("Div", [(3, 4), (3, 1)], torch.div, positive=True),
    Twin("Pow", [(3, 4), (3, 4)], torch.pow, positive=True),
    Twin("Max", [(3, 4), (3, 4)], torch.maximum),
    Twin("Min", [(3, 4), (4,)], torch.minimum),
    Twin("MatMul", [(2, 3, 4), (4, 5)], torch.matmul),
    Twin("MatMul", [(2, 1, 3, 4), (3, 4, 5)], torch.matmul, name="batches"),
    Twin(
        "Gemm",
        [(4, 3), (5, 4), (5,)],
        lambda a, b, c: 0.5 * a.t() @ b.t() + 2 * c,
        {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0},
    ),
    Twin(
        "Einsum", [(2, 3, 4), (2, 4, 5)], lambda a, b: torch.einsum("bij,bjk->bik", a, b), {"equation": "bij,bjk->bik"}
    ),
    Twin("Conv", [IMAGE, KERNEL, BIAS], functional.conv2d),
    Twin(
        "Conv",
        [IMAGE, KERNEL, BIAS],
        lambda x, w, b: functional.conv2d(x, w, b, (2, 1), (1, 2), (1, 2)),
        STRIDED,
        "strides, pads and dilations",
    ),
    Twin("Conv", [IMAGE, (8, 2, 3, 3)], lambda x, w: functional.conv2d(x, w, groups=2), {"group": 2}, "groups"),
    Twin(
        "Conv",
        [IMAGE, (4, 1, 3, 3), (4,)],
        lambda x, w, b: functional.conv2d(x, w, b, 1, 1, groups=4),
        {"group": 4, "pads": [1, 1, 1, 1]},
        "depthwise",
    ),
    Twin("Conv", [(2, 3, 9), (4, 3, 3)], functional.conv1d, name="1-D"),
    Twin("Conv", [(1, 2, 5, 6, 7), (3, 2, 2, 3, 3)], functional.conv3d, name="3-D"),
    Twin(
        "ConvTranspose",
        [(2, 4, 5, 6), (4, 3, 3, 3), (3,)],
        lambda x, w, b: functional.conv_transpose2d(x, w, b, 2, 1, 1),
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    ),
    Twin(
        "MaxPool",
        [IMAGE],
        lambda x: functional.max_pool2d(x, 3, 2, 1),
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    ),
    Twin(
        "AveragePool",
        [IMAGE],
        lambda x: functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    ),
    Twin("GlobalAveragePool", [IMAGE], lambda x: x.mean((2, 3), keepdim=True)),
    Twin("GlobalMaxPool", [IMAGE], lambda x: x.amax((2, 3), keepdim=True)),
    Twin(
        "LayerNormalization",
        [(3, 5, 6), (6,), (6,)],
        lambda x, s, b: functional.layer_norm(x, (6,), s, b, 1e-5),
    ),
    Twin(
        "GroupNormalization",
        [(2, 4, 5), (2,), (2,)],
        lambda x, s, b: functional.group_norm(x, 2, s.repeat_interleave(2), b.repeat_interleave(2)),
        {"num_groups": 2},
        "opset 20",
    ),
    Twin(
        "InstanceNormalization",
        [(2, 4, 5, 6), (4,), (4,)],
        lambda x, s, b: functional.instance_norm(x, weight=s, bias=b),
    ),
    Twin(
        "BatchNormalization",
        [(2, 4, 5, 6), (4,), (4,), np.full(4, 0.3, np.float32), np.full(4, 1.7, np.float32)],
        lambda x, s, b, mean, variance: functional.batch_norm(x, mean, variance, s, b),
    ),
    Twin("ReduceSum", [(2, 3, 4), integers(1)], lambda x, _: x.sum(1, keepdim=True)),
    Twin("ReduceMean", [(2, 3, 4), integers(0, 2)], lambda x, _: x.mean((0, 2)), {"keepdims": 0}),
    Twin("ReduceMax", [(2, 3, 4), integers(1)], lambda x, _: x.amax(1, keepdim=True)),
    Twin("ReduceL2", [(2, 3, 4), integers(-1)], lambda x, _: x.norm(dim=-1, keepdim=True)),
    Twin("ReduceLogSumExp", [(2, 3, 4), integers(1)], lambda x, _: x.logsumexp(1, keepdim=True)),
    Twin("Concat", [(2, 3), (2, 4)], lambda *parts: torch.cat(parts, 1), {"axis": 1}),
    Twin("Slice", [(5, 6), integers(1), integers(6), integers(1), integers(2)], lambda x, *_: x[:, 1:6:2]),
    Twin("Gather", [(5, 6), np.array([[0, 4], [4, 2]])], lambda x, indices: x[:, indices], {"axis": 1}),
    Twin("Transpose", [(2, 3, 4)], lambda x: x.permute(2, 0, 1), {"perm": [2, 0, 1]}),
    Twin("Reshape", [(2, 6), integers(3, 4)], lambda x, _: x.reshape(3, 4)),
    Twin("Expand", [(3, 1), integers(2, 3, 4)], lambda x, _: x.expand(2, 3, 4)),
    Twin("Pad", [(2, 3), integers(1, 0, 2, 1)], lambda x, _: functional.pad(x, (0, 1, 1, 2))),
    Twin("Where", [np.array([[True], [False]]), (2, 3), (3,)], torch.where),
    Twin(
        "Resize",
        [(1, 2, 4, 5), None, None, integers(1, 2, 8, 10)],
        lambda x, _: functional.interpolate(x, (8, 10), mode="bilinear", align_corners=False),
        {"mode": "linear"},
    ),
]


def case_of(twin: Twin) -> Case:
    random = np.random.default_rng(list(map(ord, twin.label)))

    def drawn(shape: tuple[int, ...]) -> Array:
        numbers = np.asarray(random.standard_normal(shape), np.float32)
        return np.abs(numbers) + np.float32(0.5) if twin.positive else numbers

    operands = [drawn(each) if isinstance(each, tuple) else each for each in twin.shapes]
    places = range(len(operands))
    fixed = frozenset(place for place in places if not isinstance(twin.shapes[place], tuple))
    return Case((twin.domain, twin.op_type), operands, dict(twin.attributes), fixed)


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.label)
def test_a_gradient_is_that_of_autograd(twin: Twin) -> None:
    case = case_of(twin)
    ours = differentiated(case, OPSET)
    feeds = Batch(OPSET, [case]).feeds()
    given = {value.name: feeds[value.name] for value in ours.forward.graph.input}
    (output,) = ours.results
    result = Runner(ours.forward)(given)[output]
    seed = np.asarray(np.random.default_rng(1).standard_normal(result.shape), np.float32)
    gradients = Runner(ours.backward)({**given, f"seed_{output}": seed})
    tensors = [None if each is None else torch.tensor(each) for each in case.operands]
    trained = [
        tensor.requires_grad_()
        for place, tensor in enumerate(tensors)
        if tensor is not None and tensor.is_floating_point() and place not in case.fixed
    ]
    expected = twin.run(*(tensor for tensor in tensors if tensor is not None))
    expected.backward(torch.tensor(seed))
    close(result, expected.detach().numpy())
    names = [value.name for value in ours.forward.graph.input if f"d_{value.name}" in gradients]
    for name, tensor in zip(names, trained, strict=True):
        close(gradients[f"d_{name}"], tensor.grad.numpy())


def close(found: Array, expected: Array) -> None:
    assert found.shape == expected.shape
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found / scale, expected / scale, atol=CLOSE, rtol=0)
