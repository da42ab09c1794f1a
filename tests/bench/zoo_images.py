"""Images of the zoo as inputs of its networks: Fashion-MNIST for ResNet-8 and -18, CIFAR-10 for ResNet-20 and -56."""

from __future__ import annotations

import gzip
import pathlib

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

FASHION_MEAN, FASHION_DEVIATION = np.float32(0.2860), np.float32(0.3530)
CIFAR_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
CIFAR_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
LARGE = 64
"""The edge of the images that ResNet-18 takes."""


def idx(path: pathlib.Path) -> npt.NDArray[np.uint8]:
    """Return the array of an IDX file. Source: http://yann.lecun.com/exdb/mnist, as Fashion-MNIST has it."""
    raw = gzip.decompress(path.read_bytes())
    rank = raw[3]
    shape = [int.from_bytes(raw[4 + 4 * at : 8 + 4 * at], "big") for at in range(rank)]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def fashion(zoo: pathlib.Path, part: str) -> tuple[npt.NDArray[np.uint8], Labels]:
    """Return images, shape [N, 28, 28], and labels of Fashion-MNIST; `part` is ``train`` or ``t10k``."""
    images, labels = (idx(zoo / "data" / f"{part}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    return images, labels.astype(np.int64)


def small(images: npt.NDArray[np.uint8]) -> Images:
    """Return images as ResNet-8 takes them, shape [N, 1, 28, 28]."""
    return ((images[:, None] / np.float32(255) - FASHION_MEAN) / FASHION_DEVIATION).astype(np.float32)


def large(images: npt.NDArray[np.uint8]) -> Images:
    """Return images as ResNet-18 takes them: bilinear with half-pixel centres, shape [N, 3, 64, 64]."""
    plain = small(images)[:, 0]
    edge = plain.shape[1]
    at = np.clip((np.arange(LARGE) + 0.5) * edge / LARGE - 0.5, 0, edge - 1)
    low = np.floor(at).astype(np.int64)
    high, part = np.minimum(low + 1, edge - 1), (at - low).astype(np.float32)
    rows = plain[:, low] * (1 - part)[None, :, None] + plain[:, high] * part[None, :, None]
    full = rows[:, :, low] * (1 - part) + rows[:, :, high] * part
    return np.repeat(full[:, None], 3, 1).astype(np.float32)


def cifar(zoo: pathlib.Path, name: str) -> tuple[Images, Labels]:
    """Return images, shape [N, 3, 32, 32], and labels of ``cifar10_test`` or ``cifar10_train_10k``."""
    with np.load(zoo / "data" / f"{name}.npz") as file:
        images, labels = file["x"], file["y"].astype(np.int64)
    return ((images / np.float32(255) - CIFAR_MEAN) / CIFAR_DEVIATION).transpose(0, 3, 1, 2).astype(np.float32), labels
