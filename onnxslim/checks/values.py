"""Checks of the values of samples: constants, noise, and duplicates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnxslim.arrays import Array
from onnxslim.data import Batch
from onnxslim.diagnostic import Diagnostic

SMALLEST = 16
"""Minimum of elements of a sample for these checks."""
SHARE = 0.05
"""Share of duplicated or constant samples beyond which there is a warning: a single blank page is normal."""
NOISE = 0.1
"""Correlation of neighbouring pixels below which images are noise. It is 0.5 and more in photographs, drawings and
spectrograms; in noise about 0.13 by chance in an image of 8 x 8, and the mean over many images is much less."""
EDGE = 8
"""Minimum of pixels along an edge of an image."""

Digest = bytes


def rows(batches: Sequence[Batch]) -> Iterator[dict[str, Array]]:
    """Yield the samples one at a time; a batch that is a single sample is yielded as it is."""
    for batch in batches:
        if batch.count == 1:
            yield batch.feeds
            continue
        for index in range(batch.count):
            yield {name: array[index : index + 1] if array.ndim else array for name, array in batch.feeds.items()}


def digests(batches: Sequence[Batch]) -> list[Digest]:
    """Return a hash of each sample."""
    found = []
    for sample in rows(batches):
        digest = hashlib.blake2b(digest_size=16)
        for name, array in sorted(sample.items()):
            digest.update(f"{name} {array.shape} {array.dtype}".encode())
            content = str(array.tolist()).encode() if array.dtype == object else np.ascontiguousarray(array).tobytes()
            digest.update(content)
        found.append(digest.digest())
    return found


def check_values(batches: Sequence[Batch]) -> list[Diagnostic]:
    """Return warnings about samples that are duplicated, constant, or noise."""
    found: list[Diagnostic] = []
    count = sum(batch.count for batch in batches)
    if not count or sum(array.size for array in batches[0].feeds.values()) < SMALLEST * batches[0].count:
        return found
    copies = count - len(set(digests(batches)))
    if copies > SHARE * count:
        message = f"{copies} of {count} samples that were looked at are copies of others"
        hint = "they count twice, and part of them both calibrate and measure: leave them out"
        found.append(Diagnostic("duplicated-samples", message, hint))
    constant = sum(map(_constant, rows(batches)))
    if constant > SHARE * count:
        message = f"{constant} of {count} samples that were looked at hold a single value everywhere"
        hint = "see how they are read: an image of one value tells nothing"
        found.append(Diagnostic("constant-samples", message, hint))
    for name in batches[0].feeds:
        if _noise([batch.feeds[name] for batch in batches]):
            message = f"the input {name} looks like an image and like noise: neighbouring pixels have nothing in common"
            hint = "give real samples: on noise nothing is learned about the model, and nothing is measured"
            found.append(Diagnostic("random-samples", message, hint))
    return found


def _constant(sample: Mapping[str, Array]) -> bool:
    """Return whether every input of a sample has a single value; states and masks alone may."""
    return all(array.dtype.kind in "fiub" and bool((array == array.reshape(-1)[:1]).all()) for array in sample.values())


def _noise(arrays: Sequence[Array]) -> bool:
    """Return whether an input is an image whose pixels are unrelated to their neighbours."""
    first = arrays[0]
    if first.ndim != 4 or first.dtype.kind not in "fu":
        return False
    if first.shape[1] in (1, 3):
        axes = (2, 3)
    elif first.shape[3] in (1, 3):
        axes = (1, 2)
    else:
        return False
    if min(first.shape[axis] for axis in axes) < EDGE:
        return False
    correlations = [_correlation(array, axis) for array in arrays for axis in axes]
    return abs(float(np.concatenate(correlations).mean())) < NOISE


def _correlation(images: Array, axis: int) -> npt.NDArray[np.float64]:
    """Return the correlation of neighbouring pixels along an axis, [N]; 1 for constant images."""
    values = images.astype(np.float64)
    values = values - values.mean(axis=(1, 2, 3), keepdims=True)
    length = values.shape[axis]
    product = np.take(values, range(length - 1), axis) * np.take(values, range(1, length), axis)
    variance = np.square(values).mean(axis=(1, 2, 3))
    return np.asarray(np.divide(product.mean(axis=(1, 2, 3)), variance, out=np.ones(len(values)), where=variance > 0))
