"""Makes the model and the data that ship: python make_fashion.py ZOO

ZOO is a folder with `fashion/resnet8.onnx`, a small residual net that was trained for this project on Fashion-MNIST
(https://github.com/zalandoresearch/fashion-mnist, MIT licence), and with the IDX files of that data set in `data/`.

    fashion_resnet8.onnx   the net; input `image`, N x 1 x 28 x 28, normalised as below; output `logits`
    fashion_calib.npz      1,000 training images without labels
    fashion_test.npz       the first 2,000 test images, with labels

Images are stored as uint8; `image.scale` and `image.offset` tell the loader how they become inputs:
(x / 255 - 0.2860) / 0.3530.
"""

from __future__ import annotations

import gzip
import pathlib
import shutil
import sys

import numpy as np

MEAN, DEVIATION = 0.2860, 0.3530
HERE = pathlib.Path(__file__).resolve().parent
IMAGES_HEADER, LABELS_HEADER = 16, 8  # bytes in front of the data in an IDX file of rank 3 and 1


def read_images(path: pathlib.Path) -> np.ndarray:
    return np.frombuffer(gzip.decompress(path.read_bytes())[IMAGES_HEADER:], np.uint8).reshape(-1, 1, 28, 28)


def read_labels(path: pathlib.Path) -> np.ndarray:
    return np.frombuffer(gzip.decompress(path.read_bytes())[LABELS_HEADER:], np.uint8).astype(np.int64)


def main(zoo: str) -> None:
    folder = pathlib.Path(zoo)
    scaling = {"image.scale": np.float32(1 / 255 / DEVIATION), "image.offset": np.float32(-MEAN / DEVIATION)}
    train = read_images(folder / "data" / "train-images-idx3-ubyte.gz")
    chosen = np.random.default_rng(0).choice(len(train), 1000, replace=False)
    np.savez_compressed(HERE / "fashion_calib.npz", image=train[np.sort(chosen)], **scaling)
    test = read_images(folder / "data" / "t10k-images-idx3-ubyte.gz")[:2000]
    labels = read_labels(folder / "data" / "t10k-labels-idx1-ubyte.gz")[:2000]
    np.savez_compressed(HERE / "fashion_test.npz", image=test, labels=labels, **scaling)
    shutil.copyfile(folder / "fashion" / "resnet8.onnx", HERE / "fashion_resnet8.onnx")


if __name__ == "__main__":
    main(*sys.argv[1:])
