"""Common mistakes in the preprocessing of images, with the corrections that undo them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from onnxslim.arrays import Array


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """A named mean and standard deviation for pixels of 0 to 1."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


NORMALISATIONS = (
    Normalisation("ImageNet's", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    Normalisation("0.5 and 0.5 as", (0.5,), (0.5,)),
    Normalisation("CIFAR-10's", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    Normalisation("CLIP's", (0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)),
    Normalisation("MNIST's", (0.1307,), (0.3081,)),
    Normalisation("Fashion-MNIST's", (0.2860,), (0.3530,)),
)
"""The most common ones in public training code."""
CAFFE = (103.939, 116.779, 123.68)
"""Mean of ImageNet's pixels of 0 to 255 in BGR order, as for models of Caffe and Keras; std 1."""


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A mistake in preprocessing; the correct input is reversed(input) * scale + shift."""

    found: str
    """Description, as in "the inputs look as if <found>"."""
    remedy: str
    """Instruction to correct it."""
    scale: tuple[float, ...] = (1.0,)
    """One value per channel, or one for all."""
    shift: tuple[float, ...] = (0.0,)
    reversed: bool = False
    """The channels are in reverse order: BGR for RGB, or RGB for BGR."""
    folded: bool = False
    """Channels-last pixels were reshaped to channels-first instead of transposed."""

    def correct(self, images: Array) -> Array:
        """Return corrected images of shape [N, C, H, W], with the same type."""
        result = images
        if self.folded:
            count, channels, height, width = images.shape
            result = images.reshape(count, height, width, channels).transpose(0, 3, 1, 2)
        if self.reversed:
            result = result[:, ::-1]
        scale, shift = (np.asarray(values, np.float32).reshape(1, -1, 1, 1) for values in (self.scale, self.shift))
        return np.ascontiguousarray((result.astype(np.float32) * scale + shift).astype(images.dtype))


REVERSED = "the channels are in the other order (BGR for RGB, or RGB for BGR)"
REVERSE = "exchange the first and the last channel"
FOLDED = "channels-last pixels were reshaped where they should have been transposed"


def exchanged_channels() -> Iterator[Mistake]:
    """Yield the mistakes that only exchange channels, after normalization or before it."""
    yield Mistake(REVERSED, REVERSE, reversed=True)
    usual = NORMALISATIONS[0]  # other means per colour are too similar to distinguish
    scale, shift = _between(usual, usual, exchange=True)
    yield Mistake(REVERSED, f"{REVERSE} before {usual.name} mean and std are applied", scale, shift, reversed=True)


def wrong_ranges(channels: int) -> Iterator[Mistake]:
    """Yield the mistakes that shift and scale values, the most likely first."""
    yield _mistake("they are pixels of 0 to 255 where 0 to 1 is wanted", "divide them by 255", 1 / 255, 0.0)
    yield _mistake("they are pixels of 0 to 1 where 0 to 255 is wanted", "multiply them by 255", 255.0, 0.0)
    fitting = [known for known in NORMALISATIONS if channels == 3 or len(known.mean) == 1]
    for correct in fitting:
        yield from _not_normalised(correct)
    for used in fitting:
        for correct in fitting:
            if used is not correct:
                scale, shift = _between(used, correct)
                yield Mistake(f"{used.name} mean and std were used", f"use {correct.name} mean and std", scale, shift)
    if channels == 3:
        subtract, mean = "subtract 103.939, 116.779, 123.68", np.array(CAFFE)
        yield _mistake("they are pixels of 0 to 255 whose mean was not subtracted", subtract, 1.0, -mean)
        found = "they are pixels of 0 to 1 where 0 to 255 less a mean is wanted"
        yield _mistake(found, f"multiply by 255, and {subtract}", 255.0, -mean)
        yield Mistake(FOLDED, "transpose them: NHWC to NCHW", folded=True)


def exchanged_as_well(mistake: Mistake) -> Mistake:
    """Return a mistake combined with exchanged channels."""
    found, remedy = f"{mistake.found}, and {REVERSED}", f"{mistake.remedy}; {REVERSE} first"
    return dataclasses.replace(mistake, found=found, remedy=remedy, reversed=True)


def _not_normalised(correct: Normalisation) -> Iterator[Mistake]:
    """Yield the mistakes of not applying a normalization, applying it partly, twice, or to the wrong range."""
    name, mean, std = correct.name, np.array(correct.mean), np.array(correct.std)
    found = "they are pixels of 0 to 255 where 0 to 1, normalised, is wanted"
    yield _mistake(found, f"divide by 255, and normalise with {name} mean and std", 1 / 255 / std, -mean / std)
    found = "they are pixels of 0 to 1 that were not normalised"
    yield _mistake(found, f"normalise with {name} mean and std", 1 / std, -mean / std)
    remedy = f"subtract {name} mean before the division by its std"
    yield _mistake("the mean was not subtracted", remedy, 1.0, -mean / std)
    yield _mistake("they were not divided by the standard deviation", f"divide by {name} std", 1 / std, 0.0)
    found = "pixels of 0 to 255 were normalised as if they were 0 to 1"
    remedy = f"divide by 255 before {name} mean and std are applied"
    yield _mistake(found, remedy, 1 / 255, (mean / 255 - mean) / std)
    yield _mistake("they were normalised once too often", f"leave {name} mean and std out once", std, mean)
    found = "they were normalised where pixels of 0 to 255 are wanted"
    yield _mistake(found, f"leave {name} mean and std out, and multiply by 255", 255 * std, 255 * mean)


def _mistake(found: str, remedy: str, scale: Any, shift: Any) -> Mistake:
    return Mistake(found, remedy, _numbers(scale), _numbers(shift))


def _between(
    used: Normalisation, correct: Normalisation, *, exchange: bool = False
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the scale and shift from values normalized with `used` to values normalized with `correct`.

    With `exchange` the channels were exchanged after `used` was applied.
    """
    step = -1 if exchange else 1
    mean, std = np.array(used.mean)[::step], np.array(used.std)[::step]
    correct_mean, correct_std = np.array(correct.mean), np.array(correct.std)
    return _numbers(std / correct_std), _numbers((mean - correct_mean) / correct_std)


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(np.atleast_1d(np.asarray(values, np.float64)).tolist())
