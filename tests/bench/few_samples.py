"""What a budget keeps that few unlabelled images must carry: ResNet-18 on Fashion-MNIST, several seeds.

    python tests/bench/few_samples.py ZOO --seeds 5

256 training images are drawn with each seed and given as ``--data``, without labels; nothing else is said but the
passes and the budget. What was kept is then measured on all 10,000 test images with their labels. Prints a Markdown
table; with ``--forms`` the forms that were tried, too. Two idle cores take about four minutes a seed.
"""

from __future__ import annotations

import argparse
import logging
import pathlib
import tempfile
import time

import numpy as np
from zoo_images import fashion, large

import onnxslim
from onnxslim.runtime.session import Session

BATCH = 100


def top1(path: pathlib.Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images whose class a model finds."""
    session = Session.of(path)
    name = session.inputs[0].name
    right = 0
    for start in range(0, len(images), BATCH):
        piece = images[start : start + BATCH]
        (logits,) = session.run({name: large(piece)}).values()
        right += int((logits.argmax(1) == labels[start : start + BATCH]).sum())
    return right / len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--sorted", action="store_true", help="the images lie class by class")
    parser.add_argument("--passes", default="prune,lowrank,quant")
    parser.add_argument("--max-drop", type=float, default=0.01)
    parser.add_argument("--confidence", type=float, default=None)
    parser.add_argument("--test", type=int, default=10_000, help="how many test images measure the result")
    parser.add_argument("--no-measure", action="store_true", help="time nothing")
    parser.add_argument("--forms", action="store_true", help="print every form that was tried")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    model = options.zoo / "fashion" / "resnet18.onnx"
    train, classes = fashion(options.zoo, "train")
    test, labels = fashion(options.zoo, "t10k")
    test, labels = test[: options.test], labels[: options.test]
    before = top1(model, test, labels)
    print(
        f"resnet18: {100 * before:.2f} % of {len(test)} test images; -p {options.passes}, budget {options.max_drop}\n"
    )
    print("| seed | kept | times smaller | times faster | lost by estimate, points | lost on the test images | s |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    more = {} if options.confidence is None else {"confidence": options.confidence}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        chosen = np.random.default_rng(seed).choice(len(train), options.images, replace=False)
        if options.sorted:
            chosen = chosen[np.argsort(classes[chosen], kind="stable")]
        name = Session.of(model).inputs[0].name
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "slim.onnx"
            result = onnxslim.optimize(
                model,
                options.passes,
                data={name: large(train[chosen])},
                max_drop=options.max_drop,
                seed=seed,
                output=out,
                measure=not options.no_measure,
                **more,
            )
            seconds = time.perf_counter() - started
            after = top1(out, test, labels)
        report = result.report
        kept = ", ".join(f"{step.name} {_strength(step)}" for step in report.passes if step.kept and step.attempts)
        speed = report.ratio.latency
        loss = report.quality.loss
        print(
            f"| {seed} | {kept} | {report.ratio.size:.1f} "
            f"| {'-' if speed is None else f'{speed.value:.2f} ({speed.low:.2f} to {speed.high:.2f})'} "
            f"| {'-' if loss is None else f'{100 * loss.value:.2f} ({100 * loss.low:.2f} to {100 * loss.high:.2f})'} "
            f"| {100 * (before - after):.2f} | {seconds:.0f} |",
            flush=True,
        )
        if options.forms:
            for step in report.passes:
                print(f"    {step.name}: {step.reason} ({step.seconds:.1f} s)")
                for form in step.attempts:
                    lost = "-" if form.loss is None else f"{100 * form.loss.value:.2f}"
                    print(
                        f"      strength {form.strength:.3f}: lost {lost}, {form.size}, {form.seconds:.1f} s",
                        flush=True,
                    )


def _strength(step: onnxslim.pipeline.records.PassRecord) -> str:
    return next(f"{form.strength:.2f}" for form in step.attempts if form.kept)


if __name__ == "__main__":
    main()
