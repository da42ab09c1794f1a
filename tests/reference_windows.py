"""Ops that slide a window, as ONNX defines them, of any element type: onnx's own reference fails for groups."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun
from op_draw import Array

ACTIVATIONS: dict[str, Callable[..., Array]] = {
    "": lambda x: x,
    "Relu": lambda x: np.maximum(x, 0),
    "LeakyRelu": lambda x, alpha: np.where(x < 0, alpha * x, x),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Tanh": np.tanh,
    "Clip": np.clip,
    "HardSigmoid": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
}


def _taps(
    kernel: Sequence[int], places: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Iterator[Any]:
    """Yield each element of a window, and what it reads of a padded image at all places."""
    for tap in itertools.product(*map(range, kernel)):
        sizes = zip(tap, places, strides, dilations, strict=True)
        yield tap, tuple(slice(at * step, at * step + (n - 1) * stride + 1, stride) for at, n, stride, step in sizes)


def _pads(
    auto_pad: str, pads: Sequence[int] | None, lengths: Sequence[int], spans: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    rank = len(lengths)
    if not auto_pad.startswith("SAME"):
        numbers = list(pads or [0] * (2 * rank)) if auto_pad == "NOTSET" else [0] * (2 * rank)
        return list(zip(numbers[:rank], numbers[rank:], strict=True))
    totals = [
        max((-(-length // stride) - 1) * stride + span - length, 0)
        for length, span, stride in zip(lengths, spans, strides, strict=True)
    ]
    return [(n // 2, n - n // 2) if auto_pad == "SAME_UPPER" else (n - n // 2, n // 2) for n in totals]


def _with_bias(y: Array, bias: Array | None) -> Array:
    return y if bias is None else np.asarray(y + bias.reshape(1, -1, *[1] * (y.ndim - 2)))


def correlate(x: Array, w: Array, bias: Array | None, auto_pad: str, **told: Any) -> Array:
    """Return what Conv makes."""
    rank, group = x.ndim - 2, told["group"] or 1
    kernel, lengths = w.shape[2:], x.shape[2:]
    strides, dilations = told["strides"] or [1] * rank, told["dilations"] or [1] * rank
    spans = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    pads = _pads(auto_pad, told["pads"], lengths, spans, strides)
    sizes = zip(lengths, pads, spans, strides, strict=True)
    places = [(length + sum(pad) - span) // stride + 1 for length, pad, span, stride in sizes]
    image = np.pad(x, [(0, 0), (0, 0), *pads]).reshape(
        x.shape[0], group, -1, *[n + sum(p) for n, p in zip(lengths, pads, strict=True)]
    )
    weights = w.reshape(group, -1, *w.shape[1:])
    read = ((weights[(..., *tap)], image[(..., *part)]) for tap, part in _taps(kernel, places, strides, dilations))
    y = sum(np.einsum("goc,ngc...->ngo...", each, part) for each, part in read)
    return _with_bias(np.asarray(y).reshape(x.shape[0], -1, *places), bias)


class Conv(OpRun):
    """A correlation."""

    def _run(
        self, x, w, bias=None, auto_pad=None, dilations=None, group=None, kernel_shape=None, pads=None, strides=None
    ):
        told = {"dilations": dilations, "group": group, "pads": pads, "strides": strides}
        return (correlate(x, w, bias, auto_pad or "NOTSET", **told),)


class FusedConv(OpRun):
    """A correlation to which something is added, and an activation of the sum."""

    op_domain = "com.microsoft"

    def _run(self, x, w, bias=None, z=None, activation=None, activation_params=None, auto_pad=None, **told):
        told = {"dilations": None, "group": None, "pads": None, "strides": None, **told}
        y = correlate(x, w, bias, auto_pad or "NOTSET", **told)
        return (np.asarray(ACTIVATIONS[activation or ""](y if z is None else y + z, *(activation_params or []))),)


class ConvTranspose(OpRun):
    """The transposed correlation, of pads that are told."""

    def _run(
        self,
        x,
        w,
        bias=None,
        auto_pad=None,
        dilations=None,
        group=None,
        kernel_shape=None,
        output_padding=None,
        output_shape=None,
        pads=None,
        strides=None,
    ):
        if output_shape or auto_pad not in (None, "NOTSET"):
            raise NotImplementedError
        rank, group, kernel, places = x.ndim - 2, group or 1, w.shape[2:], x.shape[2:]
        strides, dilations, more = strides or [1] * rank, dilations or [1] * rank, output_padding or [0] * rank
        around = _pads("NOTSET", pads, places, places, strides)
        sizes = zip(places, strides, kernel, dilations, more, strict=True)
        lengths = [(n - 1) * stride + (size - 1) * step + 1 + extra for n, stride, size, step, extra in sizes]
        image = x.reshape(x.shape[0], group, -1, *places)
        weights = w.reshape(group, -1, *w.shape[1:])
        y = np.zeros((x.shape[0], group, w.shape[1], *lengths), x.dtype)
        for tap, part in _taps(kernel, places, strides, dilations):
            y[(..., *part)] += np.einsum("gco,ngc...->ngo...", weights[(..., *tap)], image)
        y = y[(..., *(slice(before, length - after) for length, (before, after) in zip(lengths, around, strict=True)))]
        return (_with_bias(y.reshape(x.shape[0], -1, *y.shape[3:]), bias),)


class GlobalMaxPool(OpRun):
    """The largest element of each channel."""

    def _run(self, x):
        return (x.max(tuple(range(2, x.ndim)), keepdims=True),)


class GlobalLpPool(OpRun):
    """The norm of each channel."""

    def _run(self, x, p=None):
        return (np.asarray((np.abs(x) ** p).sum(tuple(range(2, x.ndim)), keepdims=True) ** (1 / p)),)


REFERENCES = [Conv, FusedConv, ConvTranspose, GlobalMaxPool, GlobalLpPool]
