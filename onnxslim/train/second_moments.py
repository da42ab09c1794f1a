"""Sums of the products of what contractions read, streamed over samples: for weights that are changed one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.data import Samples
from onnxslim.graph.contraction import Contraction
from onnxslim.runner.session import Session
from onnxslim.train.observation import truncated
from onnxslim.train.rows import input_rows, place_count

Array = npt.NDArray[np.float64]


@dataclasses.dataclass
class Sums:
    """Sums over all rows x that one contraction reads."""

    products: Array
    """Of x x', shape [groups, columns, columns]."""
    inputs: Array
    """Of x, shape [groups, columns]."""
    rows: int = 0


def sums(
    model: ir.Model,
    read: Sequence[Contraction],
    samples: Samples,
    generator: np.random.Generator,
    open_session: Callable[[ir.Model], Session],
    places: int,
    batch: int = 16,
) -> list[Sums]:
    """Return for each contraction the sums over what it reads of all samples.

    Args:
        model: Any model; it is not changed.
        read: Contractions of its main graph, for which `onnxslim.train.gram.measurable` holds.
        samples: Read once.
        generator: Chooses places of convolutions.
        open_session: Opens a model on the target.
        places: Of each sample, where a convolution is seen, at most; products of matrices are seen at all of theirs.
        batch: Samples in one run, where the model takes any number.

    Raises:
        RunError: The model does not run on the samples.
    """
    made = {contraction.data for contraction in read if contraction.data.producer() is not None}
    names = sorted(value.name or "" for value in made)
    session = open_session(truncated(model, names)) if names else None
    result = [
        Sums(np.zeros((each.groups, each.columns, each.columns)), np.zeros((each.groups, each.columns)))
        for each in read
    ]
    for piece in samples.batches(batch):
        values = {**piece.feeds, **(session.run(piece.feeds) if session is not None else {})}
        for contraction, total in zip(read, result, strict=True):
            data = values[contraction.data.name or ""]
            available = place_count(contraction, data)
            chosen = np.arange(available)
            if contraction.kernel and places < available:
                chosen = np.sort(generator.choice(available, places, replace=False))
            rows = input_rows(contraction, data, chosen).astype(np.float32, copy=False)
            total.products += rows.transpose(0, 2, 1) @ rows
            total.inputs += rows.sum(axis=1, dtype=np.float64)
            total.rows += rows.shape[1]
    return result
