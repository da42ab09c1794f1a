"""What reverse mode starts from: the gradient of each sample's loss with respect to the outputs, of labels or without.

At the original itself a loss that compares with the original is at its minimum, and its gradient is zero. Without
labels a distribution is given labels that are drawn from itself, so that the mean square of the gradients is the true
Fisher information (Kunstner, Hennig and Balles, arXiv 1905.12558, equation 2), and any other output a random direction:
the mean square is then that of its Jacobian, which is the Fisher information of a normal distribution of fixed width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Array
from onnxslim.train.losses import logits

NO_CLASS = 255
"""Where pixels are of no class, labels of 8 bits say this."""


@dataclasses.dataclass(frozen=True)
class OutputSeed:
    """How the gradient with respect to one value starts."""

    value: str
    """An output, or the logits that a distribution is made of."""
    axis: int | None = None
    """The axis of the classes; None: the value is no distribution, and its direction is drawn."""
    labelled: bool = False
    """Whether classes are those of the labels; they are drawn from the distribution otherwise."""
    size: float = 1.0
    """What directions are divided by: the norm of the value of a sample, so that outputs count alike."""

    def __call__(self, made: Array, labels: Array | None, generators: Sequence[np.random.Generator]) -> Array:
        """Return the gradient of the sum of the losses of samples, of the shape of the value.

        Args:
            made: The value on a batch: of one sample of any shape, of several along the first axis.
            labels: The classes of the samples, where `labelled`. One that is no class, as -1 and 255, has no loss.
            generators: One for each sample, so that what is drawn for it does not depend on its batch.
        """
        pieces = np.split(made, len(generators)) if len(generators) > 1 else [made]
        given = [None] * len(pieces) if labels is None or not self.labelled else np.split(labels, len(pieces))
        seeds = [self._of(*each) for each in zip(pieces, given, generators, strict=True)]
        return np.concatenate(seeds).astype(made.dtype) if len(seeds) > 1 else seeds[0].astype(made.dtype)

    def _of(self, made: Array, labels: Array | None, generator: np.random.Generator) -> Array:
        if self.axis is None:
            direction: Array = generator.standard_normal(made.shape) / self.size
            return direction
        scores = np.moveaxis(made.astype(np.float64), self.axis, -1)
        with np.errstate(invalid="ignore"):  # what is not finite stays so, for who looks at the gradients
            shares = np.exp(scores - scores.max(-1, keepdims=True))
            shares /= shares.sum(-1, keepdims=True)
        if labels is None or labels.size * scores.shape[-1] != scores.size:
            # The largest of logits with Gumbel's noise is drawn from their distribution.
            chosen = (scores + generator.gumbel(size=scores.shape)).argmax(-1)
        else:
            chosen = labels.reshape(scores.shape[:-1])
        shares -= np.arange(scores.shape[-1]) == chosen[..., None]
        known = (chosen >= 0) & (chosen < scores.shape[-1])
        result: Array = np.moveaxis(shares * known[..., None], -1, self.axis)
        return result


def output_seeds(
    graph: ir.Graph, made: Mapping[str, Array], labels: Array | None, sizes: Mapping[str, float]
) -> list[OutputSeed]:
    """Return how the gradients of the outputs of a model start.

    Labels that are one class for each decision of an output make this a distribution, and the only output that counts.

    Args:
        graph: The main graph of the model.
        made: What it gives on some samples, by the names of its outputs.
        labels: The labels of these samples.
        sizes: The norm of each output on a sample; 1 where it is not given.
    """
    seeds: list[OutputSeed] = []
    for output in graph.outputs:
        array = made.get(output.name or "")
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or not array.size:
            continue
        value, axis = logits(output, array.ndim)
        if labels is not None and _are_classes(labels, array, axis):
            return [OutputSeed(value, axis, labelled=True)]
        if value != output.name:
            seeds.append(OutputSeed(value, axis))
        else:
            seeds.append(OutputSeed(value, size=sizes.get(value, 1.0) or 1.0))
    return list({seed.value: seed for seed in seeds}.values())


def _are_classes(labels: Array, made: Array, axis: int) -> bool:
    """Whether labels are one class for each decision of an output, given its axis of the classes."""
    if labels.dtype.kind not in "iu" or made.ndim < 2 or made.shape[axis] < 2:
        return False
    if labels.size * made.shape[axis] != made.size:
        return False
    known = (labels >= 0) & (labels < made.shape[axis])
    return bool(known.any() and (known | (labels < 0) | (labels == NO_CLASS)).all())
