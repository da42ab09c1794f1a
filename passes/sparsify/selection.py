"""Chooses which weights become zero: the least important of all, or the least important of each few neighbours."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np

from onnxslim.arrays import Floats, Mask
from onnxslim.errors import BadOptionValue

Key = TypeVar("Key", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Pattern:
    """N:M, at most `kept` of each `group` neighbours along the input are not zero; group 0: any may be."""

    kept: int = 0
    group: int = 0

    def fits(self, channels: int) -> bool:
        """Whether this many input channels fall into whole groups."""
        return not self.group or channels % self.group == 0


def read_pattern(text: str) -> Pattern:
    """Read ``unstructured`` or ``2:4``.

    Raises:
        BadOptionValue: It is neither.
    """
    if text == "unstructured":
        return Pattern()
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None or not 0 < int(match[1]) < int(match[2]) <= 64:
        raise BadOptionValue(
            f"pattern is {text!r}", where="sparsify", hint="unstructured, or N:M with N below M, as in 2:4"
        )
    return Pattern(int(match[1]), int(match[2]))


def least(scores: Floats, ratio: float, pattern: Pattern) -> Mask:
    """Return which weights become zero, shape [outputs, columns] as the scores, which say how much each matters.

    A share `ratio` of all does; an N:M pattern has its own.
    """
    if not pattern.group:
        count = round(ratio * scores.size)
        gone = np.zeros(scores.size, np.bool_)
        gone[np.argsort(scores, axis=None, kind="stable")[:count]] = True
        return gone.reshape(scores.shape)
    neighbours = scores.reshape(len(scores), -1, pattern.group)
    order = np.argsort(np.argsort(neighbours, axis=-1, kind="stable"), axis=-1)
    mask: Mask = (order < pattern.group - pattern.kept).reshape(scores.shape)
    return mask


def shares(weights: Mapping[Key, Floats], ratio: float) -> dict[Key, float]:
    """Return for each weight the share that becomes zero, where the least important of all weights together do.

    A square counts relative to the squares of its layer that are no smaller. Source: Lee et al., "Layer-adaptive
    sparsity for the magnitude-based pruning" (arXiv 2010.07611), section 3; it never empties a layer.
    """
    scores = {}
    for key, weight in weights.items():
        squares = np.sort(weight.reshape(-1) ** 2)
        left = np.cumsum(squares[::-1])[::-1]
        scores[key] = squares / np.maximum(left, np.finfo(np.float64).tiny)
    everything = np.concatenate(list(scores.values()))
    count = min(round(ratio * everything.size), everything.size - 1)
    threshold = np.partition(everything, count)[count]
    return {key: float(np.mean(score < threshold)) for key, score in scores.items()}
