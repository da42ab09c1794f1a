"""Looks at the samples themselves: those that hold nothing, noise, or the same as others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim.data import Batch
from onnxslim.diagnostic import Diagnostic

Array = npt.NDArray[Any]

SMALLEST = 16
"""Elements from which on a sample can be told from others."""
SHARE = 0.05
"""Copies or empty samples beyond this share are told: one blank page among many is none of our business."""
NOISE = 0.1
"""Neighbouring pixels of photographs, drawings and spectrograms correlate by 0.5 and more, those of noise by nothing:
by chance about 0.13 in an image of 8 by 8, the mean over many images much less."""
EDGE = 8
"""Pixels along an edge from which on an input is taken for an image."""

Digest = bytes


def rows(batches: Sequence[Batch]) -> Iterator[dict[str, Array]]:
    """Yield the samples one by one; a run that is a sample as a whole stays whole."""
    for batch in batches:
        if batch.count == 1:
            yield batch.feeds
            continue
        for at in range(batch.count):
            yield {name: array[at : at + 1] if array.ndim else array for name, array in batch.feeds.items()}


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
    """Return warnings about samples that are copies of others, hold a single value, or look like noise."""
    found: list[Diagnostic] = []
    count = sum(batch.count for batch in batches)
    if not count or sum(array.size for array in batches[0].feeds.values()) < SMALLEST * batches[0].count:
        return found
    copies = count - len(set(digests(batches)))
    if copies > SHARE * count:
        found.append(
            Diagnostic(
                "duplicated-samples",
                f"{copies} of {count} samples that were looked at are copies of others",
                "they count twice, and part of them both calibrate and measure: leave them out",
            )
        )
    constant = sum(map(_constant, rows(batches)))
    if constant > SHARE * count:
        found.append(
            Diagnostic(
                "constant-samples",
                f"{constant} of {count} samples that were looked at hold a single value everywhere",
                "see how they are read: an image of one value tells nothing",
            )
        )
    noisy = [name for name in batches[0].feeds if _noise([batch.feeds[name] for batch in batches])]
    found += [
        Diagnostic(
            "random-samples",
            f"the input {name} looks like an image, and like noise: neighbouring pixels have nothing in common",
            "give real samples: on noise nothing is learned about the model, and nothing is measured",
        )
        for name in noisy
    ]
    return found


def _constant(sample: Mapping[str, Array]) -> bool:
    """Whether all that a sample holds is one value for each input. States and masks may be, beside what is not."""
    return all(array.dtype.kind in "fiub" and bool((array == array.reshape(-1)[:1]).all()) for array in sample.values())


def _noise(arrays: Sequence[Array]) -> bool:
    """Whether an input holds images of which each pixel has nothing to do with its neighbours."""
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
    """Return for each image the correlation of pixels with their neighbours along an axis; 1 for constant ones."""
    values = images.astype(np.float64)
    values = values - values.mean(axis=(1, 2, 3), keepdims=True)
    length = values.shape[axis]
    product = np.take(values, range(length - 1), axis) * np.take(values, range(1, length), axis)
    variance = np.square(values).mean(axis=(1, 2, 3))
    return np.asarray(np.divide(product.mean(axis=(1, 2, 3)), variance, out=np.ones(len(values)), where=variance > 0))
