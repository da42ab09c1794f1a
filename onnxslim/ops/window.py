"""The window of a convolution: how far it reaches, how it moves, and what it is padded with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from onnxslim.ops.parameters import attribute


@dataclasses.dataclass(frozen=True)
class Window:
    """The window of a convolution, as numbers for each spatial axis; the definition is that of Conv in ONNX."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    auto_pad: str
    explicit_pads: tuple[tuple[int, int], ...]
    """Zeros before and after each axis, where `auto_pad` leaves that to them."""

    @classmethod
    def of(cls, node: ir.Node, kernel: Sequence[int]) -> Window:
        """Return the window of a node whose kernel has these sizes."""

        def setting(name: str, length: int, default: int) -> tuple[int, ...]:
            value = attribute(node, name)
            return tuple(map(int, value)) if isinstance(value, tuple) and value else (default,) * length

        rank = len(kernel)
        pads = setting("pads", 2 * rank, 0)
        auto_pad = str(attribute(node, "auto_pad") or "NOTSET")
        return cls(
            tuple(kernel),
            setting("strides", rank, 1),
            setting("dilations", rank, 1),
            auto_pad,
            tuple(zip(pads[:rank], pads[rank:], strict=True)),
        )

    @property
    def spans(self) -> tuple[int, ...]:
        """How far the window reaches along each axis, dilation included."""
        return tuple((size - 1) * step + 1 for size, step in zip(self.kernel, self.dilations, strict=True))

    @property
    def fixed_pads(self) -> tuple[tuple[int, int], ...] | None:
        """Zeros before and after each axis; None where they depend on the size of the image (SAME)."""
        if self.auto_pad == "VALID":
            return ((0, 0),) * len(self.kernel)
        return self.explicit_pads if self.auto_pad == "NOTSET" else None

    def pads(self, lengths: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """Return how many zeros are added before and after each axis of an image of these lengths."""
        if self.fixed_pads is not None:
            return self.fixed_pads
        pads = []
        for length, span, stride in zip(lengths, self.spans, self.strides, strict=True):
            total = max((-(-length // stride) - 1) * stride + span - length, 0)
            less, more = total // 2, total - total // 2
            pads.append((less, more) if self.auto_pad == "SAME_UPPER" else (more, less))
        return tuple(pads)

    def places(self, lengths: Sequence[int]) -> tuple[int, ...]:
        """Return how many windows an image of these lengths has along each axis."""
        return tuple(
            (length + sum(pad) - span) // stride + 1
            for length, pad, span, stride in zip(lengths, self.pads(lengths), self.spans, self.strides, strict=True)
        )
