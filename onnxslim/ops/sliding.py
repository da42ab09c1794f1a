"""A window over an image whose sizes are known: where it lies at each place, and what is read through it, as nodes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import onnx_ir as ir

from onnxslim.ops.families.window import Window
from onnxslim.ops.gradient import GradientSite, static_shape
from onnxslim.ops.parameters import NodeReader

Sizes = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Sliding:
    """A window over an image; a number for each spatial axis.

    Element k of the window at place p reads element ``p * stride + k * dilation - before`` of the image.
    """

    kernel: Sizes
    strides: Sizes
    dilations: Sizes
    before: Sizes
    """Zeros before the image."""
    lengths: Sizes
    """Of the image."""
    places: Sizes
    """How many windows there are."""

    @classmethod
    def of(cls, site: NodeReader, kernel: Sequence[int], lengths: Sizes, places: Sizes) -> Sliding:
        """Return the window of a node."""
        window = Window.of(site, len(lengths), kernel)
        before = tuple(first for first, _ in window.pads(lengths))
        return cls(tuple(kernel), window.strides, window.dilations, before, lengths, places)

    @property
    def rank(self) -> int:
        """How many spatial axes there are."""
        return len(self.lengths)

    @property
    def after(self) -> Sizes:
        """How many zeros the last window reads behind the image; negative: how many elements no window reads."""
        parts = zip(self.places, self.strides, self.kernel, self.dilations, self.before, self.lengths, strict=True)
        return tuple((n - 1) * stride + (k - 1) * step + 1 - b - size for n, stride, k, step, b, size in parts)

    @property
    def pads(self) -> list[int]:
        """Return the zeros before and behind all axes, as the attribute of that name has them."""
        return [*self.before, *(max(behind, 0) for behind in self.after)]

    @property
    def tiles(self) -> bool:
        """Whether the windows cover the image, each element once."""
        covered = all(n * k == size for n, k, size in zip(self.places, self.kernel, self.lengths, strict=True))
        return covered and self.strides == self.kernel and set(self.dilations) == {1} and set(self.before) == {0}

    def attributes(self) -> dict[str, list[int]]:
        """Return strides, dilations and pads as attributes."""
        return {"strides": [*self.strides], "dilations": [*self.dilations], "pads": self.pads}

    def transposed(self) -> dict[str, list[int]]:
        """Return the attributes of the transposed convolution that goes from places back to the image."""
        return {**self.attributes(), "output_padding": [max(-behind, 0) for behind in self.after]}

    def reads(self, site: GradientSite, image: ir.Value, first: int) -> list[ir.Value]:
        """Return what each element of the window reads, in all places.

        Args:
            site: Builds the nodes.
            image: The image; zeros are put around it.
            first: Its first spatial axis.
        """
        behind = len(static_shape(image)) - first - self.rank
        if any(self.pads):
            before, after = self.pads[: self.rank], self.pads[self.rank :]
            widths = [*[0] * first, *before, *[0] * behind, *[0] * first, *after, *[0] * behind]
            image = site.op("Pad", image, widths)
        axes = range(first, first + self.rank)
        return [
            self._read(site, image, axes, [at * step for at, step in zip(element, self.dilations, strict=True)])
            for element in itertools.product(*map(range, self.kernel))
        ]

    def _read(self, site: GradientSite, image: ir.Value, axes: range, starts: list[int]) -> ir.Value:
        reach = zip(starts, self.places, self.strides, strict=True)
        ends = [start + (n - 1) * stride + 1 for start, n, stride in reach]
        lengths = static_shape(image)[axes.start : axes.stop]
        if not any(starts) and lengths == tuple(ends) and set(self.strides) == {1}:
            return image
        return site.op("Slice", image, starts, ends, list(axes), list(self.strides))
