"""Checks that inputs are preprocessed as in training, and finds the mistake that explains it if they are not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.checks.mistakes import Mistake, exchanged_as_well, exchanged_channels, wrong_ranges
from onnxslim.checks.normalisation import Gauge, SampleStatistics
from onnxslim.data import Batch
from onnxslim.diagnostic import Diagnostic
from onnxslim.runtime.session import OpenSession

CODE = "inputs-do-not-fit"
PARTS = 16
"""Number of parts of the samples that are resampled for the standard error of a distance."""
EARLY = 3
"""Number of BatchNormalizations that decide about ranges: the first ones only."""
MISFIT, OF_FEW = 0.1, 0.6
"""Inputs do not fit beyond a distance of MISFIT + OF_FEW / samples. With 64 samples correct inputs had a distance of at
most 0.01 on two networks of Fashion-MNIST and 0.07 on two of CIFAR-10, whose images were encoded as JPEG again, with 8
samples 0.06 and 0.14; inputs without subtraction of the mean 0.19 and more."""
EXPLAINS = 0.4
"""A mistake explains a misfit if its correction leaves at most this share of the distance."""
UNEXPLAINED = 1.0
"""Distance reported without an explanation: on average every channel is off by a standard deviation."""
AS_GOOD = (1.3, 0.03)
"""(factor, difference) of distance within which a more likely mistake is preferred to a nearer one."""
DRAWS = 400
SURE = 2.0
"""Standard errors by which exchanged channels must fit better than the given order."""
GAIN = 0.04
"""Share of the distance by which exchanging them must reduce it."""
FEWEST = 32
"""Minimum of samples to decide about the order of channels."""
GLANCE, GLANCE_BYTES = (4, 16), 1e7
"""Number of samples on which mistakes are compared, at least and at most, and the bytes of images that suffice; the
best is then measured on all."""
BEST = 4
"""Number of nearest mistakes that are also tried with exchanged channels."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Samples, the image input that is corrected, and the gauge of their statistics."""

    gauge: Gauge
    batches: Sequence[Batch]
    name: str

    def glance(self) -> Prepared:
        """Return the few samples on which mistakes are compared."""
        first = self.batches[0]
        size = np.asarray(first.feeds[self.name]).nbytes / first.count
        count = int(np.clip(GLANCE_BYTES / size, *GLANCE))
        return dataclasses.replace(self, batches=self.batches[: -(-count // first.count)])

    def after(self, mistake: Mistake | None) -> SampleStatistics:
        """Return the statistics of the samples after the correction of a mistake."""
        batches = self.batches
        if mistake is not None:
            batches = [
                dataclasses.replace(batch, feeds={**batch.feeds, self.name: mistake.correct(batch.feeds[self.name])})
                for batch in batches
            ]
        return self.gauge(batches)


def check_preparation(
    model: ir.Model, batches: Sequence[Batch], open_session: OpenSession, seed: int
) -> list[Diagnostic]:
    """Return a warning if the inputs do not fit the statistics in the BatchNormalizations of `model`, the original.

    The samples are in random order; `seed` is that of their resampling.

    Raises:
        RunError: The model does not run on the samples.
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
        early = Gauge(model, open_session, EARLY)
        if len(early.stored) == len(gauge.stored[:EARLY]):  # as long as none of the first is left out, they suffice
            prepared = dataclasses.replace(prepared, gauge=early)
        return _explain(prepared, distance, count)
    if name is None or count < FEWEST or batches[0].feeds[name].shape[1] != 3 or _grey(batches, name):
        return []
    found = _exchanged(prepared, given, np.random.default_rng(seed))
    if found is None:
        return []
    message = (
        f"on {count} samples the inputs look as if {found.found}: with that undone they fit better what the model's "
        "BatchNormalizations stored"
    )
    return [Diagnostic(CODE, message, found.remedy)]


def _early(gauge: Gauge, given: SampleStatistics) -> float:
    return float(gauge.distances(given)[:EARLY].mean())


def _explain(prepared: Prepared, distance: float, count: int) -> list[Diagnostic]:
    best = _likeliest(prepared)
    message = (
        f"the statistics of {count} samples at the model's first BatchNormalizations are {distance:.2g} off those that "
        "were stored in training (0: the same; 0.1: as far as right ones may be)"
    )
    if best is not None:
        mistake, left = best
        if left < EXPLAINS * distance and left < MISFIT + OF_FEW / count + EXPLAINS * MISFIT:
            explained = f"{message}: the inputs look as if {mistake.found}; without that they are {left:.2g} off"
            return [Diagnostic(CODE, explained, mistake.remedy)]
    hint = "prepare the samples as in training: scale, mean, std, channel order"
    return [Diagnostic(CODE, message, hint)] if distance > UNEXPLAINED else []


def _likeliest(prepared: Prepared) -> tuple[Mistake, float] | None:
    """Return the mistake whose correction leaves the least distance, and that distance; None without images."""
    if not prepared.name:
        return None
    channels = prepared.batches[0].feeds[prepared.name].shape[1]
    glance = prepared.glance()

    def left(mistake: Mistake) -> float:
        return _early(glance.gauge, glance.after(mistake))

    tried = [(left(mistake), mistake) for mistake in wrong_ranges(channels)]
    if channels == 3:
        nearest = sorted(tried, key=lambda attempt: attempt[0])[:BEST]
        both = [exchanged_as_well(mistake) for _, mistake in nearest if not mistake.folded]
        tried += [(left(mistake), mistake) for mistake in both]
    least = min(distance for distance, _ in tried)
    factor, difference = AS_GOOD
    likeliest = next(mistake for distance, mistake in tried if distance <= factor * least + difference)
    return likeliest, _early(prepared.gauge, prepared.after(likeliest))


def _exchanged(prepared: Prepared, given: SampleStatistics, generator: np.random.Generator) -> Mistake | None:
    """Return the exchange of channels that fits significantly better than the given order, if any."""
    parts = len(given.counts)
    weights = generator.multinomial(parts, np.full(parts, 1 / parts), DRAWS).astype(np.float64)
    now = prepared.gauge.distances(given, weights).mean(-1)
    found: list[tuple[float, Mistake]] = []
    for mistake in exchanged_channels():
        corrected = prepared.after(mistake)
        gained = now - prepared.gauge.distances(corrected, weights).mean(-1)
        mean, error = float(gained.mean()), float(gained.std())
        if mean > max(SURE * error, GAIN * float(now.mean())):
            found.append((mean, mistake))
    return max(found, key=lambda candidate: candidate[0])[1] if found else None


def _image_input(batch: Batch) -> str | None:
    """Return the only input of images, [N, C, H, W] of floats with 1 or 3 channels; None if there is not just one."""
    images = [
        name
        for name, array in batch.feeds.items()
        if array.ndim == 4 and array.dtype.kind == "f" and array.shape[1] in (1, 3) and min(array.shape[2:]) > 3
    ]
    return images[0] if len(images) == 1 else None


def _grey(batches: Iterable[Batch], name: str) -> bool:
    return all(np.array_equal(batch.feeds[name][:, 0], batch.feeds[name][:, -1]) for batch in batches)
