"""Estimators of the accuracy that a model loses, on few samples without labels, beside each other.

    python tests/bench/estimators.py ZOO CACHE [resnet8 resnet18 resnet20 resnet56]

Candidates are made of each network (pruned, quantized, split, made sparse, harder and harder), and what they and the
original give for 10,000 labelled test images is kept in the folder CACHE: the first run takes about an hour, every
other one a minute. The true fall of top-1 is known from the labels; 200 draws of 64, 256 and 1,024 images without them
are given to each estimator. Prints for each network, over the candidates that truly lose 0.2 to 3 points: bias,
standard deviation and root mean square error in points; and how often "loses at most 1 %" is judged right, over all
candidates.
"""

from __future__ import annotations

import logging
import pathlib
import sys
import tempfile
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from zoo_images import cifar, fashion, large, small

import onnxslim
from onnxslim.quality.expected import CHANGE, FLIPPED, GAP, LOST, MARGIN, expected_drop, log_probabilities, normal_below
from onnxslim.runtime.session import Session

Array = npt.NDArray[np.float64]

DRAWS, SIZES, BUDGET, CALIBRATION = 200, (64, 256, 1024), 0.01, 192
NEAR = (0.002, 0.03)
"""Candidates that lose so much tell apart what is near the budget."""
COMMON = (
    "quant",
    *(f"prune:ratio={ratio}" for ratio in (0.1, 0.15, 0.2, 0.3, 0.4, 0.5)),
    *(f"lowrank:energy={energy}:pays=size" for energy in (0.99, 0.97, 0.95, 0.9)),
    *(f"sparsify:ratio={ratio}" for ratio in (0.4, 0.5, 0.6, 0.7)),
    "prune:ratio=0.2,quant",
)
CANDIDATES = {
    "resnet8": (*COMMON, "prune:ratio=0.3,quant"),
    "resnet18": (
        "quant",
        *(f"prune:ratio={ratio}" for ratio in (0.5, 0.7, 0.8)),
        *(f"prune:ratio={ratio},quant" for ratio in (0.5, 0.6, 0.7)),
    ),
    "resnet20": COMMON,
    "resnet56": (
        "quant",
        *(f"prune:ratio={ratio}" for ratio in (0.15, 0.3)),
        "prune:ratio=0.2,quant",
        *(f"sparsify:ratio={ratio}:method=magnitude" for ratio in (0.4, 0.5)),
        "lowrank:energy=0.97:pays=size:kinds=matrix+tucker",
    ),
}


def model_of(zoo: pathlib.Path, network: str) -> pathlib.Path:
    if network in ("resnet8", "resnet18"):
        return zoo / "fashion" / f"{network}.onnx"
    return zoo / "onnx" / f"cifar10_{network}.onnx"


def images_of(zoo: pathlib.Path, network: str) -> tuple[Array, Callable[[slice], Array], Array]:
    """Return training images that calibrate, what gives test images, and the labels of these."""
    generator = np.random.default_rng(0)
    if network in ("resnet8", "resnet18"):
        scaled = small if network == "resnet8" else large
        train, (test, labels) = fashion(zoo, "train")[0], fashion(zoo, "t10k")
        return scaled(train[generator.permutation(len(train))[:CALIBRATION]]), lambda part: scaled(test[part]), labels
    train, (images, labels) = cifar(zoo, "cifar10_train_10k")[0], cifar(zoo, "cifar10_test")
    return train[generator.permutation(len(train))[:CALIBRATION]], lambda part: images[part], labels


def logits(path: pathlib.Path, images: Callable[[slice], Array], count: int) -> Array:
    session = Session.of(path)
    name = session.inputs[0].name
    pieces = (images(slice(start, start + 100)) for start in range(0, count, 100))
    return np.concatenate([next(iter(session.run({name: piece}).values())) for piece in pieces])


def outputs_of(zoo: pathlib.Path, cache: pathlib.Path, network: str) -> tuple[Array, dict[str, Array], Array]:
    """Return the logits of the original and of each candidate, and the labels; made where they are not kept yet."""
    calibration, images, labels = images_of(zoo, network)
    path, found = model_of(zoo, network), {}
    for passes in ("", *CANDIDATES[network]):
        kept = cache / f"{network}.{passes.replace(':', '_').replace(',', '+') or 'original'}.npy"
        if not kept.exists():
            with tempfile.TemporaryDirectory() as folder:
                out = pathlib.Path(folder) / "out.onnx"
                if passes:
                    data = {Session.of(path).inputs[0].name: calibration}
                    onnxslim.optimize(path, passes, data=data, measure=False, output=out)
                np.save(kept, logits(out if passes else path, images, len(labels)))
        found[passes] = np.load(kept).astype(np.float64)
    return found.pop(""), found, labels


def kept_rows(reference: Array, candidate: Array) -> Array:
    """Return the rows of `onnxslim.quality.expected` for many samples at once, with three columns more."""
    own, given = log_probabilities(reference), log_probabilities(candidate)
    at, order = np.arange(len(own)), np.argsort(own, -1)
    best, second, chosen = order[:, -1], order[:, -2], given.argmax(1)
    shares, theirs = np.exp(own), np.exp(given)
    warm = np.exp(log_probabilities(reference / 2))
    rows = np.zeros((len(own), 8))
    rows[:, LOST] = shares[at, best] - shares[at, chosen]
    rows[:, MARGIN] = own[at, best] - own[at, second]
    rows[:, CHANGE] = given[at, best] - given[at, second] - rows[:, MARGIN]
    rows[:, GAP] = shares[at, best] - shares[at, second]
    rows[:, FLIPPED] = best != chosen
    rows[:, 5] = warm[at, best] - warm[at, chosen]
    rows[:, 6] = shares[at, best] - theirs[at, best]
    rows[:, 7] = shares.max(1) - theirs.max(1)
    return rows


def noise_alone(rows: Array, *, scaled: bool) -> float:
    """Return what noise of the margins is expected to cost, with the margins scaled by one factor, or as they are."""
    margin, change = rows[:, MARGIN], rows[:, CHANGE]
    slope = (margin * change).sum() / np.square(margin).sum() if scaled else 0.0
    noise = np.sqrt(np.square(change - slope * margin).mean())
    return float((normal_below(-(1 + slope) * margin / max(noise, 1e-12)) * rows[:, GAP]).mean())


ESTIMATORS: dict[str, Callable[[Array], float]] = {
    "flips": lambda rows: float(rows[:, FLIPPED].mean()),
    "belief lost by flips": lambda rows: float(rows[:, LOST].mean()),
    "the same, at temperature 2": lambda rows: float(rows[:, 5].mean()),
    "fall of the belief in the original's class": lambda rows: float(rows[:, 6].mean()),
    "fall of the mean confidence": lambda rows: float(rows[:, 7].mean()),
    "noise of the margin": lambda rows: noise_alone(rows, scaled=False),
    "noise of the margin, scaled": lambda rows: noise_alone(rows, scaled=True),
    "scaled noise, not below flips (chosen)": lambda rows: expected_drop(rows[:, :5]),
}


def main(zoo: str, cache: str, *networks: str) -> None:
    logging.disable(logging.WARNING)
    pathlib.Path(cache).mkdir(parents=True, exist_ok=True)
    for network in networks or tuple(CANDIDATES):
        reference, candidates, labels = outputs_of(pathlib.Path(zoo), pathlib.Path(cache), network)
        right = (reference.argmax(1) == labels).mean()
        losses = {passes: right - (made.argmax(1) == labels).mean() for passes, made in candidates.items()}
        near = sum(NEAR[0] < loss < NEAR[1] for loss in losses.values())
        print(f"\n{network}: {100 * right:.2f} %, {len(losses)} candidates, {near} of them near the budget\n")
        print("| estimator | images | bias | deviation | error | judged right, % |")
        print("| --- | --- | --- | --- | --- | --- |")
        rows = {passes: kept_rows(reference, made) for passes, made in candidates.items()}
        for size in SIZES:
            generator = np.random.default_rng(size)
            draws = [generator.choice(len(labels), size, replace=False) for _ in range(DRAWS)]
            for name, estimate in ESTIMATORS.items():
                errors, spreads, verdicts = [], [], []
                for passes, loss in losses.items():
                    found = np.array([estimate(rows[passes][draw]) for draw in draws])
                    verdicts.append(((found <= BUDGET) == (loss <= BUDGET)).mean())
                    if NEAR[0] < loss < NEAR[1]:
                        errors.append(found - loss)
                        spreads.append(found.std())
                off = np.array(errors)
                error = np.sqrt(np.square(off).mean())
                figures = [f"{100 * each:.2f}" for each in (off.mean(), np.mean(spreads), error)]
                print(f"| {name} | {size} | {' | '.join(figures)} | {100 * np.mean(verdicts):.1f} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
