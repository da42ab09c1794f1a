"""Makes the data that ship, and those that train and measure the model: python make_fashion.py IDX FOLDER

IDX is a folder with the IDX files of Fashion-MNIST (https://github.com/zalandoresearch/fashion-mnist, MIT licence).

    fashion_calib.npz           beside this file: 1,000 training images without labels
    fashion_test.npz            beside this file: the first 2,000 test images, with labels
    FOLDER/fashion_train.npz    all 60,000 training images, with labels
    FOLDER/fashion_test.npz     all 10,000 test images, with labels

`make fashion` calls it, and trains fashion_resnet8.onnxtxt, a small residual net, on the 60,000. Its input is `image`,
N x 1 x 28 x 28. Images are stored as uint8; `image.scale` and `image.offset` tell the loader how they become inputs:
(x / 255 - 0.2860) / 0.3530.
"""

from __future__ import annotations

import gzip
import pathlib
import sys

import numpy as np

MEAN, DEVIATION = 0.2860, 0.3530
HERE = pathlib.Path(__file__).resolve().parent
IMAGES_HEADER, LABELS_HEADER = 16, 8  # bytes in front of the data in an IDX file of rank 3 and 1


def read_images(path: pathlib.Path) -> np.ndarray:
    return np.frombuffer(gzip.decompress(path.read_bytes())[IMAGES_HEADER:], np.uint8).reshape(-1, 1, 28, 28)


def read_labels(path: pathlib.Path) -> np.ndarray:
    return np.frombuffer(gzip.decompress(path.read_bytes())[LABELS_HEADER:], np.uint8).astype(np.int64)


def main(idx: str, folder: str) -> None:
    files, out = pathlib.Path(idx), pathlib.Path(folder)
    scaling = {"image.scale": np.float32(1 / 255 / DEVIATION), "image.offset": np.float32(-MEAN / DEVIATION)}
    train, test = (read_images(files / f"{part}-images-idx3-ubyte.gz") for part in ("train", "t10k"))
    known, labels = (read_labels(files / f"{part}-labels-idx1-ubyte.gz") for part in ("train", "t10k"))
    chosen = np.random.default_rng(0).choice(len(train), 1000, replace=False)
    np.savez_compressed(HERE / "fashion_calib.npz", image=train[np.sort(chosen)], **scaling)
    np.savez_compressed(HERE / "fashion_test.npz", image=test[:2000], labels=labels[:2000], **scaling)
    np.savez(out / "fashion_train.npz", image=train, labels=known, **scaling)
    np.savez(out / "fashion_test.npz", image=test, labels=labels, **scaling)


if __name__ == "__main__":
    main(*sys.argv[1:])
