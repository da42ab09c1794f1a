"""Samples of any shapes that count how often they are streamed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from onnxslim.data import Batch, Samples
from onnxslim.data.samples import BatchLayout


class CountedSource:
    """A list of feeds for one sample each, with a leading axis of 1."""

    layout = BatchLayout(None)

    def __init__(self, feeds: Sequence[dict[str, npt.NDArray]]) -> None:
        self._feeds = feeds
        self.streams: Counter[int] = Counter()
        """How often as many samples were streamed. To look at the first sample is no stream."""

    @property
    def count(self) -> int:
        return len(self._feeds)

    def read(self, indices: npt.NDArray[np.int64] | None, size: int) -> Iterator[Batch]:
        indices = np.arange(len(self._feeds)) if indices is None else indices
        for position, index in enumerate(indices):
            if position == 1:
                self.streams[len(indices)] += 1
            yield Batch(self._feeds[index])


def counted_samples(feeds: Sequence[dict[str, npt.NDArray]]) -> tuple[Samples, Counter[int]]:
    """Return samples, and how often as many of them have been streamed so far."""
    source = CountedSource(feeds)
    return Samples(source, "a test"), source.streams
