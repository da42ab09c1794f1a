"""Embedding: whether vectors still point where they did, and have the same neighbours."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim.quality.evidence import Evidence, OutputEvidence
from onnxslim.quality.metric import Array, Figure, Metric, Outputs, Recognition, Rows, as_numbers

SMALLEST = 32
"""Numbers of a vector from which on it may be an embedding."""
USUAL = frozenset({64, 96, 128, 192, 256, 384, 512, 768, 1024, 1280, 1536, 2048, 4096})
"""Widths that embeddings have, and numbers of classes hardly ever."""

SCORES = re.compile(r"(?i)(logit|score|prob|tag|label)")
NAMED = re.compile(r"(?i)(embed|feature|pool|repres|hidden|vector|cls_token|last_hidden)")


@dataclasses.dataclass(frozen=True)
class Embedding(Metric):
    """Cosine between the vectors of both models, and whether the nearest neighbour among the samples is the same.

    A sample of many vectors (tokens) counts the mean of their cosines, and its mean vector has the neighbours. With
    labels a neighbour is right where it has the same label.
    """

    output: str

    name: ClassVar[str] = "embedding"

    @classmethod
    def recognise(cls, evidence: Evidence) -> Recognition | None:
        """Return this metric where an output holds a vector of usual width for each sample, or each token of it."""
        found = [one for output in evidence.outputs if (one := _recognise_vectors(output, evidence)) is not None]
        return max(found, key=lambda one: one.strength, default=None)

    def row(self, reference: Outputs, candidate: Outputs | None, label: Array | None) -> Sequence[float]:
        """Return the cosine, the label (NaN: none), and the unit vectors before and after."""
        before = _vectors(reference[self.output])
        after = np.zeros_like(before) if candidate is None else _vectors(candidate[self.output])
        cosine = float((_unit(before) * _unit(after)).sum(axis=-1).mean()) if len(before) else 1.0
        if bool((before == after).all()):
            cosine = 1.0  # of vectors that are all zeros, too
        number = np.nan if label is None or np.size(label) != 1 else float(np.asarray(label).reshape(-1)[0])
        means = [_unit(side.mean(axis=0)) if len(side) else np.zeros(side.shape[-1]) for side in (before, after)]
        return [cosine, number, *means[0], *means[1]]

    def gather(self, rows: Rows) -> Rows:
        """Return: cosine, whether labels count, neighbour right before, right after, the same in both."""
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
        """Return the mean cosine, and the share of samples whose nearest neighbour is right."""
        means = rows.mean(axis=0)
        cosine = Figure(1.0, float(means[0]))
        neighbours = Figure(float(means[2]), float(means[3]))
        if means[1]:
            return {"nearest neighbour": neighbours, "cosine": cosine}
        return {"cosine": cosine, "nearest neighbour": neighbours}

    def is_share(self, figure: str, rows: Rows) -> bool:
        """Neighbours are."""
        return figure == "nearest neighbour"

    def agreement(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Return for each sample whether its nearest neighbour is the same in both models."""
        return rows[:, 4]

    def lost(self, labelled: bool) -> str:
        """Return what the loss is a loss of."""
        return "nearest neighbours of the same label" if labelled else "cosine with the original"


def _vectors(array: Array) -> npt.NDArray[np.float64]:
    values = array.reshape(-1, array.shape[-1]) if array.ndim != 4 else array.reshape(len(array), -1)
    return as_numbers(values)


def _unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0), np.float64)


def _nearest(vectors: npt.NDArray[np.float64], block: int = 1024) -> npt.NDArray[np.int64]:
    """Return for each vector which other one points most nearly where it does; of one vector: itself."""
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
    told = bool(NAMED.search(output.name))
    if output.in_unit or output.made_by("Softmax", "Sigmoid", "LogSoftmax", "LSTM", "GRU", "RNN"):
        return Recognition(Embedding(output.name), 0.5, "it was asked for") if evidence.named else None
    norms = np.concatenate([np.linalg.norm(array.reshape(-1, shape[-1]), axis=-1) for array in output.arrays])
    unit = bool(norms.size) and bool(np.allclose(norms, 1, atol=1e-2))
    usual = shape[-1] in USUAL
    each = "sample" if len(shape) == 2 else "token" if evidence.tokens else "place"
    reason = f"{output.name} {list(shape)} is a vector of {shape[-1]} for each {each}"
    if unit:
        return Recognition(Embedding(output.name), 0.9, f"{reason}, of length 1")
    if len(shape) == 3:
        normal = output.made_by("LayerNormalization")
        tokens = evidence.tokens is not None and shape[-1] in USUAL and not SCORES.search(output.name)
        if not (normal or told or tokens or evidence.named):
            return None
        return Recognition(Embedding(output.name), 0.65, f"{reason}{', normalised' if normal else ''}")
    if not (usual or told or evidence.named):
        return None
    beside = any(
        each is not output and each.is_float and len(each.shape) == 3 and each.shape[-1] == shape[-1]
        for each in evidence.outputs
    )
    strength = 0.8 if beside or told else 0.55
    note = ", beside those of its tokens" if beside else ""
    return Recognition(Embedding(output.name), strength, f"{reason}, a width that embeddings have{note}")
