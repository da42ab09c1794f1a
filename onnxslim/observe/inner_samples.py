"""Samples of a nested graph: the values that it reads of the model around it, which runs whenever they are read.

None of them is held: what a branch reads of an image is many times as large as the image.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Indices
from onnxslim.data import Batch, Samples
from onnxslim.data.samples import BatchLayout
from onnxslim.observe.probe import run_on, truncated
from onnxslim.runtime.session import OpenSession


class InnerSource:
    """Values of a model in some of its runs; each run is one sample, for what is read in one belongs together."""

    layout = BatchLayout(None)

    def __init__(
        self, model: ir.Model, names: Collection[str], samples: Samples, runs: Indices, open_session: OpenSession
    ) -> None:
        computed = {value.name or "" for node in model.graph for value in node.outputs}
        inner = [name for name in names if name in computed]
        self._session = open_session(truncated(model, inner)) if inner else None
        constants = (
            (name, model.graph.initializers[name].const_value) for name in names if name in model.graph.initializers
        )
        self._constants = {name: tensor.numpy() for name, tensor in constants if tensor is not None}
        self._names, self._samples, self._runs = tuple(names), samples, runs

    @property
    def count(self) -> int:
        """Number of runs."""
        return len(self._runs)

    def read(self, indices: Indices | None, size: int) -> Iterator[Batch]:
        """Yield the values in the runs at `indices`, in that order (None: all), one run at a time.

        Raises:
            RunError: The model does not run.
        """
        runs = self._runs if indices is None else self._runs[indices]
        batch_size = self._samples.fixed_batch or 1
        positions = (runs[:, None] * batch_size + np.arange(batch_size)).ravel()
        for batch in self._samples.take(positions).batches(1):
            values = {**self._constants, **batch.feeds}
            if self._session is not None:
                values |= run_on(self._session, batch.feeds)
            yield Batch({name: np.asarray(values[name]) for name in self._names})


def inner_samples(
    model: ir.Model,
    names: Collection[str],
    samples: Samples,
    open_session: OpenSession,
    runs: Indices | None = None,
) -> Samples:
    """Return values of a model as samples of a graph that is nested in it, one for each run of a single sample, or of
    as many as the model takes.

    Args:
        model: Any model; it is not changed.
        names: Inputs and initializers of it, and values that nodes of its main graph make; tensors.
        samples: Of the model.
        open_session: Opens a model on the target.
        runs: The numbers of the runs to read them of, counted from 0; None: all.

    Raises:
        RunError: The model cannot be opened.
    """
    if runs is None:
        runs = np.arange(samples.count // (samples.fixed_batch or 1), dtype=np.int64)
    source = InnerSource(model, names, samples, runs, open_session)
    return Samples(source, samples.source, synthetic=samples.synthetic, joined=False)
