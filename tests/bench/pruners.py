"""Criteria of pruning beside each other, each with and without recovery, on the same calibration samples.

    python tests/bench/pruners.py cifar10_resnet56.onnx cifar:cifar10_train_10k.npz cifar:cifar10_test.npz 0.3,0.5

Samples are read as `classifier_samples.py` reads them, those of CIFAR-10 in an order drawn by chance; 256 of the first
file calibrate, and all of the second measure, or ``IMAGES`` of them where the environment says so. Names of criteria
may follow, to run only those, with options where they need some (``reconstruction:sensitivity=false``).
Options that are the same in every run go into the environment variable ``OPTIONS`` (``align=4``), and those of a
distillation that follows the recovery, from all of the first file without its labels, into ``DISTILL`` (``epochs=3``).
Prints a Markdown table; "won back" says how much of what the cut alone loses recovery wins back.
"""

from __future__ import annotations

import logging
import os
import pathlib
import sys
import tempfile

from classifier_samples import CALIBRATION, judge, read

import onnxslim
from onnxslim.runtime.session import Session

DEFAULTS = ("l1", "fpgm", "activation", "taylor", "fisher", "reconstruction:sensitivity=false", "reconstruction")
CUT_ONLY = ":compensate=false:refit=false"


def main(model: str, data: str, val: str, ratios: str, *names: str) -> None:
    logging.disable(logging.WARNING)
    original = Session.of(pathlib.Path(model))
    whole_source, held_out = read(data, original), read(val, original)
    calibration = whole_source.draw(CALIBRATION)
    if "IMAGES" in os.environ:
        held_out = held_out.draw(int(os.environ["IMAGES"]))
    whole = judge(original, original, held_out).figures[0].before.value
    print(f"{pathlib.Path(model).name}: {100 * whole:.2f} % before on {held_out.count} samples\n", flush=True)
    distill = os.environ.get("DISTILL", "")
    more_columns = " distilled, % |" if distill else ""
    print(f"| criterion | MACs removed, % | cut only, % | with recovery, % | lost, points | won back |{more_columns}")
    print("| --- | --- | --- | --- | --- | --- |" + " --- |" * bool(distill), flush=True)
    more = "".join(f":{option}" for option in os.environ.get("OPTIONS", "").split(":") if option)
    glance = held_out.draw(64)  # for the report; what the table says is measured below
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out.onnx")
        for ratio in ratios.split(","):
            for name in names or DEFAULTS:
                step = f"prune:ratio={ratio}:criterion={name}{more}"
                accuracies, removed = [], 0.0
                runs = [(CUT_ONLY, calibration), ("", calibration)]
                if distill:
                    runs.append((f",distill:{distill}", whole_source))
                for options, source in runs:
                    result = onnxslim.optimize(
                        model, step + options, data=source, val=glance, output=out, measure=False
                    )
                    removed = 1 - 1 / result.report.ratio.macs
                    session = Session.of(pathlib.Path(out))
                    accuracies.append(judge(original, session, held_out).figures[0].after.value)
                cut, recovered, *distilled = accuracies
                back = (recovered - cut) / (whole - cut) if cut < whole else float("nan")
                print(
                    f"| {name} | {100 * removed:.1f} | {100 * cut:.2f} | {100 * recovered:.2f} "
                    f"| {100 * (whole - recovered):.2f} | {100 * back:.0f} % |"
                    + "".join(f" {100 * share:.2f} |" for share in distilled),
                    flush=True,
                )


if __name__ == "__main__":
    main(*sys.argv[1:])
