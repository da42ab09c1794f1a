"""Embedding: cosine and nearest neighbours of vectors."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim.arrays import Array
from onnxslim.ops.traits import Trait
from onnxslim.quality.evidence import Evidence, OutputEvidence
from onnxslim.quality.metric import Figure, Metric, Outputs, Recognition, Rows, as_numbers, strongest

SMALLEST = 32
"""Minimum width of an embedding."""
USUAL = frozenset({64, 96, 128, 192, 256, 384, 512, 768, 1024, 1280, 1536, 2048, 4096})
"""Usual widths of embeddings, which are rarely numbers of classes."""

SCORES = re.compile(r"(?i)(logit|score|prob|tag|label)")
NAMED = re.compile(r"(?i)(embed|feature|pool|repres|hidden|vector|cls_token|last_hidden)")


@dataclasses.dataclass(frozen=True)
class Embedding(Metric):
    """Cosine between the vectors of both models, and equality of the nearest neighbour among the samples.

    A sample with many vectors (tokens) has the mean of their cosines, and the neighbours of its mean vector. With
    labels, a neighbour is correct if it has the same label.
    """

    output: str

    name: ClassVar[str] = "embedding"
    shares: ClassVar[frozenset[str]] = frozenset({"nearest neighbour"})
    losses: ClassVar[tuple[str, str]] = "nearest neighbours of the same label", "cosine with the original"

    @classmethod
    def recognise(cls, evidence: Evidence) -> Recognition | None:
        """Return this metric if an output holds a vector of a usual width for each sample or token."""
        return strongest(_recognise_vectors(output, evidence) for output in evidence.outputs)

    def row(self, reference: Outputs, candidate: Outputs | None, label: Array | None) -> Sequence[float]:
        """Return the cosine, the label (NaN: none), and the unit vectors before and after."""
        before = _vectors(reference[self.output])
        after = np.zeros_like(before) if candidate is None else _vectors(candidate[self.output])
        cosine = float((_unit(before) * _unit(after)).sum(axis=-1).mean()) if len(before) else 1.0
        if bool((before == after).all()):
            cosine = 1.0  # also for zero vectors
        number = np.nan if label is None or np.size(label) != 1 else float(np.asarray(label).reshape(-1)[0])
        means = [_unit(side.mean(axis=0)) if len(side) else np.zeros(side.shape[-1]) for side in (before, after)]
        return [cosine, number, *means[0], *means[1]]

    def gather(self, rows: Rows) -> Rows:
        """Return the columns: cosine, 1 with labels, neighbour correct before, correct after, equal in both."""
        width = (rows.shape[1] - 2) // 2
        before, after = rows[:, 2 : 2 + width], rows[:, 2 + width :]
        labelled = bool(np.isfinite(rows[:, 1]).all()) and len(rows) > 1
        nearest = [_nearest(side) for side in (before, after)]
        lost = ~after.any(axis=1) & before.any(axis=1)
        same = (nearest[0] == nearest[1]) & ~lost
        right = [rows[:, 1] == rows[side, 1] for side in nearest] if labelled else [np.ones(len(rows)), same]
        columns = rows[:, 0], np.full(len(rows), labelled), right[0], right[1] & ~lost, same
        return np.stack(columns, axis=1).astype(np.float64)

    def figures(self, rows: Rows) -> dict[str, Figure]:
        """Return the mean cosine, and the share of samples with a correct nearest neighbour."""
        means = rows.mean(axis=0)
        cosine = Figure(1.0, float(means[0]))
        neighbours = Figure(float(means[2]), float(means[3]))
        if means[1]:
            return {"nearest neighbour": neighbours, "cosine": cosine}
        return {"cosine": cosine, "nearest neighbour": neighbours}

    def agreement(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Return whether the nearest neighbour is the same in both models, per sample."""
        return rows[:, 4]


def _vectors(array: Array) -> npt.NDArray[np.float64]:
    values = array.reshape(-1, array.shape[-1]) if array.ndim != 4 else array.reshape(len(array), -1)
    return as_numbers(values)


def _unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0), np.float64)


def _nearest(vectors: npt.NDArray[np.float64], block: int = 1024) -> npt.NDArray[np.int64]:
    """Return the index of the other vector with the largest cosine for each vector; 0 for a single vector."""
    found = np.zeros(len(vectors), np.int64)
    if len(vectors) < 2:
        return found
    for start in range(0, len(vectors), block):
        table = vectors[start : start + block] @ vectors.T
        table[np.arange(len(table)), np.arange(start, start + len(table))] = -np.inf
        found[start : start + block] = table.argmax(axis=1)
    return found


def _recognise_vectors(output: OutputEvidence, evidence: Evidence) -> Recognition | None:
    shape = output.shape
    if not output.is_float or len(shape) not in (2, 3) or shape[-1] < (2 if evidence.named else SMALLEST):
        return None
    named = bool(NAMED.search(output.name))
    if output.in_unit or output.made_by(Trait.DISTRIBUTION, Trait.LOGISTIC, Trait.RECURRENT):
        return Recognition(Embedding(output.name), 0.5, "it was asked for") if evidence.named else None
    norms = np.concatenate([np.linalg.norm(array.reshape(-1, shape[-1]), axis=-1) for array in output.arrays])
    unit = bool(norms.size) and bool(np.allclose(norms, 1, atol=1e-2))
    usual = shape[-1] in USUAL
    unit_name = "sample" if len(shape) == 2 else "token" if evidence.tokens else "place"
    reason = f"{output.name} {list(shape)} is a vector of {shape[-1]} for each {unit_name}"
    if unit:
        return Recognition(Embedding(output.name), 0.9, f"{reason}, of length 1")
    if len(shape) == 3:
        normal = output.made_by(Trait.LAYER_NORMALIZATION)
        tokens = evidence.tokens is not None and shape[-1] in USUAL and not SCORES.search(output.name)
        if not (normal or named or tokens or evidence.named):
            return None
        return Recognition(Embedding(output.name), 0.65, f"{reason}{', normalised' if normal else ''}")
    if not (usual or named or evidence.named):
        return None
    beside = any(
        sibling is not output and sibling.is_float and len(sibling.shape) == 3 and sibling.shape[-1] == shape[-1]
        for sibling in evidence.outputs
    )
    strength = 0.8 if beside or named else 0.55
    note = ", beside those of its tokens" if beside else ""
    return Recognition(Embedding(output.name), strength, f"{reason}, a width that embeddings have{note}")
