"""Finds out whether inputs were prepared as in training, and which mistake explains it where they were not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.checks.mistakes import Mistake, exchanged_as_well, exchanged_channels, wrong_ranges
from onnxslim.checks.normalisation import Gauge, Given
from onnxslim.data import Batch
from onnxslim.diagnostic import Diagnostic
from onnxslim.runtime.session import Session

PARTS = 16
"""Parts of the samples that are weighed anew to see how much chance there is in a distance."""
EARLY = 3
"""BatchNormalizations by which ranges are judged: behind the first layer, and little more."""
MISFIT, OF_FEW = 0.1, 0.6
"""A distance, and what is added to it divided by the number of samples, beyond which inputs do not fit. With 64
samples right inputs were at most 0.01 off on two nets of Fashion-MNIST and 0.07 on two of CIFAR-10, whose images went
through JPEG once more, with 8 samples 0.06 and 0.14; those whose mean was not subtracted 0.19 and more."""
EXPLAINS = 0.4
"""A mistake explains a misfit where undoing it leaves no more of the distance than this."""
UNEXPLAINED = 1.0
"""A distance that is told though no mistake explains it: on average every channel is a standard deviation off."""
AS_GOOD = (1.3, 0.03)
"""A likelier mistake is named before one that is nearer by no more than this factor and this much."""
DRAWS = 400
SURE = 2.0
"""Standard errors by which exchanged channels must fit better than the order that is there."""
GAIN = 0.04
"""The share of the distance that exchanging them must take away."""
FEWEST = 32
"""Fewer samples tell nothing about the order of channels."""
GLANCE = 16
"""Samples on which mistakes are compared; the likeliest is then looked at on all."""
BEST = 4
"""Of the nearest mistakes so many are tried with exchanged channels besides."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Samples at the first BatchNormalizations, with the image input that is corrected."""

    gauge: Gauge
    batches: Sequence[Batch]
    name: str

    def after(self, mistake: Mistake | None, parts: int | None = None) -> Given:
        """Return what the samples give when a mistake is undone."""
        batches = self.batches[:parts]
        if mistake is not None:
            batches = [
                dataclasses.replace(each, feeds={**each.feeds, self.name: mistake.correct(each.feeds[self.name])})
                for each in batches
            ]
        return self.gauge(batches)


def check_preparation(
    model: ir.Model, batches: Sequence[Batch], open_session: Callable[[ir.Model], Session], seed: int
) -> list[Diagnostic]:
    """Return a warning where the inputs do not fit what the BatchNormalizations of `model` stored, with what does.

    Args:
        model: The original; without BatchNormalizations nothing can be said.
        batches: Samples, in an order drawn by chance.
        open_session: Opens a model on the target.
        seed: For the draws that tell chance from evidence.

    Raises:
        RunError: The model does not run on them.
    """
    gauge = Gauge(model, open_session)
    if not gauge.stored or not batches:
        return []
    name = _image_input(batches[0])
    prepared = Prepared(gauge, batches, name or "")
    given = prepared.after(None)
    count = int(given.counts.sum())
    distance = _early(gauge, given)
    if distance > MISFIT + OF_FEW / count:
        return _explain(prepared, given, distance, count)
    if name is None or count < FEWEST or batches[0].feeds[name].shape[1] != 3 or _grey(batches, name):
        return []
    found = _exchanged(prepared, given, np.random.default_rng(seed))
    if found is None:
        return []
    return [
        Diagnostic(
            "inputs-do-not-fit",
            f"on {count} samples the inputs look as if {found.found}: with that undone they fit better what the "
            "model's BatchNormalizations stored",
            found.remedy,
        )
    ]


def _early(gauge: Gauge, given: Given) -> float:
    return float(gauge.distances(given)[:EARLY].mean())


def _explain(prepared: Prepared, given: Given, distance: float, count: int) -> list[Diagnostic]:
    best = _likeliest(prepared)
    said = (
        f"the statistics of {count} samples at the model's first BatchNormalizations are {distance:.2g} off those that "
        "were stored in training (0: the same; 0.1: as far as right ones may be)"
    )
    if best is not None:
        mistake, left = best
        if left < EXPLAINS * distance and left < MISFIT + OF_FEW / count + EXPLAINS * MISFIT:
            return [
                Diagnostic(
                    "inputs-do-not-fit",
                    f"{said}: the inputs look as if {mistake.found}; without that they are {left:.2g} off",
                    mistake.remedy,
                )
            ]
    if distance > UNEXPLAINED:
        return [
            Diagnostic("inputs-do-not-fit", said, "prepare the samples as in training: scale, mean, std, channel order")
        ]
    return []


def _likeliest(prepared: Prepared) -> tuple[Mistake, float] | None:
    """Return the mistake that leaves the least distance when it is undone, and that distance."""
    if not prepared.name:
        return None
    channels = prepared.batches[0].feeds[prepared.name].shape[1]
    parts = max(1, GLANCE // prepared.batches[0].count)

    def left(mistake: Mistake) -> float:
        return _early(prepared.gauge, prepared.after(mistake, parts))

    tried = [(left(mistake), mistake) for mistake in wrong_ranges(channels)]
    if channels == 3:
        nearest = sorted(tried, key=lambda each: each[0])[:BEST]
        both = [exchanged_as_well(mistake) for _, mistake in nearest if not mistake.folded]
        tried += [(left(mistake), mistake) for mistake in both]
    least = min(distance for distance, _ in tried)
    factor, more = AS_GOOD
    likeliest = next(mistake for distance, mistake in tried if distance <= factor * least + more)
    return likeliest, _early(prepared.gauge, prepared.after(likeliest))


def _exchanged(prepared: Prepared, given: Given, generator: np.random.Generator) -> Mistake | None:
    """Return the exchange of channels that fits clearly better than the order that is there."""
    parts = len(given.counts)
    weights = generator.multinomial(parts, np.full(parts, 1 / parts), DRAWS).astype(np.float64)
    now = prepared.gauge.distances(given, weights).mean(-1)
    found: list[tuple[float, Mistake]] = []
    for mistake in exchanged_channels():
        other = prepared.after(mistake)
        gained = now - prepared.gauge.distances(other, weights).mean(-1)
        mean, error = float(gained.mean()), float(gained.std())
        if mean > max(SURE * error, GAIN * float(now.mean())):
            found.append((mean, mistake))
    return max(found, key=lambda each: each[0])[1] if found else None


def _image_input(batch: Batch) -> str | None:
    """Return the only input that holds images, channels first: [N, C, H, W] of floats with 1 or 3 channels."""
    images = [
        name
        for name, array in batch.feeds.items()
        if array.ndim == 4 and array.dtype.kind == "f" and array.shape[1] in (1, 3) and min(array.shape[2:]) > 3
    ]
    return images[0] if len(images) == 1 else None


def _grey(batches: Iterable[Batch], name: str) -> bool:
    return all(np.array_equal(each.feeds[name][:, 0], each.feeds[name][:, -1]) for each in batches)
