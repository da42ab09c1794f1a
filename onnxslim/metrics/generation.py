"""Generation: next-token accuracy and perplexity of language models."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim.arrays import Array
from onnxslim.ops.traits import Trait
from onnxslim.quality.evidence import Evidence
from onnxslim.quality.metric import Figure, Metric, Outputs, Recognition, Rows, unreadable_labels

SMALLEST_VOCABULARY = 1000
"""Minimum size of a vocabulary; fewer scores per step are tags."""
MOST_NATS = 50.0
"""Limit of the negative log-likelihood of a token, so that the perplexity of a broken model is finite."""

NAMED = re.compile(r"(?i)(logit|lm_head|next|token)")
ENTROPY = "perplexity"


@dataclasses.dataclass(frozen=True)
class Generation(Metric):
    """Next-token agreement and perplexity.

    Labels are the true next tokens at each position (below 0: not counted). Without labels the most probable token of
    the original is the truth, and perplexity is relative to the distribution of the original: the exponential of its
    entropy before, and of the cross-entropy after. Their ratio is the exponential of the Kullback-Leibler divergence.
    """

    output: str

    name: ClassVar[str] = "generation"
    losses: ClassVar[tuple[str, str]] = "next-token accuracy", "next-token agreement with the original"
    units: ClassVar[Mapping[str, str]] = {ENTROPY: ""}

    @classmethod
    def recognise(cls, evidence: Evidence) -> Recognition | None:
        """Return this metric if an input holds token ids, and an output scores of a vocabulary for each of them."""
        if evidence.tokens is None and not evidence.named:
            return None
        for output in evidence.outputs:
            shape = output.shape
            if not output.is_float or len(shape) != 3 or output.made_by(Trait.LAYER_NORMALIZATION):
                continue
            if shape[-1] < SMALLEST_VOCABULARY and not evidence.named:
                continue
            reason = (
                f"{output.name} {list(shape)} has scores of a vocabulary of {shape[-1]} for each token that goes in"
            )
            return Recognition(cls(output.name), 0.85 if NAMED.search(output.name) else 0.8, reason)
        return None

    def row(self, reference: Outputs, candidate: Outputs | None, label: Array | None) -> Sequence[float]:
        """Return the row: number of tokens, correct before, after, equal in both, nats before, after."""
        before = _log_softmax(reference[self.output])
        after = np.full_like(before, -MOST_NATS) if candidate is None else _log_softmax(candidate[self.output])
        best = before.argmax(axis=-1)
        chosen = after.argmax(axis=-1) if candidate is not None else np.full(len(before), -1)
        if label is None:
            nats = [-(np.exp(before) * side).sum(axis=-1) for side in (before, after)]
            truth, counts = best, np.ones(len(best), np.bool_)
        else:
            truth, counts = _true_tokens(label, before)
            nats = [-side[np.arange(len(side)), truth] for side in (before, after)]
        sums = [float(side[counts].clip(max=MOST_NATS).sum()) for side in nats]
        pairs = (best, truth), (chosen, truth), (chosen, best)
        equal = [float((left == right)[counts].sum()) for left, right in pairs]
        return [float(counts.sum()), *equal, *sums]

    def figures(self, rows: Rows) -> dict[str, Figure]:
        """Return the share of correct next tokens, and the perplexity."""
        sums = rows.sum(axis=0)
        count = max(1.0, float(sums[0]))
        return {
            "next token": Figure(float(sums[1] / count), float(sums[2] / count)),
            ENTROPY: Figure(math.exp(sums[4] / count), math.exp(sums[5] / count)),
        }

    def agreement(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Return the share of positions with the same predicted token in both models, per sample."""
        return np.asarray(rows[:, 3] / np.maximum(rows[:, 0], 1) + (rows[:, 0] == 0), np.float64)


def _log_softmax(logits: Array) -> npt.NDArray[np.float64]:
    values = np.nan_to_num(
        logits.reshape(-1, logits.shape[-1]).astype(np.float64), nan=-1e30, posinf=1e30, neginf=-1e30
    )
    values -= values.max(axis=-1, keepdims=True)
    with np.errstate(under="ignore"):
        logs = values - np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return np.asarray(logs.clip(min=-1e4), np.float64)


def _true_tokens(label: Array, logs: npt.NDArray[np.float64]) -> tuple[Array, Array]:
    given = np.asarray(label).reshape(-1)
    if given.dtype.kind not in "iu" or len(given) != len(logs):
        hint = "give integers, one for each position, below 0 where it does not count"
        raise unreadable_labels(label, f"next tokens for {len(logs)} positions", hint)
    counts = (given >= 0) & (given < logs.shape[-1])
    return np.where(counts, given, 0), counts
