"""What a student is compared by: a term for each output of the original, for features, and for labels."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Array, Floats
from onnxslim.observe.output_parts import parts
from onnxslim.train.batches import LABELS
from onnxslim.train.losses import LossKind, LossTerm, logits

PROBABILITY_ERROR = 1e-3
"""How far a sum of probabilities may be from 1."""

CONSTANT = 1e-4
"""The variance over the mean square below which an output is a constant: differences from it are rounding, and do not
count as all that it tells."""

LEAST_SCALE = 1e-4
"""The least scale of a part of an output, beside that of its largest part: boxes are hundreds of pixels where scores
are hundredths."""


class OutputLoss(enum.Enum):
    """How outputs are compared."""

    AUTO = "auto"
    """Distributions by their divergence, all else by squared differences."""
    MSE = "mse"
    """Logits by squared differences (Kim et al. 2021)."""
    KL = "kl"
    """Logits as distributions (Hinton, Vinyals and Dean 2015)."""


@dataclasses.dataclass(frozen=True)
class TermSettings:
    """Options that say what is compared, and how."""

    loss: OutputLoss
    temperature: float
    alpha: float
    """The weight of labels, that of the teacher being the rest."""
    feature_weight: float


def target_of(name: str) -> str:
    """Return the name of the target that is the teacher's value of this name."""
    return f"teacher.{name}"


def output_terms(
    student: ir.Graph, taught: Mapping[str, Array], settings: TermSettings, labelled: bool, count: int
) -> list[LossTerm]:
    """Return the terms of the outputs, and of labels where they count.

    Args:
        student: The graph of the student.
        taught: What the teacher gives on some samples, by the name of the output.
        settings: How.
        labelled: Whether samples have labels.
        count: How many samples these are.
    """
    by_labels = settings.alpha if labelled else 0.0
    terms: list[LossTerm] = []
    for output in student.outputs:
        array = taught.get(output.name or "")
        if array is None or array.dtype.kind != "f" or not array.size:
            continue
        term = _output_term(output, array, settings)
        if term.kind is LossKind.MSE and array.shape[:1] == (count,):  # elsewhere samples might be taken for parts
            term = dataclasses.replace(term, variance=spreads(array))
        terms.append(term)
        if by_labels and array.ndim >= 2 and not any(term.kind is LossKind.CROSS_ENTROPY for term in terms):
            value, axis = logits(output, array.ndim)
            terms.append(LossTerm(LossKind.CROSS_ENTROPY, value, LABELS, by_labels, axis))
    share = 1.0 - by_labels if any(term.kind is LossKind.CROSS_ENTROPY for term in terms) else 1.0
    return [
        term if term.kind is LossKind.CROSS_ENTROPY else dataclasses.replace(term, weight=share * term.weight)
        for term in terms
    ]


def feature_terms(
    student: ir.Graph, names: Sequence[str], taught: Mapping[str, Array], settings: TermSettings
) -> list[LossTerm]:
    """Return a term for each feature, which together weigh `feature_weight`.

    Distributions, as maps of attention are, are compared by their divergence (W. Wang and others, MiniLM: Deep
    Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers, NeurIPS 2020), all else by
    squared differences.
    """
    values = {value.name or "": value for node in student for value in node.outputs}
    plain = dataclasses.replace(settings, loss=OutputLoss.AUTO, temperature=1.0)
    terms = (_output_term(values[name], taught[name], plain) for name in names)
    return [dataclasses.replace(term, weight=settings.feature_weight / len(names)) for term in terms]


def _output_term(output: ir.Value, array: Array, settings: TermSettings) -> LossTerm:
    name = output.name or ""
    value, axis = logits(output, array.ndim)
    if value != name and settings.loss is not OutputLoss.MSE:
        sums = array.sum(axis=axis, dtype=np.float64)
        probabilities = bool(np.all(np.abs(sums - 1) < PROBABILITY_ERROR))
        kind = LossKind.KL_OF_PROBABILITIES if probabilities else LossKind.KL
        return LossTerm(kind, value, target_of(name), axis=axis, temperature=settings.temperature)
    if settings.loss is OutputLoss.KL and array.ndim >= 2:
        return LossTerm(LossKind.KL, name, target_of(name), axis=axis, temperature=settings.temperature)
    return LossTerm(LossKind.MSE, name, target_of(name), variance=spread(array))


def spread(array: Array) -> float:
    """Return the variance of what a teacher gives; of what is the same everywhere a share of its size."""
    square = float(np.mean(np.square(array, dtype=np.float64)))
    return max(float(np.var(array, dtype=np.float64)), CONSTANT * square) or 1.0


def spreads(array: Array) -> float | Floats:
    """Return the variance of what a teacher gives, for each of its parts that differ in scale.

    Of several parts it is broadcast to the output: for the elements of each part its variance, times the share of the
    elements that it has and the number of parts. A mean of squares over it is the mean over the parts of what they are
    over their variances: in pixels and probabilities of one tensor, either counts. No part counts as if its scale were
    less than `LEAST_SCALE` of the largest: what is as small is rounding, or was not seen on these samples.
    """
    own = [part for part in parts([array]) if part is not None] if np.isfinite(array).all() else []
    if not own:
        return spread(array)
    axis = own[0][0]
    of_parts = [spread(np.compress(chosen, array, axis)) for _, chosen in own]
    least = LEAST_SCALE**2 * max(of_parts)
    variances = np.ones(array.shape[axis])
    for (_, chosen), variance in zip(own, of_parts, strict=True):
        variances[chosen] = max(variance, least) * chosen.mean() * len(own)
    return variances.reshape([-1 if each == axis else 1 for each in range(array.ndim)])
