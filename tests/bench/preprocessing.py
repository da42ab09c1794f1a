"""Whether wrong preprocessing is named, and right preprocessing left in peace: draws of samples on three networks.

    python tests/bench/preprocessing.py ZOO --draws 50

Prints a Markdown table: for each network, way of preparing its images and number of samples, how many draws gave a
warning, and what the warnings call the mistake. Images of Fashion-MNIST are grey, so that BGR cannot be seen there.
"""

from __future__ import annotations

import argparse
import collections
import logging
import pathlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from zoo_images import CIFAR_DEVIATION, CIFAR_MEAN, FASHION_DEVIATION, FASHION_MEAN, cifar, fashion, large

from onnxslim.checks.preparation import PARTS, check_preparation
from onnxslim.data import Batch
from onnxslim.model import open_model
from onnxslim.runtime.session import Session

Images = npt.NDArray[np.float32]
NAMED = "look as if "
"""What stands before the mistake in a warning."""


def mistakes(mean: Images, deviation: Images, coloured: bool) -> dict[str, Callable[[Images], Images]]:
    """Return ways of preparing images that come rightly normalised, shape [N, 3, H, W]."""

    def plain(images: Images) -> Images:
        return images * deviation + mean

    ways: dict[str, Callable[[Images], Images]] = {
        "right": lambda images: images,
        "0..255": lambda images: plain(images) * np.float32(255),
        "no mean": lambda images: plain(images) / deviation,
    }
    return ways | ({"BGR": lambda images: images[:, ::-1]} if coloured else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=pathlib.Path)
    parser.add_argument("--draws", type=int, default=50, help="of rightly prepared images")
    parser.add_argument("--wrong", type=int, default=5, help="draws of wrongly prepared ones")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    zoo = options.zoo
    pixels, coloured = fashion(zoo, "train")[0][:3000], cifar(zoo, "cifar10_train_10k")[0]
    grey = mistakes(FASHION_MEAN, FASHION_DEVIATION, False)
    colour = mistakes(CIFAR_MEAN[:, None, None], CIFAR_DEVIATION[:, None, None], True)
    print("| network | images | samples | draws with a warning | named |\n| --- | --- | --- | --- | --- |", flush=True)
    for path, ways, count in (
        (zoo / "fashion" / "resnet18.onnx", grey, len(pixels)),
        (zoo / "onnx" / "cifar10_resnet56.onnx", colour, len(coloured)),
        (zoo / "onnx" / "cifar10_resnet20.onnx", colour, len(coloured)),
    ):
        model, name = open_model(path), Session.of(path).inputs[0].name
        for way, prepare in ways.items():
            for samples in (8, 64, 256):
                draws = options.draws if way == "right" else options.wrong
                named: collections.Counter[str] = collections.Counter()
                for seed in range(draws):
                    chosen = np.random.default_rng(seed).choice(count, samples, replace=False)
                    images = large(pixels[chosen]) if ways is grey else coloured[chosen]
                    images = np.ascontiguousarray(prepare(images), np.float32)
                    size = max(1, samples // PARTS)
                    batches = [Batch({name: images[at : at + size]}, None, size) for at in range(0, samples, size)]
                    for warning in check_preparation(model, batches, Session.of, 0):
                        named[warning.message.split(NAMED)[-1][:70] if NAMED in warning.message else "no name"] += 1
                words = "; ".join(f"{text} ({times})" for text, times in named.most_common())
                print(f"| {path.stem} | {way} | {samples} | {named.total()} of {draws} | {words} |", flush=True)


if __name__ == "__main__":
    main()
